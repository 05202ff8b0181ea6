// Steps that are not applied: what is not finite, and losses that leap.
#include <cmath>
#include <limits>
#include <mutex>
#include <set>

#include "comm/collective_error.h"
#include "comm/thread_communicator.h"
#include "optim/optimizer_job.h"
#include "support/catch.h"
#include "support/training_job.h"
#include "train/anomalies.h"
#include "train/live_state.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
const LossSpikeConfig kWindowOfFour = {.policy = SpikePolicy::kSkip, .z_score = 2, .window = 4};

// Text that ranks should agree on.
class SameOnAllRanks {
 public:
  void add(const std::string& text) {
    const std::scoped_lock lock(mutex_);
    texts_.insert(text);
  }
  std::string text() const { return texts_.size() == 1 ? *texts_.begin() : "ranks disagree"; }

 private:
  std::mutex mutex_;
  std::set<std::string> texts_;
};

void set_first(Tensor tensor, double value) {
  if (tensor.dtype() == DType::kF64) tensor.data<double>()[0] = value;
  if (tensor.dtype() == DType::kF32) tensor.data<float>()[0] = static_cast<float>(value);
  if (tensor.dtype() == DType::kBF16)
    tensor.data<BFloat16>()[0] = BFloat16(static_cast<float>(value));
}

Tensor weight_named(Trainer& trainer, const std::string& name) {
  for (const Parameter* parameter : trainer.parameters())
    if (parameter->name == name) return parameter->weight;
  return Tensor();  // another stage's
}

RunConfig job_config(const std::string& data, DType real, int stage, double clipping) {
  RunConfig config = small_job_config(data);
  config.fp64.enabled = real == DType::kF64;
  config.bf16.enabled = real == DType::kBF16;
  config.zero_optimization.stage = stage;
  config.gradient_clipping = clipping;
  config.moe.router_bias_update_rate = 0.01;
  config.gradient_accumulation_steps = 2;
  return config;
}

// Two good steps; one in which `rank` has something else than a number in the weight; then the
// weight as it was. What the bad step said.
std::string spoil_a_weight(const RunConfig& config, int num_ranks, int rank,
                           const std::string& name, double bad) {
  SameOnAllRanks reason;
  run_ranks(num_ranks, [&](Communicator& world) {
    TrainerOnRank on_rank(config, world);
    Trainer& trainer = on_rank.trainer;
    while (trainer.step() < 2) trainer.train_step();
    const TrainingState before = trainer.training_state();
    const Tensor weight = weight_named(trainer, name);
    const Bits good = bits_of(trainer);
    if (world.rank() == rank) set_first(weight, bad);
    const Bits spoilt = bits_of(trainer);
    const StepReport report = trainer.train_step();
    reason.add(report.skip_reason);

    const TrainingState& after = trainer.training_state();
    SY_CHECK(report.outcome == StepOutcome::kNotFinite, "rank {} applied the step", world.rank());
    // ZeRO gathers the slices of all ranks anew: the good weight of its owner comes back.
    const bool is_same = bits_of(trainer) == spoilt || bits_of(trainer) == good;
    SY_CHECK(is_same, "rank {} changed its state", world.rank());
    SY_CHECK(after.step == 3 && after.updates == 2 && after.skipped_steps == 1 &&
                 after.consecutive_skipped_steps == 1,
             "rank {} counts wrongly", world.rank());
    SY_CHECK(after.accepted_losses == before.accepted_losses, "the loss left a trace");
    SY_CHECK(after.next_sample == before.next_sample + *config.train_batch_size, "samples");

    write_bits(trainer, good);
    const StepReport next = trainer.train_step();
    SY_CHECK(next.outcome == StepOutcome::kApplied && next.consecutive_skipped_steps == 0 &&
                 next.skipped_steps == 1,
             "rank {} does not recover: {}", world.rank(), next.skip_reason);
  });
  return reason.text();
}

// Outcomes of the steps of a run on one rank.
struct Run {
  std::vector<StepReport> reports;
  Bits bits;
  TrainingState state;
};

Run run_alone(const RunConfig& config, int64_t steps) {
  Run run;
  run_ranks(1, [&](Communicator& world) {
    TrainerOnRank on_rank(config, world);
    while (on_rank.trainer.step() < steps) run.reports.push_back(on_rank.trainer.train_step());
    run.bits = bits_of(on_rank.trainer);
    run.state = on_rank.trainer.training_state();
  });
  return run;
}

}  // namespace

