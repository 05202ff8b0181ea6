// The rows of expert dispatch: who gets which, packing, sorting by expert, and summing on return.
#include <algorithm>
#include <cstring>
#include <vector>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/parallel.h"
#include "backend/cpu/storage.h"
#include "backend/dispatch.h"

namespace switchyard {
namespace {

// The parts of a dispatch row (ops.h): [D reals] padding [A gate weights][A local expert ids].
template <typename Real>
struct DispatchRow {
  std::byte* bytes;
  int64_t D, A;

  Real* hidden() const { return reinterpret_cast<Real*>(bytes); }
  Compute<Real>* gates() const {
    return reinterpret_cast<Compute<Real>*>(bytes + row_gate_offset(D, DTypeOf<Real>::value));
  }
  int32_t* experts() const { return reinterpret_cast<int32_t*>(gates() + A); }
};

// The parts of a gradient row: [D reals] padding [A gate-weight gradients].
template <typename Real>
struct GradientRow {
  std::byte* bytes;
  int64_t D;

  Real* hidden() const { return reinterpret_cast<Real*>(bytes); }
  Compute<Real>* gates() const {
    return reinterpret_cast<Compute<Real>*>(bytes + row_gate_offset(D, DTypeOf<Real>::value));
  }
};

std::byte* row_bytes(Tensor rows, int64_t row) {
  return reinterpret_cast<std::byte*>(rows.data<uint8_t>()) + row * rows.dim(1);
}

void clear(void* begin, void* end) {
  std::fill(static_cast<std::byte*>(begin), static_cast<std::byte*>(end), std::byte{0});
}

// Rows are summed in stripes of this many columns, which a thread holds in its accumulator dtype.
constexpr int64_t kStripe = 512;

// out = sum of the rows in[index[j]] with index[j] >= 0, in ascending order of index.
template <typename Real>
void sum_rows(Real* __restrict out, const Real* in, const int32_t* index, int64_t J, int64_t D,
              int64_t stripe) {
  Compute<Real> total[kStripe];
  const int64_t width = std::min(kStripe, D - stripe);
  // Selection in ascending order: J is the number of experts per token, or of peers.
  int32_t previous = -1;
  bool empty = true;
  for (;;) {
    int32_t next = -1;
    for (int64_t j = 0; j < J; ++j)
      if (index[j] > previous && (next < 0 || index[j] < next)) next = index[j];
    if (next < 0) break;
    const Real* __restrict row = in + next * D + stripe;
    if (empty) {
      convert_span(total, row, width);
    } else {
#pragma omp simd
      for (int64_t d = 0; d < width; ++d) total[d] += load(row[d]);
    }
    empty = false;
    previous = next;
  }
  if (empty) std::fill_n(total, width, Compute<Real>{0});
  convert_span(out + stripe, total, width);
}

// dx = sum over the peers that the token went to, in ascending order, of what they returned.
template <typename Real>
void sum_returned(Real* __restrict dx, Tensor rows, const int32_t* row_of, int64_t P, int64_t D,
                  int64_t stripe) {
  Compute<Real> total[kStripe] = {};
  const int64_t width = std::min(kStripe, D - stripe);
  for (int64_t peer = 0; peer < P; ++peer) {
    if (row_of[peer] < 0) continue;
    const Real* __restrict returned =
        GradientRow<Real>{row_bytes(rows, row_of[peer]), D}.hidden() + stripe;
#pragma omp simd
    for (int64_t d = 0; d < width; ++d) total[d] += load(returned[d]);
  }
  convert_span(dx + stripe, total, width);
}

}  // namespace

void CpuOps::do_plan_send(Queue, Tensor send_row, Tensor send_token, Tensor counts, Tensor kept,
                          int64_t experts_per_peer) {
  const int64_t T = kept.dim(0), A = kept.dim(1), P = send_row.dim(1);
  int32_t* rows_to = counts.data<int32_t>();
  int32_t* choices_to = rows_to + P;
  int32_t* row_of = send_row.data<int32_t>();
  std::fill_n(rows_to, 2 * P, 0);
  std::fill_n(row_of, T * P, -1);
  for (int64_t t = 0; t < T; ++t)
    for (int64_t a = 0; a < A; ++a) {
      const int32_t expert = kept.data<int32_t>()[t * A + a];
      if (expert < 0) continue;
      const int64_t peer = expert / experts_per_peer;
      SY_CHECK(peer < P, "expert {} would live on peer {} of {}", expert, peer, P);
      ++choices_to[peer];
      if (row_of[t * P + peer] >= 0) continue;
      row_of[t * P + peer] = 0;  // marked; numbered below
      ++rows_to[peer];
    }
  std::fill_n(send_token.data<int32_t>(), send_token.numel(), -1);
  int32_t row = 0;
  for (int64_t peer = 0; peer < P; ++peer)
    for (int64_t t = 0; t < T; ++t) {
      if (row_of[t * P + peer] < 0) continue;
      row_of[t * P + peer] = row;
      send_token.data<int32_t>()[row++] = static_cast<int32_t>(t);
    }
}

void CpuOps::do_pack_rows(Queue, Tensor rows, Tensor x, Tensor weight, Tensor kept,
                          Tensor send_token, Tensor send_row, int64_t experts_per_peer) {
  with_real(x.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    const int64_t D = x.dim(1), A = kept.dim(1), P = send_row.dim(1);
    parallel_for(num_threads_, rows.dim(0), rows_per_task(2 * D), [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        const int64_t t = send_token.data<int32_t>()[n];
        const int32_t* row_of = send_row.data<int32_t>() + t * P;
        const int64_t peer = std::find(row_of, row_of + P, n) - row_of;
        const DispatchRow<Real> row{row_bytes(rows, n), D, A};
        std::copy_n(x.data<Real>() + t * D, D, row.hidden());
        clear(row.hidden() + D, row.gates());
        for (int64_t a = 0; a < A; ++a) {
          const int32_t expert = kept.data<int32_t>()[t * A + a];
          const bool here = expert >= 0 && expert / experts_per_peer == peer;
          row.gates()[a] = here ? weight.data<Compute<Real>>()[t * A + a] : Compute<Real>{0};
          row.experts()[a] = here ? static_cast<int32_t>(expert - peer * experts_per_peer) : -1;
        }
        clear(row.experts() + A, row.bytes + rows.dim(1));
      }
    });
  });
}

