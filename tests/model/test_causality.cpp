// No token may see the future: changing later tokens leaves the logits of earlier ones as they are,
// bit for bit, without drops, and with drop order `position` where each token has one choice. It
// does not hold for `position` with more choices (a later token's first goes before an earlier
// token's second), nor for `probs`: the documentation says so and the last tests show it.
#include <cstring>

#include "support/catch.h"
#include "support/tiny_model.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

RunConfig one_sequence(TokenDropPolicy policy, DropOrderConfig order) {
  RunConfig config = tiny_config();
  config.train_micro_batch_size_per_gpu = 1;
  config.data.sequence_length = 24;
  config.moe.token_drop_policy = policy;
  config.moe.drop_order = order;
  config.moe.min_capacity = 1;
  config.moe.capacity_factor = 0.5;
  return config;
}

// Routing of both MoE layers of the first `rows` tokens, after changing all later tokens.
std::vector<int32_t> kept_choices(const RunConfig& config, bool change_future, int64_t rows) {
  TinyModel model(config);
  auto& ids = model.batch().token_ids;
  if (change_future)
    for (size_t i = static_cast<size_t>(rows); i < ids.size(); ++i) ids[i] = (ids[i] + 5) % 11;
  model.loss();
  std::vector<int32_t> kept;
  for (const int layer : {0, 1}) {
    const auto& routes = model.routing().at(0, layer).kept;
    kept.insert(kept.end(), routes.begin(), routes.begin() + rows * config.moe.top_k);
  }
  return kept;
}

// The gradient of an *early* loss cannot be influenced by the future either: losses of the first
// rows only, everything else ignored.
double early_loss(const RunConfig& config, bool change_future, int64_t rows) {
  TinyModel model(config);
  HostBatch& batch = model.batch();
  for (size_t i = static_cast<size_t>(rows); i < batch.token_ids.size(); ++i) {
    batch.targets[i] = kIgnoredTarget;
    if (change_future) batch.token_ids[i] = (batch.token_ids[i] + 5) % 11;
  }
  model.loss();
  return model.statistics().download(Queue{}).loss_sum;
}

}  // namespace

TEST_CASE("dropless routing is causal") {
  const RunConfig config = one_sequence(TokenDropPolicy::kDropless, DropOrderConfig::kPosition);
  for (const int64_t rows : {1, 7, 16}) {
    CHECK(kept_choices(config, false, rows) == kept_choices(config, true, rows));
    CHECK(early_loss(config, false, rows) == early_loss(config, true, rows));
  }
}

TEST_CASE("drops by position are causal when each token has one choice") {
  RunConfig config = one_sequence(TokenDropPolicy::kCapacity, DropOrderConfig::kPosition);
  config.moe.top_k = 1;
  for (const int64_t rows : {1, 7, 16}) {
    CHECK(kept_choices(config, false, rows) == kept_choices(config, true, rows));
    CHECK(early_loss(config, false, rows) == early_loss(config, true, rows));
  }
}

TEST_CASE("drops by position are not causal when each token has two choices") {
  const RunConfig config = one_sequence(TokenDropPolicy::kCapacity, DropOrderConfig::kPosition);
  CHECK(kept_choices(config, false, 16) != kept_choices(config, true, 16));
}

TEST_CASE("drops by probability are not causal") {
  RunConfig config = one_sequence(TokenDropPolicy::kCapacity, DropOrderConfig::kProbs);
  config.moe.top_k = 1;
  CHECK(kept_choices(config, false, 16) != kept_choices(config, true, 16));
}
