// The rows of expert dispatch: who gets which, packing, sorting by expert, and summing on return.
#include <algorithm>
#include <cstddef>

#include "backend/cuda/cuda_ops.h"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/reduce.cuh"
#include "backend/cuda/stable_places.cuh"
#include "backend/cuda/storage.cuh"

namespace switchyard {
namespace {

using namespace cuda;

constexpr int kWarps = 4;  // of a block; each looks after one row
constexpr int kThreads = kWarps * kWarpSize;

// ---- Rows that travel (ops.h) ----

// [D reals] padding [A gate weights or their gradients], and, of a dispatch row, [A local experts].
template <typename Real>
struct TravellingRows {
  std::byte* data;
  int64_t row_bytes, gate_offset;

  __device__ Real* hidden(int64_t n) const { return reinterpret_cast<Real*>(data + n * row_bytes); }
  __device__ Compute<Real>* gates(int64_t n) const {
    return reinterpret_cast<Compute<Real>*>(data + n * row_bytes + gate_offset);
  }
  __device__ int32_t* experts(int64_t n, int A) const {
    return reinterpret_cast<int32_t*>(gates(n) + A);
  }
};

template <typename Real>
TravellingRows<Real> travelling_rows(Tensor rows, int64_t D) {
  return {static_cast<std::byte*>(rows.raw()), rows.dim(1),
          row_gate_offset(D, DTypeOf<Real>::value)};
}

// The row of this warp; rows that do not exist are not negative but too large.
__device__ __forceinline__ int64_t row_of_warp() {
  return int64_t{blockIdx.x} * kWarps + warp_of_thread();
}

// The warp copies a row of D reals: in packets, of which a lane has several under way, or one by
// one.
template <typename Real>
__device__ __forceinline__ void copy_row(Real* __restrict__ target, const Real* __restrict__ source,
                                         int D, bool packets) {
  if (packets) {
    auto* to = reinterpret_cast<uint4*>(target);
    const auto* from = reinterpret_cast<const uint4*>(source);
    const int count = D / Packet<Real>::kSize;
#pragma unroll 4
    for (int i = lane_of_thread(); i < count; i += kWarpSize) to[i] = from[i];
  } else {
    for (int d = lane_of_thread(); d < D; d += kWarpSize) target[d] = source[d];
  }
}

// Zeros between the hidden state of a row and its gates, and from `used` to its end.
template <typename Real>
__device__ __forceinline__ void clear_padding(const TravellingRows<Real>& rows, int64_t n, int D,
                                              const void* used) {
  for (Real* real = rows.hidden(n) + D + lane_of_thread(); static_cast<void*>(real) < rows.gates(n);
       real += kWarpSize)
    store(*real, Compute<Real>{0});
  const auto* end = reinterpret_cast<const int32_t*>(rows.data + (n + 1) * rows.row_bytes);
  auto* rest = const_cast<int32_t*>(static_cast<const int32_t*>(used));
  for (rest += lane_of_thread(); rest < end; rest += kWarpSize) *rest = 0;
}

// ---- Plans ----

// Choices, by the peer that holds their expert. Bins [0, P): choices that are a token's first for
// this peer, which make it send a row; [P, 2 P): further ones.
struct SentChoices {
  static constexpr bool kHasStarts = true, kPlacesInBin = false;
  int32_t *send_row, *send_token, *counts;
  const int32_t* kept;
  int A, P, experts_per_peer;

  __device__ int bin(int64_t, int i) const {
    if (kept[i] < 0) return -1;
    const int peer = kept[i] / experts_per_peer, first_expert = peer * experts_per_peer;
    for (int j = i - i % A; j < i; ++j)
      if (kept[j] >= first_expert && kept[j] < first_expert + experts_per_peer) return P + peer;
    return peer;
  }
  __device__ void start(int64_t, int bin, int, const int* total) const {
    if (bin >= P) return;
    counts[bin] = total[bin];
    counts[P + bin] = total[bin] + total[P + bin];
  }
  __device__ void place(int64_t, int i, int bin, int place) const {
    if (bin < 0 || bin >= P) return;
    const int token = i / A;
    send_row[int64_t{token} * P + bin] = place;
    send_token[place] = token;
  }
};

// Received choices, by local expert. One bin more than there are experts, empty: it starts where
// the last expert ends.
template <typename Real>
struct ReceivedChoices {
  static constexpr bool kHasStarts = true, kPlacesInBin = false;
  int32_t *begin, *source_row, *row_of_choice;
  Compute<Real>* gate;
  TravellingRows<Real> rows;
  int A;

