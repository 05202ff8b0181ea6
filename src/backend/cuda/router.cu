// Router: scores, top-k, the statistics of the balance loss, and the gradient of all of it.
#include <cmath>
#include <limits>

#include "backend/cuda/choose.cuh"
#include "backend/cuda/cuda_ops.h"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/scope_sums.cuh"
#include "backend/cuda/storage.cuh"
#include "core/math.h"

namespace switchyard {
namespace {

using namespace cuda;

constexpr int kMaxWarps = 4;  // of a block; each looks after one token at a time
constexpr int kThreads = kMaxWarps * kWarpSize;
constexpr int kSumThreads = 512;  // of the one block that adds up what is left

// Of loops with exp and log, and blocks for which a multiprocessor must have registers: loops of
// f64 are long, and would spill.
template <typename Real>
inline constexpr int kUnroll = sizeof(Real) == sizeof(double) ? 1 : 4;
template <typename Real>
inline constexpr int kMinBlocks = sizeof(Real) == sizeof(double) ? 4 : 8;

// Precise exp everywhere, as on the CPU: these few numbers decide routes.
template <typename Real>
__device__ __forceinline__ Real sigmoid(Real x) {
  const Real z = std::exp(-std::abs(x));
  return (x >= 0 ? Real{1} : z) / (1 + z);
}

// What divides the scores of a row to give the probabilities of the balance loss. Sigmoids may all
// underflow: then the probabilities are zero.
template <typename Real>
__device__ __forceinline__ Real total_of_probs(const Real* scores, int E, RouterScore score) {
  if (score == RouterScore::kSoftmax) return 1;
  Real total = 0;
  for (int e = lane_of_thread(); e < E; e += kWarpSize) total += scores[e];
  return warp_sum(total) + std::numeric_limits<Real>::min();
}

// What divides the scores of the chosen to give their weights.
template <typename Real>
__device__ __forceinline__ Real total_of_chosen(const Real* scores, const int32_t* chosen, int A,
                                                const RouterRule& rule) {
  if (!rule.normalize) return 1;
  Real total = 0;
  for (int a = lane_of_thread(); a < A; a += kWarpSize) total += scores[chosen[a]];
  return warp_sum(total) +
         (rule.score == RouterScore::kSigmoid ? static_cast<Real>(1e-20) : Real{0});
}

// ---- Forward ----

// The shared memory of one token.
template <typename Real>
struct TokenRow {
  uint64_t* key;        // E
  uint64_t* group_key;  // num_groups
  Real* score;          // E
};

template <typename Real>
int64_t token_row_bytes(int64_t E, const RouterRule& rule) {
  return round_up((E + rule.num_groups) * static_cast<int64_t>(sizeof(uint64_t)) +
                      E * static_cast<int64_t>(sizeof(Real)),
                  16);
}

template <typename Real>
struct RouterForward {
  Real *probs, *lse, *score, *weight;
  int32_t* expert;
  const Real* logits;
  const double* bias;  // may be null
  double* partial;     // (blocks, 2): sums of lse^2 and of entropies
  RouterRule rule;
  int64_t T;
  int E, A;
  int row_bytes;
  bool expert_is_given;
};

// Scores of the logits of one token, and their log-sum-exp.
template <typename Real>
__device__ __forceinline__ Real score_row(Real* score, const Real* logits, int E,
                                          RouterScore kind) {
  const int lane = lane_of_thread();
  Real largest = -std::numeric_limits<Real>::infinity(), total = 0;
  for (int e = lane; e < E; e += kWarpSize) {
    score[e] = logits[e];
    largest = score[e] > largest ? score[e] : largest;
  }
  largest = warp_max(largest);
#pragma unroll kUnroll < Real>
  for (int e = lane; e < E; e += kWarpSize) {
    const Real shifted = std::exp(score[e] - largest);
    total += shifted;
    score[e] = kind == RouterScore::kSoftmax ? shifted : sigmoid(score[e]);
  }
  total = warp_sum(total);
  if (kind == RouterScore::kSoftmax) {
    const Real inverse = 1 / total;
    for (int e = lane; e < E; e += kWarpSize) score[e] *= inverse;
  }
  return largest + std::log(total);
}

// The sum of the two largest of `size` keys. Lanes begin at different ones: the groups of
// neighbours often start in the same bank of shared memory.
__device__ __forceinline__ double sum_of_two_largest(const uint64_t* key, int size) {
  uint64_t first = kTakenKey, second = kTakenKey;
  int at = lane_of_thread() % size;
  for (int i = 0; i < size; ++i) {
    second = key[at] > first ? first : (key[at] > second ? key[at] : second);
    first = key[at] > first ? key[at] : first;
    at = at + 1 == size ? 0 : at + 1;
  }
  return number_of(first) + number_of(second);
}

// Minus infinity in place of the keys outside the best groups; a lane judges a group.
__device__ __forceinline__ void leave_best_groups(uint64_t* key, uint64_t* group_key, int E,
                                                  const RouterRule& rule) {
  const int G = static_cast<int>(rule.num_groups), size = E / G;
  __syncwarp();
  for (int g = lane_of_thread(); g < G; g += kWarpSize)
    group_key[g] = key_of(sum_of_two_largest(key + g * size, size));
  choose_largest(nullptr, group_key, G, static_cast<int>(rule.top_groups));
  const uint64_t lowest = key_of(-std::numeric_limits<double>::infinity());
  for (int e = lane_of_thread(); e < E; e += kWarpSize)
    if (group_key[e / size] != kTakenKey) key[e] = lowest;
}

template <typename Real>
__device__ __forceinline__ void choose_experts(int32_t* chosen, const TokenRow<Real>& row,
                                               const RouterForward<Real>& p) {
  for (int e = lane_of_thread(); e < p.E; e += kWarpSize)
    row.key[e] = key_of(static_cast<double>(row.score[e]) + (p.bias == nullptr ? 0.0 : p.bias[e]));
  if (p.rule.top_groups < p.rule.num_groups) leave_best_groups(row.key, row.group_key, p.E, p.rule);
  choose_largest(chosen, row.key, p.E, p.A);
}

// Writes probs; returns this lane's part of the entropy.
template <typename Real>
__device__ __forceinline__ double entropy_of_lane(Real* probs, const Real* score, int E,
                                                  RouterScore kind) {
  const Real inverse = 1 / total_of_probs(score, E, kind);
  Real entropy = 0;
#pragma unroll kUnroll < Real>
  for (int e = lane_of_thread(); e < E; e += kWarpSize) {
    probs[e] = score[e];
    if (const Real p = score[e] * inverse; p > 0) entropy -= p * std::log(p);
  }
  return static_cast<double>(entropy);
}

// One warp for each token, in turns; neighbouring lanes take neighbouring experts, whose scores and
// keys stand in shared memory. Scores and weights in Real (f32 or f64), summed over lanes in a
// tree; entropies in f64 from the lanes on. Group limits as in DeepSeek-V3 (arXiv 2412.19437).
// Reads T E Real (logits), writes T (E + 1 + 2 A) Real and T A i32.
template <typename Real>
__global__ void __launch_bounds__(kThreads, kMinBlocks<Real>)
    router_forward_kernel(RouterForward<Real> p) {
  DYNAMIC_SHARED(shared);
  SHARED_ARRAY(double, sums_of_warp, 2 * kMaxWarps);
  const int lane = lane_of_thread(), warp = warp_of_thread();
  const int warps = static_cast<int>(blockDim.x) / kWarpSize;
  TokenRow<Real> row;
  row.key = reinterpret_cast<uint64_t*>(shared + warp * p.row_bytes);
  row.group_key = row.key + p.E;
  row.score = reinterpret_cast<Real*>(row.group_key + p.rule.num_groups);
  double z_sum = 0, entropy = 0;  // z_sum is the same in all lanes
  for (int64_t t = int64_t{blockIdx.x} * warps + warp; t < p.T; t += int64_t{gridDim.x} * warps) {
    const Real log_sum = score_row(row.score, p.logits + t * p.E, p.E, p.rule.score);
    z_sum += static_cast<double>(log_sum) * static_cast<double>(log_sum);
    if (lane == 0) p.lse[t] = log_sum;
    entropy += entropy_of_lane(p.probs + t * p.E, row.score, p.E, p.rule.score);
    int32_t* chosen = p.expert + t * p.A;
    if (!p.expert_is_given) choose_experts(chosen, row, p);
    __syncwarp();  // scores and choices of all lanes
    const Real factor =
        static_cast<Real>(p.rule.scale) / total_of_chosen(row.score, chosen, p.A, p.rule);
    for (int a = lane; a < p.A; a += kWarpSize) {
      const Real score = row.score[chosen[a]];
      p.score[t * p.A + a] = score;
      p.weight[t * p.A + a] = score * factor;
    }
    __syncwarp();  // the row is free for the next token
  }
  entropy = warp_sum(entropy);
  if (lane == 0) {
    sums_of_warp[2 * warp] = z_sum;
    sums_of_warp[2 * warp + 1] = entropy;
  }
  __syncthreads();
  if (threadIdx.x >= 2) return;
  double total = 0;
  for (int w = 0; w < warps; ++w) total += sums_of_warp[2 * w + static_cast<int>(threadIdx.x)];
  p.partial[2 * int64_t{blockIdx.x} + threadIdx.x] = total;
}

// z_sum and entropy_sum += the sums of all blocks, in the order of the threads of one block. Reads
// 2 f64 for each block.
__global__ void __launch_bounds__(kSumThreads)
    add_router_sums_kernel(double* z_sum, double* entropy_sum, const double* partial,
                           int num_blocks) {
  double z = 0, entropy = 0;
  for (int i = static_cast<int>(threadIdx.x); i < num_blocks; i += kSumThreads) {
    z += partial[2 * i];
    entropy += partial[2 * i + 1];
  }
  z = block_sum<kSumThreads>(z);
  entropy = block_sum<kSumThreads>(entropy);
  if (threadIdx.x != 0) return;
  *z_sum += z;
  *entropy_sum += entropy;
}

// ---- Statistics and the balance loss ----

// A row of the sums over tokens (scope_sums.cuh): the probabilities, and how often experts occur.
template <typename Real>
struct ChoiceStatistics {
  static constexpr bool kCounts = true;
  const Real* probs;
  const int32_t* expert;
  int E, A;
  RouterScore score;

