// The training state: JSON both ways, and that it is everything a trainer needs to go on.
#include <cmath>
#include <functional>

#include "comm/thread_communicator.h"
#include "core/error.h"
#include "support/catch.h"
#include "support/training_job.h"
#include "train/live_state.h"
#include "train/training_state.h"

using namespace switchyard;
using namespace switchyard::test;
using Json = nlohmann::ordered_json;

namespace {

TrainingState some_state() {
  return {.step = 12,
          .next_sample = 140,
          .tokens = 960,
          .updates = 9,
          .skipped_steps = 3,
          .consecutive_skipped_steps = 1,
          .accepted_losses = {0.1, 1.0 / 3, 2.0, 4.9e-324, -0.0, 1.7976931348623157e308},
          .skipped_samples = {{.first = 16, .count = 44, .step = 3, .reason = "loss_spike"},
                              {.first = 80, .count = 8, .step = 9, .reason = "\"quoted\"\n"}},
          .dataset = "17 tokens, 00ff"};
}

std::string error_of(const Json& json) {
  try {
    training_state_from_json(json, "manifest.json: train");
  } catch (const Error& error) {
    CHECK(error.code() == ExitCode::kData);
    return error.what();
  }
  return "no error";
}

// Everything that may carry something from step to step.
RunConfig everything_config(const std::string& data) {
  RunConfig config = small_job_config(data);
  config.gradient_accumulation_steps = 2;
  config.gradient_clipping = 0.5;
  config.moe.input_jitter_eps = 0.1;
  config.moe.router_bias_update_rate = 0.01;
  config.moe.load_balancing_scope = BalanceScope::kGlobalBatch;
  config.moe.token_drop_policy = TokenDropPolicy::kCapacity;
  config.scheduler.type = SchedulerType::kWarmupCosineLR;
  config.scheduler.params.warmup_num_steps = 4;
  config.scheduler.params.total_num_steps = 20;
  config.loss_spike = {.policy = SpikePolicy::kSkip, .z_score = 1.5, .window = 3};
  return config;
}

void set_type(RunConfig& config, DType real) {
  config.fp64.enabled = real == DType::kF64;
  config.bf16.enabled = real == DType::kBF16;
}

// A run of `steps` steps on this rank against one that begins as another run, full of garbage, and
// then goes on from step `at`.
void check_goes_on(const RunConfig& config, Communicator& world, int64_t at, int64_t steps) {
  TrainerOnRank whole(config, world);
  while (whole.trainer.step() < at) whole.trainer.train_step();
  const Bits saved = bits_of(whole.trainer);
  const std::string state = to_json(whole.trainer.training_state()).dump();

  TrainerOnRank other(config, world);
  TrainingState elsewhere = some_state();
  elsewhere.accepted_losses = {1, 2, 3};
  other.trainer.restore(elsewhere);
  for (int i = 0; i < 2; ++i) other.trainer.train_step();
  write_garbage(other.trainer);
  other.trainer.train_step();  // gradients, statistics and buffers in flight are NaN too
  write_bits(other.trainer, saved);
  other.trainer.restore(training_state_from_json(Json::parse(state), "state"));

  while (whole.trainer.step() < steps) {
    const StepReport expected = whole.trainer.train_step(), found = other.trainer.train_step();
    SY_CHECK(found.lm_loss == expected.lm_loss && found.grad_norm == expected.grad_norm &&
                 found.learning_rate == expected.learning_rate && found.tokens == expected.tokens &&
                 found.outcome == expected.outcome,
             "step {}: loss {} instead of {}, norm {} instead of {}", expected.step, found.lm_loss,
             expected.lm_loss, found.grad_norm, expected.grad_norm);
    SY_CHECK(bits_of(other.trainer) == bits_of(whole.trainer), "step {}: the state differs",
             expected.step);
    SY_CHECK(other.trainer.training_state() == whole.trainer.training_state(),
             "step {}: the training states differ", expected.step);
  }
}

}  // namespace

TEST_CASE("training state: JSON and back keeps every bit") {
  const TrainingState state = some_state();
  const TrainingState back = training_state_from_json(Json::parse(to_json(state).dump()), "state");
  CHECK(back == state);
  CHECK(std::signbit(back.accepted_losses[4]));
  CHECK(training_state_from_json(to_json(TrainingState{}), "state") == TrainingState{});
}