void CpuOps::do_plan_receive(Queue, Tensor begin, Tensor source_row, Tensor gate,
                             Tensor row_of_choice, Tensor rows, int64_t model_width, DType real) {
  with_real(real, [&](auto zero) {
    using Real = decltype(zero);
    const int64_t N = rows.dim(0), A = row_of_choice.dim(1), L = begin.numel() - 1;
    // Counting sort by expert: counts, starts, then places in received order.
    std::vector<int32_t> next(static_cast<size_t>(L + 1), 0);
    for (int64_t n = 0; n < N; ++n) {
      const DispatchRow<Real> row{row_bytes(rows, n), model_width, A};
      for (int64_t a = 0; a < A; ++a) {
        const int32_t expert = row.experts()[a];
        SY_CHECK(expert >= -1 && expert < L, "received local expert {} of {}", expert, L);
        if (expert >= 0) ++next[static_cast<size_t>(expert) + 1];
      }
    }
    for (size_t e = 1; e < next.size(); ++e) next[e] += next[e - 1];
    SY_CHECK(next.back() == gate.numel(), "received {} expert rows, {} were announced", next.back(),
             gate.numel());
    std::copy(next.begin(), next.end(), begin.data<int32_t>());
    for (int64_t n = 0; n < N; ++n) {
      const DispatchRow<Real> row{row_bytes(rows, n), model_width, A};
      for (int64_t a = 0; a < A; ++a) {
        const int32_t expert = row.experts()[a];
        int32_t& place = row_of_choice.data<int32_t>()[n * A + a];
        place = expert < 0 ? -1 : next[static_cast<size_t>(expert)]++;
        if (place < 0) continue;
        source_row.data<int32_t>()[place] = static_cast<int32_t>(n);
        gate.data<Compute<Real>>()[place] = row.gates()[a];
      }
    }
  });
}