  __device__ double factor(int64_t t, int64_t) const {
    return 1 / static_cast<double>(total_of_probs(probs + t * E, E, score));
  }
  __device__ double value(int64_t t, int e) const { return static_cast<double>(probs[t * E + e]); }
  __device__ void count(int64_t t, int* counts) const {
    for (int a = lane_of_thread(); a < A; a += kWarpSize) atomicAdd(&counts[expert[t * A + a]], 1);
  }
};

// prob_gradient = scale * count. One block: S E is small. Its sum runs in the order of the threads.
// Reads 2 S E f64, writes S E.
__global__ void __launch_bounds__(kSumThreads)
    balance_loss_kernel(double* loss_sum, double* __restrict__ prob_gradient,
                        const double* __restrict__ count, const double* __restrict__ prob_sum,
                        int64_t numel, double scale) {
  double loss = 0;
  for (int64_t i = threadIdx.x; i < numel; i += kSumThreads) {
    const double gradient = scale * count[i];
    prob_gradient[i] = gradient;
    loss += gradient * prob_sum[i];
  }
  loss = block_sum<kSumThreads>(loss);
  if (threadIdx.x == 0) *loss_sum += loss;
}

// ---- Backward ----

template <typename Real>
struct RouterBackward {
  Real* dlogits;
  const Real *dweight, *weight, *probs, *lse, *logits;
  const int32_t* expert;
  const double* prob_gradient;
  RouterRule rule;
  ScopeRange scopes;
  int E, A;
  double balance_scale, z_scale;
};

// u = scores * dL/dscores of one token. Balance: with P = scores / total and b = balance_scale *
// prob_gradient, u = P (b - sum b P). Weights, of the chosen only: weight_a = scale p_a / sum p
// when normalised, so dp_a = (scale dw_a - sum_b dw_b w_b) / sum p.
template <typename Real>
__device__ __forceinline__ void scaled_gradient(Real* u, const Real* scores, int64_t t,
                                                const RouterBackward<Real>& p) {
  const int lane = lane_of_thread();
  const double* gradient = p.prob_gradient + p.scopes.scope_of(t) * p.E;
  const Real total = total_of_probs(scores, p.E, p.rule.score);
  Real mean = 0;
  for (int e = lane; e < p.E; e += kWarpSize) {
    u[e] = static_cast<Real>(p.balance_scale * gradient[e]);
    mean += u[e] * (scores[e] / total);
  }
  mean = warp_sum(mean);
  for (int e = lane; e < p.E; e += kWarpSize) u[e] = (u[e] - mean) * (scores[e] / total);

  const int32_t* chosen = p.expert + t * p.A;
  const Real *weight = p.weight + t * p.A, *dweight = p.dweight + t * p.A;
  Real dot = 0;
  if (p.rule.normalize) {
    for (int a = lane; a < p.A; a += kWarpSize) dot += dweight[a] * weight[a];
    dot = warp_sum(dot);
  }
  const Real sum = total_of_chosen(scores, chosen, p.A, p.rule);
  __syncwarp();  // u of all lanes; the experts of a token differ
  for (int a = lane; a < p.A; a += kWarpSize)
    u[chosen[a]] += scores[chosen[a]] / sum * (static_cast<Real>(p.rule.scale) * dweight[a] - dot);
  __syncwarp();
}

// From u = scores * dL/dscores: u - p sum u for the softmax, (1 - s) u for sigmoids. The z-loss
// adds 2 z_scale lse softmax(logits). One warp for each token; u stands in shared memory, scores
// are read again from the cache. Reads T (E + 2 A + 1) Real and T A i32, of sigmoids T E more;
// writes T E Real.
template <typename Real>
__global__ void __launch_bounds__(kThreads) router_backward_kernel(RouterBackward<Real> p) {
  DYNAMIC_SHARED(shared);
  const int lane = lane_of_thread(), warp = warp_of_thread();
  const int64_t t = int64_t{blockIdx.x} * (blockDim.x / kWarpSize) + warp;
  if (t >= p.scopes.num_rows) return;
  Real* u = reinterpret_cast<Real*>(shared) + warp * p.E;
  const Real* scores = p.probs + t * p.E;
  scaled_gradient(u, scores, t, p);
  const Real log_sum = p.lse[t], z = static_cast<Real>(2 * p.z_scale) * log_sum;
  Real* dlogits = p.dlogits + t * p.E;
  if (p.rule.score == RouterScore::kSoftmax) {
    Real sum = 0;
    for (int e = lane; e < p.E; e += kWarpSize) sum += u[e];
    sum = warp_sum(sum);
    for (int e = lane; e < p.E; e += kWarpSize) dlogits[e] = u[e] + scores[e] * (z - sum);
  } else {
    const Real* logits = p.logits + t * p.E;
    for (int e = lane; e < p.E; e += kWarpSize)
      dlogits[e] = (1 - scores[e]) * u[e] + z * std::exp(logits[e] - log_sum);
  }
}

}  // namespace

void CudaOps::do_router_forward(Queue q, Tensor probs, Tensor lse, Tensor expert, Tensor score,
                                Tensor weight, Tensor z_sum, Tensor entropy_sum, Tensor logits,
                                Tensor bias, const RouterRule& rule, bool expert_is_given) {
  with_accumulator(logits.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    const int64_t T = logits.dim(0), E = logits.dim(1), A = expert.dim(1);
    const int64_t row_bytes = token_row_bytes<Real>(E, rule);
    const int warps = warps_with_shared(row_bytes, kMaxWarps);
    const unsigned blocks = striding_blocks(T, warps);
    auto* partial = reinterpret_cast<double*>(
        device_.scratch(q, 2 * int64_t{blocks} * static_cast<int64_t>(sizeof(double))));
    launch(
        device_.stream(q), router_forward_kernel<Real>,
        {blocks, static_cast<unsigned>(warps * kWarpSize), static_cast<size_t>(warps * row_bytes)},
        RouterForward<Real>{.probs = probs.data<Real>(),
                            .lse = lse.data<Real>(),
                            .score = score.data<Real>(),
                            .weight = weight.data<Real>(),
                            .expert = expert.data<int32_t>(),
                            .logits = logits.data<Real>(),
                            .bias = data_or_null<double>(bias),
                            .partial = partial,
                            .rule = rule,
                            .T = T,
                            .E = static_cast<int>(E),
                            .A = static_cast<int>(A),
                            .row_bytes = static_cast<int>(row_bytes),
                            .expert_is_given = expert_is_given});
    if (T > 0)
      launch(device_.stream(q), add_router_sums_kernel, {1, kSumThreads}, z_sum.data<double>(),
             entropy_sum.data<double>(), static_cast<const double*>(partial),
             static_cast<int>(blocks));
  });
}