  __device__ int bin(int64_t, int i) const { return rows.experts(i / A, A)[i % A]; }
  __device__ void start(int64_t, int bin, int start, const int*) const { begin[bin] = start; }
  __device__ void place(int64_t, int i, int bin, int place) const {
    row_of_choice[i] = place;
    if (bin < 0) return;
    source_row[place] = i / A;
    gate[place] = rows.gates(i / A)[i % A];
  }
};

// ---- Packing ----

template <typename Real>
struct PackedRows {
  TravellingRows<Real> rows;
  const Real* x;
  const Compute<Real>* weight;
  const int32_t *kept, *send_token, *send_row;
  int64_t N;
  int D, A, P, experts_per_peer;
  bool packets;
};

// One warp for each row that is sent. A choice belongs to the row that its token sends to the peer
// of its expert. Reads N (D Real + A (Compute + 2 i32) + 1 i32), writes N row_bytes.
template <typename Real>
__global__ void __launch_bounds__(kThreads) pack_rows_kernel(PackedRows<Real> p) {
  const int64_t n = row_of_warp();
  if (n >= p.N) return;
  const int64_t t = p.send_token[n];
  copy_row(p.rows.hidden(n), p.x + t * p.D, p.D, p.packets);
  Compute<Real>* gates = p.rows.gates(n);
  int32_t* experts = p.rows.experts(n, p.A);
  for (int a = lane_of_thread(); a < p.A; a += kWarpSize) {
    const int expert = p.kept[t * p.A + a], peer = expert / p.experts_per_peer;
    const bool here = expert >= 0 && p.send_row[t * p.P + peer] == n;
    gates[a] = here ? p.weight[t * p.A + a] : Compute<Real>{0};
    experts[a] = here ? expert - peer * p.experts_per_peer : -1;
  }
  clear_padding(p.rows, n, p.D, experts + p.A);
}

// One warp for each row. Reads N (D Real + A Compute), writes N row_bytes.
template <typename Real>
__global__ void __launch_bounds__(kThreads)
    pack_row_gradients_kernel(TravellingRows<Real> rows, const Real* __restrict__ dx,
                              const Compute<Real>* __restrict__ dgate, int64_t N, int D, int A,
                              bool packets) {
  const int64_t n = row_of_warp();
  if (n >= N) return;
  copy_row(rows.hidden(n), dx + n * D, D, packets);
  Compute<Real>* gates = rows.gates(n);
  for (int a = lane_of_thread(); a < A; a += kWarpSize) gates[a] = dgate[n * A + a];
  clear_padding(rows, n, D, gates + A);
}

// out[r] = in[index[r]]: one warp for each row. Rows of `in` may be longer than D. Reads R (D Real
// + 1 i32), writes R D Real.
template <typename Real>
__global__ void __launch_bounds__(kThreads)
    gather_rows_kernel(Real* __restrict__ out, const std::byte* __restrict__ in,
                       int64_t in_row_bytes, const int32_t* __restrict__ index, int64_t R, int D,
                       bool packets) {
  const int64_t r = row_of_warp();
  if (r >= R) return;
  copy_row(out + r * D, reinterpret_cast<const Real*>(in + index[r] * in_row_bytes), D, packets);
}

// One thread for each slot. Reads N A (i32 + Real), writes N A Real.
template <typename Real>
__global__ void __launch_bounds__(kThreads)
    gather_slots_kernel(Real* __restrict__ slots, const Real* __restrict__ value,
                        const int32_t* __restrict__ index, int64_t numel) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= numel) return;
  slots[i] = index[i] < 0 ? Real{0} : value[index[i]];
}

