// Layouts where it is awkward: a vocabulary that no tp divides, micro-batches of one token, all
// tokens to one expert, one expert without tokens for the whole run; and what must not change a
// single bit: recomputation.
#include <cmath>

#include "equivalence/check_layouts.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

// Routing in which every token's first choice is expert `chosen`, its second one of the others but
// `starved`.
RoutingLog skewed_routing(const RunConfig& config, int64_t steps, int32_t chosen, int32_t starved) {
  RoutingLog routing;
  const int64_t micro_batches = *config.gradient_accumulation_steps;
  const int64_t rows = *config.train_batch_size / micro_batches * config.data.sequence_length;
  std::vector<int32_t> others;
  for (int32_t e = 0; e < config.moe.num_experts; ++e)
    if (e != chosen && e != starved) others.push_back(e);
  for (int64_t stream = 0; stream < steps * micro_batches; ++stream)
    for (int layer = 0; layer < 2; ++layer) {
      RoutingLog::Routes routes;
      for (int64_t row = 0; row < rows; ++row)
        for (int a = 0; a < config.moe.top_k; ++a)
          routes.expert.push_back(
              a == 0 ? chosen : others[static_cast<size_t>(row + stream) % others.size()]);
      routes.kept = routes.expert;
      routing.record(stream, layer, routes);
    }
  routing.start_replay();
  return routing;
}

}  // namespace

TEST_CASE("257 tokens over 1, 2 and 3 tensor-parallel ranks") {
  const TokenFixture tokens(400, 8, 257);
  RunConfig config = small_job_config(tokens.prefix(), 257);
  config.model.hidden_size = 24;
  config.model.num_attention_heads = 12;
  config.model.num_key_value_heads = 6;
  config.moe.num_experts = 6;
  config.model.moe_intermediate_size = 12;
  config.train_batch_size = 4;
  for (const bool is_tied : {false, true}) {
    config.model.tie_word_embeddings = is_tied;
    const JobOptions options = {.steps = 5, .gradient_steps = {1, 5}};
    config.parallelism = Layout{}.parallelism();
    const JobResult reference = run_job_on_threads(config, 1, options);
    // Padding is outside everything a user sees.
    const char* head = is_tied ? "model.embed_tokens.weight" : "lm_head.weight";
    CHECK(reference.weights.at(head).size() == 257u * 24u);
    for (const int tp : {2, 3})
      for (const int pp : {1, 2}) {
        RunConfig varied = config;
        varied.parallelism = Layout{.dp = 1, .tp = tp, .pp = pp, .ep = 1, .etp = tp}.parallelism();
        std::string where;
        const double worst =
            worst_difference(run_job_on_threads(varied, tp * pp, options), reference, where);
        CAPTURE(is_tied, tp, pp, where);
        CHECK(worst <= 1e-9);
      }
  }
}

TEST_CASE("micro-batches of one token: most tensor-parallel ranks own none") {
  const TokenFixture tokens(2000, 1, 29);
  RunConfig config = small_job_config(tokens.prefix());
  config.data.sequence_length = 1;
  config.data.eod_mask_loss = false;
  config.train_batch_size = 4;
  config.gradient_accumulation_steps = 4;
  check_layouts(config, {2, 4}, 1, {.steps = 5, .gradient_steps = {1, 5}});
  config.gradient_accumulation_steps = 2;
  check_layouts(config, {4}, 3, {.steps = 5, .gradient_steps = {1, 5}});
}

TEST_CASE("all tokens to one expert, one expert starved for all steps") {
  const TokenFixture tokens(400, 8, 29);
  RunConfig config = small_job_config(tokens.prefix());
  config.gradient_accumulation_steps = 2;
  config.parallelism = Layout{}.parallelism();
  RunConfig resolved = config;
  resolve(resolved, 1);
  for (const int top_k : {1, 2}) {
    config.moe.top_k = resolved.moe.top_k = top_k;
    RoutingLog routing = skewed_routing(resolved, 5, 6, 3);
    CAPTURE(top_k);
    check_layouts(config, {4, 8}, 4, {.steps = 5, .gradient_steps = {1, 5}, .routing = &routing});
  }
}