void CudaOps::do_router_statistics(Queue q, Tensor count, Tensor prob_sum, Tensor expert,
                                   Tensor probs, RouterScore score, int64_t first_row,
                                   int64_t rows_per_scope) {
  with_accumulator(probs.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    const int64_t S = count.dim(0), E = probs.dim(1);
    const ScopePieces cut = cut_scopes({probs.dim(0), first_row, rows_per_scope}, S);
    const ChoiceStatistics<Real> row{probs.data<Real>(), expert.data<int32_t>(),
                                     static_cast<int>(E), static_cast<int>(expert.dim(1)), score};
    std::byte* scratch = device_.scratch(q, scope_sums_bytes<ChoiceStatistics<Real>>(cut, S, E));
    add_up_scopes(device_.stream(q), prob_sum.data<double>(), count.data<double>(), row, cut, S, E,
                  scratch);
  });
}

void CudaOps::do_balance_loss(Queue q, Tensor loss_sum, Tensor prob_gradient, Tensor count,
                              Tensor prob_sum, int64_t tokens_per_scope, int64_t counted_tokens,
                              int64_t top_k) {
  const double choices = static_cast<double>(top_k) * static_cast<double>(counted_tokens);
  const double scale =
      static_cast<double>(count.dim(1)) / choices / static_cast<double>(tokens_per_scope);
  launch(device_.stream(q), balance_loss_kernel, {1, kSumThreads}, loss_sum.data<double>(),
         prob_gradient.data<double>(), count.data<double>(), prob_sum.data<double>(), count.numel(),
         scale);
}