// ---- Sums of rows ----

// The indices >= 0 of index[0, J), in their order; returns how many there are.
__device__ __forceinline__ int collect_rows(int* list, const int32_t* __restrict__ index, int J) {
  int count = 0;
  for (int first = 0; first < J; first += kWarpSize) {
    const int j = first + lane_of_thread();
    const int row = j < J ? index[j] : -1;
    const unsigned valid = __ballot_sync(kWholeWarp, row >= 0 ? 1 : 0);
    if (row >= 0) list[count + __popc(valid & lanes_below())] = row;
    count += __popc(valid);
  }
  __syncwarp();
  return count;
}

// In ascending order: each goes behind all that are smaller. There are few.
__device__ __forceinline__ void sort_rows(int* sorted, const int* list, int count) {
  for (int k = lane_of_thread(); k < count; k += kWarpSize) {
    int rank = 0;
    for (int j = 0; j < count; ++j) rank += list[j] < list[k] || (list[j] == list[k] && j < k);
    sorted[rank] = list[k];
  }
  __syncwarp();
}

// out = sum of the rows in[row[0]], in[row[1]], ... in this order, in f32 (f64 for f64). A lane has
// one packet of columns at a time, and loads of several rows under way.
template <typename Real>
__device__ __forceinline__ void sum_rows(Real* __restrict__ out, const std::byte* __restrict__ in,
                                         int64_t in_row_bytes, const int* row, int count, int D,
                                         bool packets) {
  const auto element = [&](int k, int d) {
    return reinterpret_cast<const Real*>(in + row[k] * in_row_bytes) + d;
  };
  if (packets) {
    constexpr int kSize = Packet<Real>::kSize;
    for (int d = lane_of_thread() * kSize; d < D; d += kWarpSize * kSize) {
      Packet<Real> total{};
#pragma unroll 4
      for (int k = 0; k < count; ++k) {
        const Packet<Real> summand = load_packet(element(k, d));
#pragma unroll
        for (int i = 0; i < kSize; ++i) total.value[i] += summand.value[i];
      }
      store_packet(out + d, total);
    }
  } else {
    for (int d = lane_of_thread(); d < D; d += kWarpSize) {
      Compute<Real> total{0};
      for (int k = 0; k < count; ++k) total += load(*element(k, d));
      store(out[d], total);
    }
  }
}

// One warp for each row of `out`; its indices are collected and sorted in shared memory. Reads N J
// i32 and as many rows of D Real as there are indices >= 0, writes N D Real.
template <typename Real>
__global__ void __launch_bounds__(kThreads)
    combine_rows_kernel(Real* __restrict__ out, const std::byte* __restrict__ in,
                        const int32_t* __restrict__ index, int64_t N, int J, int D, bool packets) {
  DYNAMIC_SHARED(shared);
  const int64_t n = int64_t{blockIdx.x} * (blockDim.x / kWarpSize) + warp_of_thread();
  if (n >= N) return;
  int* list = reinterpret_cast<int*>(shared) + 2 * J * warp_of_thread();
  int* sorted = list + J;
  const int count = collect_rows(list, index + n * J, J);
  sort_rows(sorted, list, count);
  sum_rows(out + n * D, in, D * static_cast<int64_t>(sizeof(Real)), sorted, count, D, packets);
}

template <typename Real>
struct ReturnedRows {
  Real* dx;
  Compute<Real>* dweight;
  TravellingRows<Real> rows;
  const int32_t *send_row, *kept;
  int64_t T;
  int D, A, P, experts_per_peer;
  bool packets;
};