TEST_CASE("loss limit: mean and deviation of a full window, by hand") {
  CHECK(loss_limit(kWindowOfFour, {1, 3, 1}) == kInfinity);
  CHECK(loss_limit(kWindowOfFour, {1, 3, 1, 3}) == 4);                 // 2 + 2 * 1
  CHECK(loss_limit({}, std::vector<double>(1000, 1.0)) == kInfinity);  // off
  const double constant = loss_limit(kWindowOfFour, {5, 5, 5, 5});
  CHECK(constant > 5);
  CHECK(constant < 5.0001);
}

TEST_CASE("accepted losses: the window moves") {
  std::vector<double> accepted;
  for (const double loss : {1.0, 2.0, 3.0, 4.0, 5.0, 6.0})
    accept_loss(kWindowOfFour, accepted, loss);
  CHECK(accepted == std::vector<double>{3, 4, 5, 6});
  accept_loss({.policy = SpikePolicy::kSkip, .window = 2}, accepted, 7);
  CHECK(accepted == std::vector<double>{6, 7});
}

TEST_CASE("a weight that is no number: all ranks skip the step and name it and its rank") {
  const TokenFixture tokens(320, 8, 29);
  const std::string name = "model.layers.1.mlp.gate_proj.weight";
  for (const DType real : {DType::kF64, DType::kF32, DType::kBF16})
    for (const int stage : {0, 1, 2})
      for (const double clipping : {0.0, 1.0}) {
        const RunConfig config = job_config(tokens.prefix(), real, stage, clipping);
        const double bad = clipping > 0 ? NAN : INFINITY;
        CAPTURE(name_of(real), stage, clipping);
        const std::string reason = spoil_a_weight(config, 2, 1, name, bad);
        CHECK_THAT(reason, contains_text("the loss is not finite on rank 1; "));
        // With ZeRO the weights have been gathered anew by then: rank 0's good slice is back.
        if (stage == 0)
          CHECK_THAT(reason, contains_text("weights of " + name + " are not finite on rank 1; "));
        CHECK_THAT(reason,
                   contains_text("the gradient of model.norm.weight is not finite on rank 0, "
                                 "the first of 32 on the way back"));
      }
}

TEST_CASE("so they do where the model is cut") {
  const TokenFixture tokens(320, 8, 29);
  RunConfig pipelined = job_config(tokens.prefix(), DType::kF32, 0, 1.0);
  pipelined.parallelism.pipeline_parallel_size = 2;
  CHECK_THAT(spoil_a_weight(pipelined, 4, 1, "model.layers.0.self_attn.q_proj.weight", NAN),
             contains_text("weights of model.layers.0.self_attn.q_proj.weight are not finite on "
                           "rank 1; "));
  RunConfig experts = job_config(tokens.prefix(), DType::kF64, 0, 0.0);
  experts.parallelism.expert_parallel_size = 2;
  experts.parallelism.tensor_parallel_size = 2;
  CHECK_THAT(spoil_a_weight(experts, 4, 3, "model.layers.2.mlp.gate.weight", NAN),
             contains_text("weights of model.layers.2.mlp.gate.weight are not finite on rank 3; "));
}

TEST_CASE("a gradient that is no number: all ranks skip the step and name it") {
  for (const DType real : {DType::kF64, DType::kF32, DType::kBF16})
    for (const int stage : {0, 1, 2})
      for (const double max_norm : {0.0, 1.0}) {
        const OptimizerCase what = {
            .sizes = {.dp = 2}, .stage = stage, .real = real, .max_norm = max_norm};
        SameOnAllRanks reason;
        run_ranks(2, [&](Communicator& world) {
          OptimizerJob job(world, what);
          job.step(1);
          const auto state = [&] {
            std::vector<double> values;
            for (const FlatBuffer& group : job.optimizer().groups())
              for (const FlatBuffer::Update& update : group.updates())
                for (const Tensor tensor :
                     {update.weight, update.first_moment, update.second_moment})
                  for (const double value : to_doubles(tensor)) values.push_back(value);
            return values;
          };
          const std::vector<double> before = state();
          job.step(2, [&](DeclaredParameters& parameters) {
            const Tensor gradient = parameters.named("router").gradient();
            if (world.rank() == 1 && !gradient.is_none()) set_first(gradient, NAN);
          });
          SY_CHECK(job.scalars().at(StepScalar::kSkipStep) == 1, "not skipped");
          SY_CHECK(state() == before, "the state changed");
          reason.add(describe_not_finite(job.backend(), world, job.optimizer(),
                                         job.parameters().list(), 0.0));
        });
        CAPTURE(what.text());
        CHECK_THAT(reason.text(), contains_text("the gradient of router is not finite on rank ") &&
                                      !contains_text("of 2") && !contains_text("weights"));
      }
}

