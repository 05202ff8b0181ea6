// Causal attention in blocks, after FlashAttention (arXiv 2205.14135, 2307.08691): scores exist for
// one block of queries and one block of keys at a time, with a running maximum and sum per query.
// The backward recomputes them from the saved log-sum-exp.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/dispatch.h"
#include "backend/cpu/exp.h"
#include "backend/cpu/gemm.h"
#include "backend/cpu/parallel.h"

namespace switchyard {
namespace {

constexpr int64_t kQueryBlock = 64;
constexpr int64_t kKeyBlock = 128;

// What both directions need to know of the operands; one object per call.
template <typename Real>
struct Heads {
  const Real *query, *key, *value;
  const int32_t* first_visible;
  int64_t S, H, K, C;
  Real scale;

  Heads(Tensor q, Tensor k, Tensor v, Tensor visible, int64_t head_dim, int64_t sequence_length)
      : query(q.data<Real>()),
        key(k.data<Real>()),
        value(v.data<Real>()),
        first_visible(visible.data<int32_t>()),
        S(sequence_length),
        H(q.dim(1) / head_dim),
        K(k.dim(1) / head_dim),
        C(head_dim),
        scale(static_cast<Real>(1.0 / std::sqrt(static_cast<double>(head_dim)))) {}

  int64_t query_stride() const { return H * C; }
  int64_t key_stride() const { return K * C; }
  const Real* query_at(int64_t row, int64_t head) const { return query + row * H * C + head * C; }
  const Real* key_at(int64_t row, int64_t kv) const { return key + row * K * C + kv * C; }
  const Real* value_at(int64_t row, int64_t kv) const { return value + row * K * C + kv * C; }

  // First row that any query of [begin, end) may see, at the start of a key block of its sequence.
  int64_t first_key_block(int64_t sequence_begin, int64_t begin, int64_t end) const {
    const int32_t first = *std::min_element(first_visible + begin, first_visible + end);
    return sequence_begin + (first - sequence_begin) / kKeyBlock * kKeyBlock;
  }

  // scores (queries, keys) = scale * q k^T, minus infinity where a query does not see a key.
  void masked_scores(Real* scores, int64_t q_begin, int64_t q_end, int64_t k_begin, int64_t k_end,
                     int64_t head, int64_t kv) const {
    const int64_t width = k_end - k_begin;
    gemm(Transpose::kNo, Transpose::kYes, q_end - q_begin, width, C, scale, query_at(q_begin, head),
         query_stride(), key_at(k_begin, kv), key_stride(), Real{0}, scores, width);
    constexpr Real hidden = -std::numeric_limits<Real>::infinity();
    for (int64_t q = q_begin; q < q_end; ++q) {
      Real* row = scores + (q - q_begin) * width;
      const int64_t before = std::clamp<int64_t>(first_visible[q] - k_begin, 0, width);
      const int64_t after = std::clamp<int64_t>(q + 1 - k_begin, 0, width);
      std::fill(row, row + before, hidden);
      std::fill(row + after, row + width, hidden);
    }
  }
};

// One block of queries of one head, over all keys it sees.
template <typename Real>
class ForwardBlock {
 public:
  explicit ForwardBlock(const Heads<Real>& heads)
      : heads_(heads),
        scores_(kQueryBlock * kKeyBlock),
        sum_(static_cast<size_t>(kQueryBlock * heads.C)) {}

  void run(Real* out, Real* log_sum_exp, int64_t sequence_begin, int64_t begin, int64_t end,
           int64_t head) {
    const int64_t kv = head * heads_.K / heads_.H, C = heads_.C;
    std::fill(sum_.begin(), sum_.end(), Real{0});
    std::fill_n(maximum_, kQueryBlock, -std::numeric_limits<Real>::infinity());
    std::fill_n(total_, kQueryBlock, Real{0});
    for (int64_t key = heads_.first_key_block(sequence_begin, begin, end); key < end;
         key += kKeyBlock) {
      const int64_t key_end = std::min(key + kKeyBlock, end);
      heads_.masked_scores(scores_.data(), begin, end, key, key_end, head, kv);
      for (int64_t q = begin; q < end; ++q) softmax_row(q - begin, key_end - key);
      gemm(Transpose::kNo, Transpose::kNo, end - begin, C, key_end - key, Real{1}, scores_.data(),
           key_end - key, heads_.value_at(key, kv), heads_.key_stride(), Real{1}, sum_.data(), C);
    }
    for (int64_t q = begin; q < end; ++q) {
      const int64_t i = q - begin;
      Real* row = out + q * heads_.query_stride() + head * C;
      for (int64_t c = 0; c < C; ++c) row[c] = sum_[static_cast<size_t>(i * C + c)] / total_[i];
      log_sum_exp[q * heads_.H + head] = maximum_[i] + std::log(total_[i]);
    }
  }