// One warp for each token; the rows of its peers are summed in the order of the peers. Reads T (P +
// A) i32, T A Compute and as many rows of D Real as were sent, writes T (D Real + A Compute).
template <typename Real>
__global__ void __launch_bounds__(kThreads) unpack_row_gradients_kernel(ReturnedRows<Real> p) {
  DYNAMIC_SHARED(shared);
  const int64_t t = int64_t{blockIdx.x} * (blockDim.x / kWarpSize) + warp_of_thread();
  if (t >= p.T) return;
  int* list = reinterpret_cast<int*>(shared) + p.P * warp_of_thread();
  const int32_t* row_of = p.send_row + t * p.P;
  const int count = collect_rows(list, row_of, p.P);
  sum_rows(p.dx + t * p.D, p.rows.data, p.rows.row_bytes, list, count, p.D, p.packets);
  for (int a = lane_of_thread(); a < p.A; a += kWarpSize) {
    const int expert = p.kept[t * p.A + a];
    p.dweight[t * p.A + a] =
        expert < 0 ? Compute<Real>{0} : p.rows.gates(row_of[expert / p.experts_per_peer])[a];
  }
}

template <typename Real>
int64_t bytes_of(int64_t D) {
  return D * static_cast<int64_t>(sizeof(Real));
}

// Blocks of warps that each have `row_bytes` of shared memory, one for each of n rows.
LaunchShape warp_per_row(int64_t n, int64_t row_bytes = 0) {
  const int warps = warps_with_shared(row_bytes, kWarps);
  return {blocks_for(n, warps), static_cast<unsigned>(warps * kWarpSize),
          static_cast<size_t>(warps * row_bytes)};
}

// All bytes of -1 are the same.
void fill_with_minus_one(cudaStream_t stream, Tensor x) {
  if (x.numel() > 0)
    CUDA_CHECK(
        cudaMemsetAsync(x.raw(), 0xFF, static_cast<size_t>(x.numel()) * sizeof(int32_t), stream));
}

}  // namespace

void CudaOps::do_plan_send(Queue q, Tensor send_row, Tensor send_token, Tensor counts, Tensor kept,
                           int64_t experts_per_peer) {
  const cudaStream_t stream = device_.stream(q);
  const int64_t P = send_row.dim(1);
  fill_with_minus_one(stream, send_row);
  fill_with_minus_one(stream, send_token);
  const StableCut cut = cut_items(1, kept.numel(), 2 * P);
  place_stably(stream,
               SentChoices{.send_row = send_row.data<int32_t>(),
                           .send_token = send_token.data<int32_t>(),
                           .counts = counts.data<int32_t>(),
                           .kept = kept.data<int32_t>(),
                           .A = static_cast<int>(kept.dim(1)),
                           .P = static_cast<int>(P),
                           .experts_per_peer = static_cast<int>(experts_per_peer)},
               cut, 1, device_.scratch(q, stable_places_bytes(cut, 1)));
}

void CudaOps::do_pack_rows(Queue q, Tensor rows, Tensor x, Tensor weight, Tensor kept,
                           Tensor send_token, Tensor send_row, int64_t experts_per_peer) {
  with_real(x.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    const int64_t D = x.dim(1), N = rows.dim(0);
    launch(device_.stream(q), pack_rows_kernel<Real>, warp_per_row(N),
           PackedRows<Real>{.rows = travelling_rows<Real>(rows, D),
                            .x = x.data<Real>(),
                            .weight = weight.data<Compute<Real>>(),
                            .kept = kept.data<int32_t>(),
                            .send_token = send_token.data<int32_t>(),
                            .send_row = send_row.data<int32_t>(),
                            .N = N,
                            .D = static_cast<int>(D),
                            .A = static_cast<int>(kept.dim(1)),
                            .P = static_cast<int>(send_row.dim(1)),
                            .experts_per_peer = static_cast<int>(experts_per_peer),
                            .packets = fits_packets(bytes_of<Real>(D), x.raw(), rows.raw())});
  });
}

void CudaOps::do_plan_receive(Queue q, Tensor begin, Tensor source_row, Tensor gate,
                              Tensor row_of_choice, Tensor rows, int64_t model_width, DType real) {
  with_real(real, [&](auto zero) {
    using Real = decltype(zero);
    const StableCut cut = cut_items(1, row_of_choice.numel(), begin.numel());
    place_stably(device_.stream(q),
                 ReceivedChoices<Real>{.begin = begin.data<int32_t>(),
                                       .source_row = source_row.data<int32_t>(),
                                       .row_of_choice = row_of_choice.data<int32_t>(),
                                       .gate = gate.data<Compute<Real>>(),
                                       .rows = travelling_rows<Real>(rows, model_width),
                                       .A = static_cast<int>(row_of_choice.dim(1))},
                 cut, 1, device_.scratch(q, stable_places_bytes(cut, 1)));
  });
}