TEST_CASE("a loss that is no number skips the step though gradients are fine") {
  for (const double bad : {double{NAN}, kInfinity}) {
    run_ranks(2, [&](Communicator& world) {
      OptimizerJob job(world, {.sizes = {.dp = 2}});
      if (world.rank() == 1) job.scalars().loss_sum().data<double>()[0] = bad;
      job.step(1);
      SY_CHECK(job.scalars().at(StepScalar::kSkipStep) == 1, "not skipped");
      const double mine = world.rank() == 1 ? bad : 0.0;
      const std::string reason =
          describe_not_finite(job.backend(), world, job.optimizer(), job.parameters().list(), mine);
      SY_CHECK(reason == "the loss is not finite on rank 1", "{}", reason);
    });
  }
}

TEST_CASE("a skipped step leaves training as if its samples had not been there") {
  const TokenFixture tokens(320, 8, 29);
  const RunConfig config = job_config(tokens.prefix(), DType::kF64, 0, 1.0);
  run_ranks(1, [&](Communicator& world) {
    TrainerOnRank skips(config, world), passes_over(config, world);
    for (TrainerOnRank* each : {&skips, &passes_over})
      while (each->trainer.step() < 3) each->trainer.train_step();
    const Bits good = bits_of(skips.trainer);
    set_first(skips.trainer.parameters()[0]->weight, NAN);
    skips.trainer.train_step();
    write_bits(skips.trainer, good);
    TrainingState state = passes_over.trainer.training_state();
    pass_over(state, state.next_sample + *config.train_batch_size, "test");
    passes_over.trainer.restore(state);
    for (int i = 0; i < 3; ++i)
      for (TrainerOnRank* each : {&skips, &passes_over}) each->trainer.train_step();
    SY_CHECK(bits_of(skips.trainer) == bits_of(passes_over.trainer), "the weights differ");
  });
}

TEST_CASE("ten skipped steps in a row end the run; an applied one in between does not let them") {
  const TokenFixture tokens(320, 8, 29);
  const RunConfig config = job_config(tokens.prefix(), DType::kF32, 0, 1.0);
  run_ranks(2, [&](Communicator& world) {
    TrainerOnRank on_rank(config, world);
    Trainer& trainer = on_rank.trainer;
    const Bits good = bits_of(trainer);
    const auto spoil = [&] { set_first(trainer.parameters()[0]->weight, NAN); };
    spoil();
    for (int i = 0; i < 9; ++i) check_skipped_steps(config, trainer.train_step());
    write_bits(trainer, good);
    check_skipped_steps(config, trainer.train_step());
    spoil();
    for (int i = 0; i < 9; ++i) check_skipped_steps(config, trainer.train_step());
    const StepReport tenth = trainer.train_step();
    try {
      check_skipped_steps(config, tenth);
      SY_CHECK(false, "the run goes on");
    } catch (const CollectiveError& error) {
      SY_CHECK(error.code() == ExitCode::kNumeric, "wrong code");
      const std::string text = error.what();
      SY_CHECK(text.starts_with("step 20: 10 steps in a row were skipped") &&
                   text.find("weights of model.embed_tokens.weight are not finite on rank 0") !=
                       std::string::npos,
               "{}", text);
    }
  });
}

TEST_CASE("a loss that leaps is skipped, and running it again gives the same bits") {
  const TokenFixture tokens(320, 8, 29);
  RunConfig config = job_config(tokens.prefix(), DType::kF32, 0, 1.0);
  config.loss_spike = {.policy = SpikePolicy::kSkip, .z_score = 1.5, .window = 4};
  const Run run = run_alone(config, 30), again = run_alone(config, 30);
  CHECK(again.bits == run.bits);
  CHECK(again.state == run.state);
  std::vector<double> accepted;
  int64_t skipped = 0;
  for (const StepReport& report : run.reports) {
    CAPTURE(report.step, report.lm_loss);
    const double limit = loss_limit(config.loss_spike, accepted);
    const bool leaps = report.lm_loss > limit;
    CHECK((report.outcome == StepOutcome::kLossSpike) == leaps);
    CHECK(report.skip_reason.empty() == !leaps);
    if (!leaps) accept_loss(config.loss_spike, accepted, report.lm_loss);
    skipped += leaps ? 1 : 0;
  }
  CHECK(skipped > 0);
  CHECK(skipped < 15);
  CHECK(run.state.accepted_losses == accepted);
  CHECK(run.state.skipped_steps == skipped);
  CHECK(run.state.next_sample == 30 * 8);
}