TEST_CASE("training state: anything missing, unknown or of the wrong type is refused by name") {
  const Json good = to_json(some_state());
  REQUIRE(error_of(good) == "no error");
  for (const auto& member : good.items()) {
    INFO(member.key());
    Json json = good;
    json.erase(member.key());
    CHECK_THAT(error_of(json), contains_text("manifest.json: train: \"" + member.key() + "\""));
    for (const Json& wrong : {Json(nullptr), Json("1"), Json(1.5), Json(true), Json(-1),
                              Json::object(), Json(uint64_t{1} << 63), Json::array({-1, "x"})}) {
      if (good[member.key()].is_string() && wrong.is_string()) continue;
      json[member.key()] = wrong;
      INFO(wrong.dump());
      CHECK_THAT(error_of(json), contains_text("manifest.json: train." + member.key()));
    }
  }
  Json unknown = good;
  unknown["stepp"] = 1;
  CHECK_THAT(error_of(unknown), contains_text("unknown key \"stepp\""));
  CHECK_THAT(error_of(Json::array()), contains_text("expected an object"));
  for (const auto& member : good["skipped_samples"][0].items()) {
    Json json = good;
    json["skipped_samples"][1].erase(member.key());
    CHECK_THAT(error_of(json), contains_text("train.skipped_samples: \"" + member.key() + "\""));
  }
}

TEST_CASE("training state: steps that do not add up are refused") {
  const auto error_with = [](const std::function<void(TrainingState&)>& change) {
    TrainingState state = some_state();
    change(state);
    return error_of(to_json(state));
  };
  CHECK_THAT(error_with([](TrainingState& state) { state.updates = 8; }),
             contains_text("8 updates and 3 skipped steps do not make 12 steps"));
  CHECK_THAT(error_with([](TrainingState& state) { state.consecutive_skipped_steps = 4; }),
             contains_text("4 steps in a row"));
}

TEST_CASE("training state: samples that are passed over are recorded") {
  TrainingState state = {.step = 5, .next_sample = 40};
  pass_over(state, 40, "loss_spike");
  CHECK(state.skipped_samples.empty());
  pass_over(state, 64, "loss_spike");
  CHECK(state.next_sample == 64);
  REQUIRE(state.skipped_samples.size() == 1);
  CHECK(state.skipped_samples[0] ==
        SkippedSamples{.first = 40, .count = 24, .step = 6, .reason = "loss_spike"});
  CHECK_THROWS_AS(pass_over(state, 63, "loss_spike"), Error);
}

TEST_CASE("a trainer full of garbage goes on bit by bit from a state that is put into it") {
  const TokenFixture tokens(100, 8, 29);  // 90 samples: an epoch ends in step 12
  for (const int stage : {0, 1, 2})
    for (const DType real : {DType::kF64, DType::kF32, DType::kBF16}) {
      RunConfig config = everything_config(tokens.prefix());
      config.zero_optimization.stage = stage;
      set_type(config, real);
      config.parallelism.expert_parallel_size = stage == 0 ? 2 : 1;
      CAPTURE(stage, name_of(real));
      CHECK_NOTHROW(
          run_ranks(2, [&](Communicator& world) { check_goes_on(config, world, 7, 14); }));
    }
}

TEST_CASE("so does one that is cut in every direction") {
  const TokenFixture tokens(320, 8, 29);
  RunConfig config = everything_config(tokens.prefix());
  config.parallelism.tensor_parallel_size = 2;
  config.parallelism.pipeline_parallel_size = 2;
  config.zero_optimization.stage = 1;
  CHECK_NOTHROW(run_ranks(4, [&](Communicator& world) { check_goes_on(config, world, 4, 8); }));
}

TEST_CASE("a tiny run goes on from every step") {
  const TokenFixture tokens(320, 8, 29);
  RunConfig config = everything_config(tokens.prefix());
  config.moe.router = RouterKind::kSigmoid;
  for (int64_t at = 0; at < 20; ++at) {
    CAPTURE(at);
    CHECK_NOTHROW(run_ranks(1, [&](Communicator& world) { check_goes_on(config, world, at, 20); }));
  }
}