 private:
  // scores -> exp(scores - maximum); earlier sums are rescaled when the maximum grows.
  void softmax_row(int64_t i, int64_t width) {
    Real* __restrict row = scores_.data() + i * width;
    Real largest = maximum_[i];
#pragma omp simd reduction(max : largest)
    for (int64_t k = 0; k < width; ++k) largest = row[k] > largest ? row[k] : largest;
    if (largest == -std::numeric_limits<Real>::infinity()) {  // the query sees nothing so far
      std::fill_n(row, width, Real{0});
      return;
    }
    Real total = 0;
#pragma omp simd reduction(+ : total)
    for (int64_t k = 0; k < width; ++k) {
      row[k] = fast_exp(row[k] - largest);
      total += row[k];
    }
    const Real correction = fast_exp(maximum_[i] - largest);
    total_[i] = total_[i] * correction + total;
    Real* __restrict sum = sum_.data() + i * heads_.C;
#pragma omp simd
    for (int64_t c = 0; c < heads_.C; ++c) sum[c] *= correction;
    maximum_[i] = largest;
  }

  const Heads<Real>& heads_;
  std::vector<Real> scores_, sum_;
  Real maximum_[kQueryBlock];
  Real total_[kQueryBlock];
};

// All query heads that share one key/value head of one sequence: its dk and dv are sums over those
// heads and over queries, in a fixed order.
template <typename Real>
class BackwardGroup {
 public:
  BackwardGroup(const Heads<Real>& heads, Tensor dquery, Tensor dkey, Tensor dvalue, Tensor dout,
                Tensor out, Tensor log_sum_exp)
      : heads_(heads),
        dquery_(dquery.data<Real>()),
        dkey_(dkey.data<Real>()),
        dvalue_(dvalue.data<Real>()),
        dout_(dout.data<Real>()),
        out_(out.data<Real>()),
        log_sum_exp_(log_sum_exp.data<Real>()),
        probs_(kQueryBlock * kKeyBlock),
        dscores_(kQueryBlock * kKeyBlock) {}

  void run(int64_t sequence_begin, int64_t kv) {
    const int64_t end = sequence_begin + heads_.S, group = heads_.H / heads_.K, C = heads_.C;
    clear(dkey_ + kv * C, heads_.key_stride(), sequence_begin, end);
    clear(dvalue_ + kv * C, heads_.key_stride(), sequence_begin, end);
    for (int64_t head = kv * group; head < (kv + 1) * group; ++head) {
      clear(dquery_ + head * C, heads_.query_stride(), sequence_begin, end);
      for (int64_t q = sequence_begin; q < end; q += kQueryBlock)
        query_block(sequence_begin, q, std::min(q + kQueryBlock, end), head, kv);
    }
  }

 private:
  void clear(Real* first_column, int64_t stride, int64_t begin, int64_t end) const {
    for (int64_t row = begin; row < end; ++row)
      std::fill_n(first_column + row * stride, heads_.C, Real{0});
  }

  // With P = exp(scores - lse): dV += P^T dO; dP = dO V^T; dS = P (dP - sum_c dO O);
  // dQ += scale dS K; dK += scale dS^T Q.
  void query_block(int64_t sequence_begin, int64_t begin, int64_t end, int64_t head, int64_t kv) {
    const int64_t C = heads_.C, qs = heads_.query_stride(), ks = heads_.key_stride();
    const int64_t queries = end - begin;
    const Real* dout = dout_ + begin * qs + head * C;
    for (int64_t i = 0; i < queries; ++i) delta_[i] = dot(dout + i * qs, out_at(begin + i, head));
    for (int64_t key = heads_.first_key_block(sequence_begin, begin, end); key < end;
         key += kKeyBlock) {
      const int64_t width = std::min(key + kKeyBlock, end) - key;
      heads_.masked_scores(probs_.data(), begin, end, key, key + width, head, kv);
      gemm(Transpose::kNo, Transpose::kYes, queries, width, C, Real{1}, dout, qs,
           heads_.value_at(key, kv), ks, Real{0}, dscores_.data(), width);
      for (int64_t i = 0; i < queries; ++i)
        score_gradient_row(i, width, log_sum_exp_[(begin + i) * heads_.H + head]);
      gemm(Transpose::kYes, Transpose::kNo, width, C, queries, Real{1}, probs_.data(), width, dout,
           qs, Real{1}, dvalue_ + key * ks + kv * C, ks);
      gemm(Transpose::kNo, Transpose::kNo, queries, C, width, heads_.scale, dscores_.data(), width,
           heads_.key_at(key, kv), ks, Real{1}, dquery_ + begin * qs + head * C, qs);
      gemm(Transpose::kYes, Transpose::kNo, width, C, queries, heads_.scale, dscores_.data(), width,
           heads_.query_at(begin, head), qs, Real{1}, dkey_ + key * ks + kv * C, ks);
    }
  }