void CpuOps::do_unpack_rows(Queue, Tensor x, Tensor rows, Tensor source_row) {
  with_real(x.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    const int64_t D = x.dim(1);
    parallel_for(num_threads_, x.dim(0), rows_per_task(D), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r)
        std::memcpy(x.data<Real>() + r * D, row_bytes(rows, source_row.data<int32_t>()[r]),
                    static_cast<size_t>(D) * sizeof(Real));
    });
  });
}

void CpuOps::do_combine_rows(Queue, Tensor out, Tensor in, Tensor index) {
  with_real(in.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    const int64_t D = in.dim(1), J = index.dim(1);
    parallel_for(num_threads_, index.dim(0), rows_per_task(2 * D), [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n)
        for (int64_t stripe = 0; stripe < D; stripe += kStripe)
          sum_rows(out.data<Real>() + n * D, in.data<Real>(), index.data<int32_t>() + n * J, J, D,
                   stripe);
    });
  });
}

void CpuOps::do_gather_rows(Queue, Tensor out, Tensor in, Tensor index) {
  with_real(in.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    const int64_t D = in.dim(1);
    parallel_for(num_threads_, out.dim(0), rows_per_task(D), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r)
        std::copy_n(in.data<Real>() + index.data<int32_t>()[r] * D, D, out.data<Real>() + r * D);
    });
  });
}

void CpuOps::do_gather_slots(Queue, Tensor slots, Tensor value, Tensor index) {
  with_accumulator(value.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    for (int64_t i = 0; i < index.numel(); ++i) {
      const int32_t place = index.data<int32_t>()[i];
      slots.data<Real>()[i] = place < 0 ? zero : value.data<Real>()[place];
    }
  });
}

void CpuOps::do_pack_row_gradients(Queue, Tensor rows, Tensor dx, Tensor dgate) {
  with_real(dx.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    const int64_t D = dx.dim(1), A = dgate.dim(1);
    parallel_for(num_threads_, rows.dim(0), rows_per_task(2 * D), [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        const GradientRow<Real> row{row_bytes(rows, n), D};
        std::copy_n(dx.data<Real>() + n * D, D, row.hidden());
        clear(row.hidden() + D, row.gates());
        std::copy_n(dgate.data<Compute<Real>>() + n * A, A, row.gates());
        clear(row.gates() + A, row.bytes + rows.dim(1));
      }
    });
  });
}

void CpuOps::do_unpack_row_gradients(Queue, Tensor dx, Tensor dweight, Tensor rows, Tensor send_row,
                                     Tensor kept, int64_t experts_per_peer) {
  with_real(dx.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    const int64_t T = dx.dim(0), D = dx.dim(1), A = kept.dim(1), P = send_row.dim(1);
    parallel_for(num_threads_, T, rows_per_task(2 * D), [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        const int32_t* row_of = send_row.data<int32_t>() + t * P;
        for (int64_t stripe = 0; stripe < D; stripe += kStripe)
          sum_returned(dx.data<Real>() + t * D, rows, row_of, P, D, stripe);
        for (int64_t a = 0; a < A; ++a) {
          const int32_t expert = kept.data<int32_t>()[t * A + a];
          dweight.data<Compute<Real>>()[t * A + a] =
              expert < 0 ? Compute<Real>{0}
                         : GradientRow<Real>{row_bytes(rows, row_of[expert / experts_per_peer]), D}
                               .gates()[a];
        }
      }
    });
  });
}

}  // namespace switchyard
