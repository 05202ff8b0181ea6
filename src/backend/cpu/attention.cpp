// Causal attention in blocks, after FlashAttention (arXiv 2205.14135, 2307.08691): scores exist for
// one block of queries and one block of keys at a time, with a running maximum and sum per query.
// The backward recomputes them from the saved log-sum-exp.
//
// BLAS reads f32 and f64 where they lie. Of bf16 operands a thread converts one block of queries,
// and the keys and values of one head of one sequence, into its scratch memory; their gradients are
// summed there and rounded once.
#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/exp.h"
#include "backend/cpu/gemm.h"
#include "backend/cpu/parallel.h"
#include "backend/cpu/storage.h"
#include "backend/dispatch.h"

namespace switchyard {
namespace {

constexpr int64_t kQueryBlock = 64;
constexpr int64_t kKeyBlock = 128;

template <typename Real>
inline constexpr bool kIsConverted = !std::is_same_v<Real, Compute<Real>>;

// Of `elements` of Real: how many a thread keeps a converted copy of.
template <typename Real>
int64_t elements_converted(int64_t elements) {
  return kIsConverted<Real> ? elements : 0;
}

// Rows of one head: a matrix whose rows are `stride` elements apart.
template <typename T>
struct Rows {
  T* data;
  int64_t stride;

  T* at(int64_t row) const { return data + row * stride; }
  Rows from(int64_t row) const { return {at(row), stride}; }
};

// One head of a tensor (T, heads * C), from a row on.
template <typename Real>
Rows<Real> head_rows(Tensor tensor, int64_t first_row, int64_t head, int64_t C) {
  return {tensor.data<Real>() + first_row * tensor.dim(1) + head * C, tensor.dim(1)};
}

// Rows that arithmetic can use: themselves, or room for them in `memory` (rows, C).
template <typename Real>
Rows<Compute<Real>> in_memory(Rows<Real> rows, int64_t C, Compute<Real>* memory) {
  if constexpr (kIsConverted<Real>)
    return {memory, C};
  else
    return rows;
}

template <typename Real>
Rows<Compute<Real>> loaded(Rows<Real> rows, int64_t count, int64_t C, Compute<Real>* memory) {
  const Rows<Compute<Real>> result = in_memory(rows, C, memory);
  if constexpr (kIsConverted<Real>)
    for (int64_t i = 0; i < count; ++i) convert_span(result.at(i), rows.at(i), C);
  return result;
}

template <typename Real>
Rows<Compute<Real>> zeros(Rows<Real> rows, int64_t count, int64_t C, Compute<Real>* memory) {
  const Rows<Compute<Real>> result = in_memory(rows, C, memory);
  for (int64_t i = 0; i < count; ++i) std::fill_n(result.at(i), C, Compute<Real>{0});
  return result;
}

// Brings sums from zeros() to where they belong.
template <typename Real>
void stored(Rows<Real> rows, Rows<Compute<Real>> sums, int64_t count, int64_t C) {
  if constexpr (kIsConverted<Real>)
    for (int64_t i = 0; i < count; ++i) convert_span(rows.at(i), sums.at(i), C);
}

// Hands out pieces of a thread's scratch memory.
template <typename T>
class Pieces {
 public:
  Pieces(Scratch& scratch, int64_t count) : next_(scratch.take<T>(count)) {}
  T* take(int64_t count) {
    next_ += count;
    return next_ - count;
  }

 private:
  T* next_;
};

// What both directions need to know of one sequence. Rows count from its first.
template <typename T>
struct Sequence {
  const int32_t* first_visible;
  int64_t begin, S, C;
  T scale;

  Sequence(Tensor visible, int64_t first_row, int64_t sequence_length, int64_t head_dim)
      : first_visible(visible.data<int32_t>() + first_row),
        begin(first_row),
        S(sequence_length),
        C(head_dim),
        scale(static_cast<T>(1.0 / std::sqrt(static_cast<double>(head_dim)))) {}

  int64_t visible_from(int64_t q) const { return first_visible[q] - begin; }