TEST_CASE("recomputation changes no bit, on any grid, in f64, f32 and bf16") {
  const TokenFixture tokens(400, 8, 29);
  for (const int precision : {64, 32, 16})
    for (const Layout& layout : {Layout{}, Layout{.tp = 2, .etp = 2}, Layout{.pp = 2},
                                 Layout{.dp = 2, .tp = 2, .ep = 4, .etp = 1}})
      for (const auto schedule : {ScheduleKind::k1F1B, ScheduleKind::kZeroBubbleH1}) {
        RunConfig config = small_job_config(tokens.prefix());
        config.fp64.enabled = precision == 64;
        config.bf16.enabled = precision == 16;
        config.gradient_accumulation_steps = 2;
        config.moe.num_shared_experts = 1;
        config.moe.input_jitter_eps = 0.05;
        config.moe.token_drop_policy = TokenDropPolicy::kCapacity;
        config.moe.capacity_scope = BalanceScope::kMicroBatch;
        config.moe.load_balancing_scope = BalanceScope::kGlobalBatch;
        config.parallelism = layout.parallelism();
        config.pipeline.schedule = schedule;
        const JobOptions options = {.steps = 3, .gradient_steps = {1, 3}};
        const int ranks = layout.dp * layout.tp * layout.pp;
        const JobResult kept = run_job_on_threads(config, ranks, options);
        for (const auto policy : {RecomputePolicy::kSelective, RecomputePolicy::kFull}) {
          config.activation_checkpointing.policy = policy;
          std::string where;
          const double worst =
              worst_difference(run_job_on_threads(config, ranks, options), kept, where);
          CAPTURE(precision, layout.name(), static_cast<int>(schedule), static_cast<int>(policy),
                  where);
          CHECK(worst == 0);
        }
      }
}

// The bound of the design: a layout's error against f64 is at most 1.5 times that of one rank. All
// with the routing of the f64 run.
TEST_CASE("bf16 on every layout of 4 ranks is as good as on one") {
  const TokenFixture tokens(400, 8, 29);
  RunConfig config = small_job_config(tokens.prefix());
  config.gradient_accumulation_steps = 2;
  config.optimizer.params.lr = 1e-3;
  config.parallelism = Layout{}.parallelism();
  RoutingLog routing;
  const JobOptions options = {.steps = 10, .gradient_steps = {1, 10}, .routing = &routing};
  const JobResult exact = run_job_on_threads(config, 1, options);
  routing.start_replay();
  config.fp64.enabled = false;
  config.bf16.enabled = true;
  // Of all tensors together, relative to their size: single small tensors are noise.
  const auto error = [&](const JobResult& job) {
    double squares = 0, size = 0;
    for (const auto& [step, gradients] : exact.gradients)
      for (const auto& [name, values] : gradients)
        for (size_t i = 0; i < values.size(); ++i) {
          const double difference = job.gradients.at(step).at(name)[i] - values[i];
          squares += difference * difference;
          size += values[i] * values[i];
        }
    return std::sqrt(squares / size);
  };
  const double alone = error(run_job_on_threads(config, 1, options));
  CHECK(alone > 1e-3);  // it was bf16 indeed
  CHECK(alone < 5e-2);
  size_t index = 0;
  for (const Layout& layout : layouts_of(4, config)) {
    RunConfig varied = config;
    varied.parallelism = layout.parallelism();
    const Variant variant(index++);
    variant.apply(varied);
    CAPTURE(layout.name(), variant.name(), alone);
    CHECK(error(run_job_on_threads(varied, 4, options)) <= 1.5 * alone);
  }
}
