#include "generate/generator.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "backend/ops.h"
#include "checkpoint/weights.h"
#include "core/random.h"

namespace switchyard {
namespace {

// Inverse of the cumulative distribution of softmax(logits / temperature) at u in [0, 1).
int32_t sample(const std::vector<double>& logits, double temperature, double u) {
  const auto largest = std::max_element(logits.begin(), logits.end());
  if (temperature == 0) return static_cast<int32_t>(largest - logits.begin());
  std::vector<double> weight;
  for (const double logit : logits) weight.push_back(std::exp((logit - *largest) / temperature));
  double left = u * std::accumulate(weight.begin(), weight.end(), 0.0);
  for (size_t token = 0; token < weight.size(); ++token)
    if ((left -= weight[token]) < 0) return static_cast<int32_t>(token);
  return static_cast<int32_t>(weight.size()) - 1;
}

}  // namespace

Generator::Generator(const RunConfig& config, Backend& backend, const ProcessGrid& grid,
                     const std::string& weights_path)
    : config_(config),
      backend_(backend),
      stage_(backend, grid, config, whole_model(config)),
      weights_(allocate_weights(stage_.parameters(), backend, config.real())),
      statistics_(backend, num_moe_layers(config), config.moe.num_experts),
      activations_(backend),
      scratch_(backend) {
  load_weights(weights_path, stage_.parameters(), stage_.state(), backend);
}

void Generator::generate(std::vector<int32_t> tokens, int32_t end_of_document,
                         const SamplingOptions& options, const std::function<void(int32_t)>& emit) {
  SY_REQUIRE(kConfig, !tokens.empty(), "the prompt is empty: give at least one character");
  const auto window = static_cast<size_t>(config_.data.sequence_length);
  const uint64_t key = random_key(options.seed, "sampling");
  for (int64_t i = 0; i < options.max_new_tokens; ++i) {
    const size_t begin = tokens.size() > window ? tokens.size() - window : 0;
    const std::vector<int32_t> context(tokens.begin() + static_cast<ptrdiff_t>(begin),
                                       tokens.end());
    const int32_t token = sample(next_token_logits(context), options.temperature,
                                 random_uniform(key, static_cast<uint64_t>(i)));
    if (token == end_of_document) return;
    tokens.push_back(token);
    emit(token);
  }
}

std::vector<double> Generator::next_token_logits(const std::vector<int32_t>& context) {
  const auto T = static_cast<int64_t>(context.size());
  const Queue queue = backend_.compute_queue();
  Arena::Scope scope(activations_);
  const auto upload = [&](const std::vector<int32_t>& host) {
    Tensor device = activations_.allocate(DType::kI32, {T});
    backend_.upload(queue, device, host.data());
    return device;
  };
  std::vector<int32_t> positions(context.size()), first_visible(context.size(), 0);
  std::iota(positions.begin(), positions.end(), 0);
  const MicroBatch batch{.num_sequences = 1,
                         .sequence_length = T,
                         .first_row = 0,
                         .global_rows = T,
                         .token_ids = upload(context),
                         .targets = Tensor(),
                         .positions = upload(positions),
                         .first_visible = upload(first_visible)};
  Pass pass{.queue = queue,
            .activations = activations_,
            .scratch = scratch_,
            .kept = activations_,
            .recomputed = scratch_,
            .batch = batch,
            .statistics = statistics_.statistics(),
            .scalars = Tensor(),
            .training = false};
  Tensor logits_TV = stage_.logits(pass, saved_);
  Tensor last = activations_.allocate(DType::kF64, {logits_TV.dim(1)});
  backend_.ops().convert(queue, last, logits_TV.rows(T - 1, 1).flat());
  std::vector<double> host(static_cast<size_t>(last.numel()));
  backend_.download(queue, host.data(), last);
  backend_.host_wait(backend_.record(queue));
  return host;
}

}  // namespace switchyard