  // First row that any query of [q_begin, q_end) may see, at the start of a block of keys.
  int64_t first_key_block(int64_t q_begin, int64_t q_end) const {
    const int32_t first = *std::min_element(first_visible + q_begin, first_visible + q_end);
    return (first - begin) / kKeyBlock * kKeyBlock;
  }

  // scores (queries, keys) = scale * q k^T, minus infinity where a query does not see a key.
  void masked_scores(T* scores, Rows<T> query, int64_t q_begin, int64_t q_end, Rows<T> key,
                     int64_t k_begin, int64_t k_end) const {
    const int64_t width = k_end - k_begin;
    gemm(Transpose::kNo, Transpose::kYes, q_end - q_begin, width, C, scale, query.data,
         query.stride, key.at(k_begin), key.stride, T{0}, scores, width);
    constexpr T hidden = -std::numeric_limits<T>::infinity();
    for (int64_t q = q_begin; q < q_end; ++q) {
      T* row = scores + (q - q_begin) * width;
      const int64_t before = std::clamp<int64_t>(visible_from(q) - k_begin, 0, width);
      const int64_t after = std::clamp<int64_t>(q + 1 - k_begin, 0, width);
      std::fill(row, row + before, hidden);
      std::fill(row + after, row + width, hidden);
    }
  }
};

// One head of one sequence.
template <typename Real>
class ForwardHead {
 public:
  using T = Compute<Real>;

  ForwardHead(const Sequence<T>& sequence, Rows<Real> query, Rows<Real> key, Rows<Real> value,
              Scratch& scratch)
      : sequence_(sequence), query_(query) {
    const int64_t S = sequence.S, C = sequence.C;
    Pieces<T> pieces(scratch, kQueryBlock * (kKeyBlock + C) +
                                  elements_converted<Real>((kQueryBlock + 2 * S) * C));
    scores_ = pieces.take(kQueryBlock * kKeyBlock);
    sum_ = pieces.take(kQueryBlock * C);
    query_memory_ = pieces.take(elements_converted<Real>(kQueryBlock * C));
    key_ = loaded(key, S, C, pieces.take(elements_converted<Real>(S * C)));
    value_ = loaded(value, S, C, pieces.take(elements_converted<Real>(S * C)));
  }

  // One block of queries, over all keys it sees. log_sum_exp: of this head, H apart.
  void run(Rows<Real> out, Rows<T> log_sum_exp, int64_t begin, int64_t end) {
    const int64_t C = sequence_.C, queries = end - begin;
    const Rows<T> query = loaded(query_.from(begin), queries, C, query_memory_);
    std::fill_n(sum_, queries * C, T{0});
    std::fill_n(maximum_, queries, -std::numeric_limits<T>::infinity());
    std::fill_n(total_, queries, T{0});
    for (int64_t key = sequence_.first_key_block(begin, end); key < end; key += kKeyBlock) {
      const int64_t width = std::min(key + kKeyBlock, end) - key;
      sequence_.masked_scores(scores_, query, begin, end, key_, key, key + width);
      for (int64_t i = 0; i < queries; ++i) softmax_row(i, width);
      gemm(Transpose::kNo, Transpose::kNo, queries, C, width, T{1}, scores_, width, value_.at(key),
           value_.stride, T{1}, sum_, C);
    }
    for (int64_t i = 0; i < queries; ++i) {
      Real* row = out.at(begin + i);
      for (int64_t c = 0; c < C; ++c) store(row[c], sum_[i * C + c] / total_[i]);
      *log_sum_exp.at(begin + i) = maximum_[i] + std::log(total_[i]);
    }
  }

 private:
  // scores -> exp(scores - maximum); earlier sums are rescaled when the maximum grows.
  void softmax_row(int64_t i, int64_t width) {
    T* __restrict row = scores_ + i * width;
    T largest = maximum_[i];
#pragma omp simd reduction(max : largest)
    for (int64_t k = 0; k < width; ++k) largest = row[k] > largest ? row[k] : largest;
    if (largest == -std::numeric_limits<T>::infinity()) {  // the query sees nothing so far
      std::fill_n(row, width, T{0});
      return;
    }
    T total = 0;
#pragma omp simd reduction(+ : total)
    for (int64_t k = 0; k < width; ++k) {
      row[k] = fast_exp(row[k] - largest);
      total += row[k];
    }
    const T correction = fast_exp(maximum_[i] - largest);
    total_[i] = total_[i] * correction + total;
    T* __restrict sum = sum_ + i * sequence_.C;
#pragma omp simd
    for (int64_t c = 0; c < sequence_.C; ++c) sum[c] *= correction;
    maximum_[i] = largest;
  }