  void score_gradient_row(int64_t i, int64_t width, Real log_sum_exp) {
    Real* __restrict probs = probs_.data() + i * width;
    Real* __restrict dscores = dscores_.data() + i * width;
    const Real delta = delta_[i];
#pragma omp simd
    for (int64_t k = 0; k < width; ++k) {
      probs[k] = fast_exp(probs[k] - log_sum_exp);
      dscores[k] = probs[k] * (dscores[k] - delta);
    }
  }

  const Real* out_at(int64_t row, int64_t head) const {
    return out_ + row * heads_.query_stride() + head * heads_.C;
  }

  Real dot(const Real* __restrict a, const Real* __restrict b) const {
    Real sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < heads_.C; ++c) sum += a[c] * b[c];
    return sum;
  }

  const Heads<Real>& heads_;
  Real *dquery_, *dkey_, *dvalue_;
  const Real *dout_, *out_, *log_sum_exp_;
  std::vector<Real> probs_, dscores_;
  Real delta_[kQueryBlock];
};

// cos and sin of position * theta^(-2i/C) for every token and i < C/2.
template <typename Real>
void rotate(int threads, Tensor x, Tensor position, int64_t C, double theta, double direction) {
  const int64_t half = C / 2, width = x.dim(1);
  std::vector<double> frequency;
  for (int64_t i = 0; i < half; ++i)
    frequency.push_back(std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(C)));
  parallel_for(threads, x.dim(0), rows_per_task(8 * width), [&](int64_t begin, int64_t end) {
    std::vector<Real> cosine(static_cast<size_t>(half)), sine(static_cast<size_t>(half));
    for (int64_t t = begin; t < end; ++t) {
      for (size_t i = 0; i < frequency.size(); ++i) {
        const double angle = position.data<int32_t>()[t] * frequency[i];
        cosine[i] = static_cast<Real>(std::cos(angle));
        sine[i] = static_cast<Real>(direction * std::sin(angle));
      }
      for (Real* head = x.data<Real>() + t * width; head < x.data<Real>() + (t + 1) * width;
           head += C) {
        Real* __restrict a = head;
        Real* __restrict b = head + half;
#pragma omp simd
        for (int64_t i = 0; i < half; ++i) {
          const Real first = a[i], second = b[i];
          a[i] = first * cosine[static_cast<size_t>(i)] - second * sine[static_cast<size_t>(i)];
          b[i] = second * cosine[static_cast<size_t>(i)] + first * sine[static_cast<size_t>(i)];
        }
      }
    }
  });
}

}  // namespace

void CpuOps::do_rope_forward(Queue, Tensor x, Tensor position, int64_t head_dim, double theta) {
  with_real(x.dtype(), [&](auto zero) {
    rotate<decltype(zero)>(num_threads_, x, position, head_dim, theta, 1.0);
  });
}

void CpuOps::do_rope_backward(Queue, Tensor dx, Tensor position, int64_t head_dim, double theta) {
  with_real(dx.dtype(), [&](auto zero) {
    rotate<decltype(zero)>(num_threads_, dx, position, head_dim, theta, -1.0);
  });
}

void CpuOps::do_attention_forward(Queue, Tensor out, Tensor log_sum_exp, Tensor query, Tensor key,
                                  Tensor value, Tensor first_visible, int64_t head_dim,
                                  int64_t sequence_length) {
  with_real(query.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    const Heads<Real> heads(query, key, value, first_visible, head_dim, sequence_length);
    const int64_t sequences = query.dim(0) / sequence_length;
    // Tasks are (sequence, head): their blocks of queries share the keys in cache.
    parallel_tasks(num_threads_, sequences * heads.H, [&](int64_t task) {
      const int64_t begin = task / heads.H * sequence_length, end = begin + sequence_length;
      ForwardBlock<Real> block(heads);
      for (int64_t q = begin; q < end; q += kQueryBlock)
        block.run(out.data<Real>(), log_sum_exp.data<Real>(), begin, q,
                  std::min(q + kQueryBlock, end), task % heads.H);
    });
  });
}

void CpuOps::do_attention_backward(Queue, Tensor dquery, Tensor dkey, Tensor dvalue, Tensor dout,
                                   Tensor out, Tensor log_sum_exp, Tensor query, Tensor key,
                                   Tensor value, Tensor first_visible, int64_t head_dim,
                                   int64_t sequence_length) {
  with_real(query.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    const Heads<Real> heads(query, key, value, first_visible, head_dim, sequence_length);
    const int64_t sequences = query.dim(0) / sequence_length;
    parallel_tasks(num_threads_, sequences * heads.K, [&](int64_t task) {
      BackwardGroup<Real>(heads, dquery, dkey, dvalue, dout, out, log_sum_exp)
          .run(task / heads.K * sequence_length, task % heads.K);
    });
  });
}

}  // namespace switchyard