void CudaOps::do_unpack_rows(Queue q, Tensor x, Tensor rows, Tensor source_row) {
  with_real(x.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    const int64_t R = x.dim(0), D = x.dim(1);
    launch(device_.stream(q), gather_rows_kernel<Real>, warp_per_row(R), x.data<Real>(),
           static_cast<const std::byte*>(rows.raw()), rows.dim(1), source_row.data<int32_t>(), R,
           static_cast<int>(D), fits_packets(bytes_of<Real>(D), x.raw(), rows.raw()));
  });
}

void CudaOps::do_combine_rows(Queue q, Tensor out, Tensor in, Tensor index) {
  with_real(in.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    const int64_t N = index.dim(0), J = index.dim(1), D = in.dim(1);
    launch(device_.stream(q), combine_rows_kernel<Real>,
           warp_per_row(N, 2 * J * static_cast<int64_t>(sizeof(int))), out.data<Real>(),
           static_cast<const std::byte*>(in.raw()), index.data<int32_t>(), N, static_cast<int>(J),
           static_cast<int>(D), fits_packets(bytes_of<Real>(D), out.raw(), in.raw()));
  });
}

void CudaOps::do_gather_rows(Queue q, Tensor out, Tensor in, Tensor index) {
  with_real(in.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    const int64_t R = out.dim(0), D = in.dim(1);
    launch(device_.stream(q), gather_rows_kernel<Real>, warp_per_row(R), out.data<Real>(),
           static_cast<const std::byte*>(in.raw()), bytes_of<Real>(D), index.data<int32_t>(), R,
           static_cast<int>(D), fits_packets(bytes_of<Real>(D), out.raw(), in.raw()));
  });
}

void CudaOps::do_gather_slots(Queue q, Tensor slots, Tensor value, Tensor index) {
  with_accumulator(value.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    launch(device_.stream(q), gather_slots_kernel<Real>,
           {blocks_for(index.numel(), kThreads), kThreads}, slots.data<Real>(), value.data<Real>(),
           index.data<int32_t>(), index.numel());
  });
}

void CudaOps::do_pack_row_gradients(Queue q, Tensor rows, Tensor dx, Tensor dgate) {
  with_real(dx.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    const int64_t N = dx.dim(0), D = dx.dim(1);
    launch(device_.stream(q), pack_row_gradients_kernel<Real>, warp_per_row(N),
           travelling_rows<Real>(rows, D), dx.data<Real>(), dgate.data<Compute<Real>>(), N,
           static_cast<int>(D), static_cast<int>(dgate.dim(1)),
           fits_packets(bytes_of<Real>(D), dx.raw(), rows.raw()));
  });
}

void CudaOps::do_unpack_row_gradients(Queue q, Tensor dx, Tensor dweight, Tensor rows,
                                      Tensor send_row, Tensor kept, int64_t experts_per_peer) {
  with_real(dx.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    const int64_t T = dx.dim(0), D = dx.dim(1), P = send_row.dim(1);
    launch(device_.stream(q), unpack_row_gradients_kernel<Real>,
           warp_per_row(T, P * static_cast<int64_t>(sizeof(int))),
           ReturnedRows<Real>{.dx = dx.data<Real>(),
                              .dweight = dweight.data<Compute<Real>>(),
                              .rows = travelling_rows<Real>(rows, D),
                              .send_row = send_row.data<int32_t>(),
                              .kept = kept.data<int32_t>(),
                              .T = T,
                              .D = static_cast<int>(D),
                              .A = static_cast<int>(kept.dim(1)),
                              .P = static_cast<int>(P),
                              .experts_per_peer = static_cast<int>(experts_per_peer),
                              .packets = fits_packets(bytes_of<Real>(D), dx.raw(), rows.raw())});
  });
}

}  // namespace switchyard