  const Sequence<T>& sequence_;
  Rows<Real> query_;
  Rows<T> key_, value_;
  T *scores_, *sum_, *query_memory_;
  T maximum_[kQueryBlock], total_[kQueryBlock];
};

// All query heads that share one key/value head of one sequence: its dk and dv are sums over those
// heads and over queries, in a fixed order.
template <typename Real>
class BackwardGroup {
 public:
  using T = Compute<Real>;

  BackwardGroup(const Sequence<T>& sequence, Rows<Real> key, Rows<Real> value, Rows<Real> dkey,
                Rows<Real> dvalue, Scratch& scratch)
      : sequence_(sequence), dkey_(dkey), dvalue_(dvalue) {
    const int64_t S = sequence.S, C = sequence.C;
    Pieces<T> pieces(scratch, 2 * kQueryBlock * kKeyBlock +
                                  elements_converted<Real>((3 * kQueryBlock + 4 * S) * C));
    probs_ = pieces.take(kQueryBlock * kKeyBlock);
    dscores_ = pieces.take(kQueryBlock * kKeyBlock);
    for (T*& memory : query_memory_)
      memory = pieces.take(elements_converted<Real>(kQueryBlock * C));
    key_ = loaded(key, S, C, pieces.take(elements_converted<Real>(S * C)));
    value_ = loaded(value, S, C, pieces.take(elements_converted<Real>(S * C)));
    dkey_sum_ = zeros(dkey, S, C, pieces.take(elements_converted<Real>(S * C)));
    dvalue_sum_ = zeros(dvalue, S, C, pieces.take(elements_converted<Real>(S * C)));
  }

  // One query head, block by block. log_sum_exp: of this head, H apart.
  void add_head(Rows<Real> dquery, Rows<Real> dout, Rows<Real> out, Rows<T> log_sum_exp,
                Rows<Real> query) {
    for (int64_t begin = 0; begin < sequence_.S; begin += kQueryBlock) {
      const int64_t end = std::min(begin + kQueryBlock, sequence_.S), queries = end - begin;
      const int64_t C = sequence_.C;
      const Rows<T> dout_block = loaded(dout.from(begin), queries, C, query_memory_[0]);
      const Rows<T> query_block = loaded(query.from(begin), queries, C, query_memory_[1]);
      const Rows<T> dquery_sum = zeros(dquery.from(begin), queries, C, query_memory_[2]);
      for (int64_t i = 0; i < queries; ++i) delta_[i] = dot(dout_block.at(i), out.at(begin + i));
      query_block_backward(dquery_sum, dout_block, query_block, log_sum_exp, begin, end);
      stored(dquery.from(begin), dquery_sum, queries, C);
    }
  }

  void finish() {
    stored(dkey_, dkey_sum_, sequence_.S, sequence_.C);
    stored(dvalue_, dvalue_sum_, sequence_.S, sequence_.C);
  }

 private:
  // With P = exp(scores - lse): dV += P^T dO; dP = dO V^T; dS = P (dP - sum_c dO O);
  // dQ += scale dS K; dK += scale dS^T Q.
  void query_block_backward(Rows<T> dquery, Rows<T> dout, Rows<T> query, Rows<T> log_sum_exp,
                            int64_t begin, int64_t end) {
    const int64_t C = sequence_.C, queries = end - begin;
    for (int64_t k = sequence_.first_key_block(begin, end); k < end; k += kKeyBlock) {
      const int64_t width = std::min(k + kKeyBlock, end) - k;
      sequence_.masked_scores(probs_, query, begin, end, key_, k, k + width);
      gemm(Transpose::kNo, Transpose::kYes, queries, width, C, T{1}, dout.data, dout.stride,
           value_.at(k), value_.stride, T{0}, dscores_, width);
      for (int64_t i = 0; i < queries; ++i)
        score_gradient_row(i, width, *log_sum_exp.at(begin + i));
      gemm(Transpose::kYes, Transpose::kNo, width, C, queries, T{1}, probs_, width, dout.data,
           dout.stride, T{1}, dvalue_sum_.at(k), dvalue_sum_.stride);
      gemm(Transpose::kNo, Transpose::kNo, queries, C, width, sequence_.scale, dscores_, width,
           key_.at(k), key_.stride, T{1}, dquery.data, dquery.stride);
      gemm(Transpose::kYes, Transpose::kNo, width, C, queries, sequence_.scale, dscores_, width,
           query.data, query.stride, T{1}, dkey_sum_.at(k), dkey_sum_.stride);
    }
  }