TEST_CASE("a step that leaps changes nothing, on any rank of any grid") {
  const TokenFixture tokens(320, 8, 29);
  RunConfig config = job_config(tokens.prefix(), DType::kF64, 1, 0.0);
  config.loss_spike = {.policy = SpikePolicy::kSkip, .z_score = 1.5, .window = 4};
  config.parallelism.pipeline_parallel_size = 2;
  std::mutex mutex;
  std::set<std::vector<int64_t>> leaps_of_ranks;
  run_ranks(4, [&](Communicator& world) {
    TrainerOnRank on_rank(config, world);
    std::vector<int64_t> leaps;
    for (int i = 0; i < 20; ++i) {
      const Bits before = bits_of(on_rank.trainer);
      const bool leapt = on_rank.trainer.train_step().outcome == StepOutcome::kLossSpike;
      if (leapt) leaps.push_back(i);
      SY_CHECK((bits_of(on_rank.trainer) == before) == leapt, "step {}", i);
    }
    const std::scoped_lock lock(mutex);
    leaps_of_ranks.insert(leaps);
  });
  REQUIRE(leaps_of_ranks.size() == 1);
  CHECK(!leaps_of_ranks.begin()->empty());
}

TEST_CASE("rolling back: the samples since the checkpoint are passed over; replays are equal") {
  const TokenFixture tokens(320, 8, 29);
  RunConfig config = job_config(tokens.prefix(), DType::kBF16, 0, 1.0);
  config.loss_spike = {.policy = SpikePolicy::kRollback, .z_score = 1.5, .window = 4};
  // A checkpoint every fifth step, in memory; back to the latest whenever the loss leaps.
  struct Checkpoint {
    Bits bits;
    TrainingState state;
  };
  const auto run = [&](std::vector<StepReport>& reports, Checkpoint& end) {
    run_ranks(1, [&](Communicator& world) {
      TrainerOnRank on_rank(config, world);
      Trainer& trainer = on_rank.trainer;
      Checkpoint last = {bits_of(trainer), trainer.training_state()};
      while (trainer.step() < 20) {
        reports.push_back(trainer.train_step());
        if (reports.back().outcome == StepOutcome::kLossSpike) {
          write_bits(trainer, last.bits);
          trainer.roll_back(last.state);
        } else if (trainer.step() % 5 == 0) {
          last = {bits_of(trainer), trainer.training_state()};
        }
      }
      end = {bits_of(trainer), trainer.training_state()};
    });
  };
  std::vector<StepReport> reports, repeated_reports;
  Checkpoint end, repeated;
  run(reports, end);
  run(repeated_reports, repeated);
  CHECK(repeated.bits == end.bits);
  CHECK(repeated.state == end.state);
  CHECK(end.state.skipped_steps == 0);  // all of them were undone
  CHECK(end.state.updates == 20);
  const std::vector<SkippedSamples>& skipped = end.state.skipped_samples;
  REQUIRE(!skipped.empty());
  int64_t passed_over = 0;
  for (const SkippedSamples& samples : skipped) passed_over += samples.count;
  CHECK(end.state.next_sample == 20 * 8 + passed_over);
  CHECK(end.state.tokens == 20 * 8 * 8);

  // The log alone, without the policy: jump where it says.
  config.loss_spike.policy = SpikePolicy::kOff;
  Bits replayed;
  run_ranks(1, [&](Communicator& world) {
    TrainerOnRank on_rank(config, world);
    Trainer& trainer = on_rank.trainer;
    size_t next = 0;
    while (trainer.step() < 20) {
      while (next < skipped.size() && skipped[next].step == trainer.step() + 1) {
        TrainingState state = trainer.training_state();
        pass_over(state, skipped[next].first + skipped[next].count, skipped[next].reason);
        trainer.restore(state);
        ++next;
      }
      trainer.train_step();
    }
    replayed = bits_of(trainer);
    SY_CHECK(trainer.training_state() == end.state, "the training state differs");
  });
  CHECK(replayed == end.bits);
}

TEST_CASE("rolling back to the same checkpoint again and again ends the run") {
  const TokenFixture tokens(320, 8, 29);
  RunConfig config = job_config(tokens.prefix(), DType::kF64, 0, 0.0);
  config.training.max_skipped_steps = 3;
  run_ranks(1, [&](Communicator& world) {
    TrainerOnRank on_rank(config, world);
    Trainer& trainer = on_rank.trainer;
    const TrainingState first = trainer.training_state();
    for (int i = 0; i < 3; ++i) {
      trainer.train_step();
      trainer.roll_back(first);
    }
    trainer.train_step();
    const TrainingState second = trainer.training_state();
    trainer.train_step();
    trainer.roll_back(second);  // counts anew
    for (int i = 0; i < 3; ++i) {
      trainer.train_step();
      trainer.roll_back(first);
    }
    trainer.train_step();
    try {
      trainer.roll_back(first);
      SY_CHECK(false, "the run goes on");
    } catch (const CollectiveError& error) {
      SY_CHECK(error.code() == ExitCode::kNumeric, "wrong code");
    }
    SY_CHECK(trainer.training_state().next_sample > first.next_sample, "rolled back");
  });
}