void CudaOps::do_router_backward(Queue q, Tensor dlogits, Tensor dweight, Tensor expert,
                                 Tensor weight, Tensor probs, Tensor lse, Tensor logits,
                                 Tensor prob_gradient, const RouterRule& rule, int64_t first_row,
                                 int64_t rows_per_scope, double balance_scale, double z_scale) {
  with_accumulator(probs.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    const int64_t T = probs.dim(0), E = probs.dim(1), A = expert.dim(1);
    const int64_t row_bytes = E * static_cast<int64_t>(sizeof(Real));
    const int warps = warps_with_shared(row_bytes, kMaxWarps);
    launch(device_.stream(q), router_backward_kernel<Real>,
           {blocks_for(T, warps), static_cast<unsigned>(warps * kWarpSize),
            static_cast<size_t>(warps * row_bytes)},
           RouterBackward<Real>{.dlogits = dlogits.data<Real>(),
                                .dweight = dweight.data<Real>(),
                                .weight = weight.data<Real>(),
                                .probs = probs.data<Real>(),
                                .lse = lse.data<Real>(),
                                .logits = data_or_null<Real>(logits),
                                .expert = expert.data<int32_t>(),
                                .prob_gradient = prob_gradient.data<double>(),
                                .rule = rule,
                                .scopes = {T, first_row, rows_per_scope},
                                .E = static_cast<int>(E),
                                .A = static_cast<int>(A),
                                .balance_scale = balance_scale,
                                .z_scale = z_scale});
  });
}

}  // namespace switchyard