  void score_gradient_row(int64_t i, int64_t width, T log_sum_exp) {
    T* __restrict probs = probs_ + i * width;
    T* __restrict dscores = dscores_ + i * width;
    const T delta = delta_[i];
#pragma omp simd
    for (int64_t k = 0; k < width; ++k) {
      probs[k] = fast_exp(probs[k] - log_sum_exp);
      dscores[k] = probs[k] * (dscores[k] - delta);
    }
  }

  T dot(const T* __restrict a, const Real* __restrict b) const {
    T sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < sequence_.C; ++c) sum += a[c] * load(b[c]);
    return sum;
  }

  const Sequence<T>& sequence_;
  Rows<Real> dkey_, dvalue_;
  Rows<T> key_, value_, dkey_sum_, dvalue_sum_;
  T *probs_, *dscores_;
  T* query_memory_[3];
  T delta_[kQueryBlock];
};

}  // namespace

void CpuOps::do_attention_forward(Queue, Tensor out, Tensor log_sum_exp, Tensor query, Tensor key,
                                  Tensor value, Tensor first_visible, int64_t head_dim,
                                  int64_t sequence_length) {
  with_real(query.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    using T = Compute<Real>;
    const int64_t S = sequence_length, C = head_dim;
    const int64_t H = query.dim(1) / C, K = key.dim(1) / C;
    // Tasks are (sequence, head): their blocks of queries share the keys in cache.
    parallel_tasks(num_threads_, query.dim(0) / S * H, [&](int64_t task) {
      const int64_t first_row = task / H * S, head = task % H, kv = head * K / H;
      const Sequence<T> sequence(first_visible, first_row, S, C);
      ForwardHead<Real> forward(sequence, head_rows<Real>(query, first_row, head, C),
                                head_rows<Real>(key, first_row, kv, C),
                                head_rows<Real>(value, first_row, kv, C), scratch_);
      for (int64_t q = 0; q < S; q += kQueryBlock)
        forward.run(head_rows<Real>(out, first_row, head, C),
                    head_rows<T>(log_sum_exp, first_row, head, 1), q, std::min(q + kQueryBlock, S));
    });
  });
}

void CpuOps::do_attention_backward(Queue, Tensor dquery, Tensor dkey, Tensor dvalue, Tensor dout,
                                   Tensor out, Tensor log_sum_exp, Tensor query, Tensor key,
                                   Tensor value, Tensor first_visible, int64_t head_dim,
                                   int64_t sequence_length) {
  with_real(query.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    using T = Compute<Real>;
    const int64_t S = sequence_length, C = head_dim;
    const int64_t H = query.dim(1) / C, K = key.dim(1) / C;
    parallel_tasks(num_threads_, query.dim(0) / S * K, [&](int64_t task) {
      const int64_t first_row = task / K * S, kv = task % K;
      const auto rows = [&](Tensor tensor, int64_t head) {
        return head_rows<Real>(tensor, first_row, head, C);
      };
      const Sequence<T> sequence(first_visible, first_row, S, C);
      BackwardGroup<Real> group(sequence, rows(key, kv), rows(value, kv), rows(dkey, kv),
                                rows(dvalue, kv), scratch_);
      for (int64_t head = kv * (H / K); head < (kv + 1) * (H / K); ++head)
        group.add_head(rows(dquery, head), rows(dout, head), rows(out, head),
                       head_rows<T>(log_sum_exp, first_row, head, 1), rows(query, head));
      group.finish();
    });
  });
}

}  // namespace switchyard
