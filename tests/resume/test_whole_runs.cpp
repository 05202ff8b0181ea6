// Whole runs that end and go on: the same run as without the interruption; what may change in
// between, and what may not.
#include <filesystem>
#include <fstream>

#include "checkpoint/manifest_text.h"
#include "checkpoint/run_names.h"
#include "comm/thread_communicator.h"
#include "equivalence/layouts.h"
#include "resume/run_on_disk.h"
#include "resume/whole_run.h"
#include "support/catch.h"
#include "train/metrics_file.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

namespace fs = std::filesystem;

constexpr int64_t kSteps = 12;

// Saves while training waits: which steps are saved does not depend on the disk.
RunConfig run_config(const TokenFixture& tokens, const std::string& directory) {
  RunConfig config = small_job_config(tokens.prefix());
  config.fp64.enabled = false;
  config.train_batch_size = 8;
  config.gradient_accumulation_steps = 2;
  config.moe.router_bias_update_rate = 0.01;
  config.scheduler.type = SchedulerType::kWarmupCosineLR;
  config.scheduler.params.warmup_num_steps = 4;
  config.scheduler.params.total_num_steps = kSteps;
  config.training.max_steps = kSteps;
  config.training.output_dir = directory;
  config.training.eval_interval = 4;
  config.training.eval_num_batches = 1;
  config.checkpoint.interval_steps = 5;
  config.checkpoint.keep_last = 100;
  config.checkpoint.async = false;
  return config;
}

std::string step_directory(const std::string& run, int64_t step) {
  return join(run, name_of({.kind = RunEntryKind::kStep, .step = step}));
}

// The message of the error in which `work` ends, which has this exit code.
std::string refusal(ExitCode code, const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    CHECK(error.code() == code);
    return error.what();
  }
  FAIL("nothing was refused");
  return "";
}

void copy_run(const std::string& from, const std::string& to, int64_t last_step) {
  fs::copy(from, to, fs::copy_options::recursive);
  for (const auto& entry : fs::directory_iterator(to)) {
    const auto parsed = parse_entry(entry.path().filename());
    if (parsed && (parsed->kind != RunEntryKind::kStep || parsed->step > last_step))
      fs::remove_all(entry);
  }
}

}  // namespace

TEST_CASE("a run that is interrupted twice is the run without interruption") {
  const TokenFixture tokens(100, 8, 29);
  const TemporaryDirectory directory;
  const std::string straight = directory.file("straight"), broken = directory.file("broken");
  RunConfig config = GridJob{{.dp = 2, .ep = 2}, 2}.on(run_config(tokens, straight));
  CHECK(train(config, 2) == ExitCode::kOk);

  config.training.output_dir = broken;
  config.training.max_steps = 7;
  CHECK(train(config, 2) == ExitCode::kOk);
  // As if it had been killed in step 8, while it wrote a line: back to step 5.
  fs::remove_all(step_directory(broken, 7));
  std::ofstream(broken + "/metrics.jsonl", std::ios::app) << R"({"step":8,"lm_lo)";
  config.training.max_steps = 10;
  CHECK(train(config, 2) == ExitCode::kOk);
  config.training.max_steps = kSteps;
  CHECK(train(config, 2) == ExitCode::kOk);

  const SavedStep expected = saved_step(straight, kSteps), found = saved_step(broken, kSteps);
  CHECK(found.digests == expected.digests);
  CHECK(found.state == expected.state);
  CHECK(found.manifest.id.attempt == 3);
  CHECK(read_bytes(broken + "/model.safetensors") == read_bytes(straight + "/model.safetensors"));

  // Each step stands once, with the same numbers; each line says which attempt wrote it.
  std::vector<nlohmann::ordered_json> steps;
  for (const auto& line : read_metrics(broken + "/metrics.jsonl"))
    if (line.contains("lm_loss")) steps.push_back(line);
  REQUIRE(steps.size() == kSteps);
  for (int64_t step = 1; step <= kSteps; ++step) {
    const auto& line = steps[static_cast<size_t>(step) - 1];
    CHECK(line.at("step") == step);
    CHECK(line.at("attempt") == (step <= 5 ? 1 : step <= 10 ? 2 : 3));
  }
  const auto of_steps = [](const std::string& run) {
    std::vector<std::string> lines;
    for (const std::string& line : timeless_metrics(run))
      if (line.find("\"lm_loss\"") != std::string::npos) lines.push_back(line);
    return lines;
  };
  CHECK(of_steps(broken) == of_steps(straight));
  int superseded = 0;
  std::ifstream file(broken + "/metrics.jsonl");
  for (std::string line; std::getline(file, line);) {
    const auto json = nlohmann::json::parse(line);  // the torn one is gone
    if (!json.at("superseded")) continue;
    CHECK(json.at("step") > 5);
    CHECK(json.at("attempt") == 1);
    superseded += json.contains("lm_loss") ? 1 : 0;
  }
  CHECK(superseded == 2);
}

TEST_CASE("rolled back after loss spikes: recorded, and replayed with the same bits") {
  const TokenFixture tokens(400, 8, 29);
  const TemporaryDirectory directory;
  const auto config_of = [&](const std::string& run) {
    RunConfig config = GridJob{{.dp = 2}, 1}.on(run_config(tokens, run));
    config.bf16.enabled = true;
    config.training.max_steps = 24;
    config.checkpoint.interval_steps = 3;
    config.scheduler.params.total_num_steps = 24;
    config.loss_spike = {.policy = SpikePolicy::kRollback, .z_score = 2, .window = 4};
    return config;
  };
  const std::string first = directory.file("first"), again = directory.file("again");
  for (const std::string& run : {first, again}) CHECK(train(config_of(run), 2) == ExitCode::kOk);
  const SavedStep expected = saved_step(first, 24);
  CHECK(saved_step(again, 24).digests == expected.digests);
  CHECK(saved_step(again, 24).state == expected.state);
  CHECK(timeless_metrics(again) == timeless_metrics(first));

  // What was passed over is in the checkpoint; the rest was read once.
  const std::vector<SkippedSamples>& skipped = expected.state.skipped_samples;
  REQUIRE(!skipped.empty());
  int64_t passed_over = 0;
  for (const SkippedSamples& samples : skipped) {
    CHECK(samples.reason == "loss_spike");
    passed_over += samples.count;
  }
  CHECK(expected.state.updates == 24);
  CHECK(expected.state.next_sample == 24 * 8 + passed_over);

  // From the checkpoint before each rollback, and from the one after it, the run is the same.
  for (const int64_t step : {skipped.front().step - 1, skipped.back().step + 2, int64_t{0}}) {
    const int64_t from = step / 3 * 3;
    const std::string replay = directory.file("replay-" + std::to_string(step));
    copy_run(first, replay, from);
    CAPTURE(from);
    REQUIRE(fs::exists(step_directory(replay, from)));
    CHECK(train(config_of(replay), 2) == ExitCode::kOk);
    CHECK(saved_step(replay, 24).digests == expected.digests);
    CHECK(saved_step(replay, 24).state == expected.state);
  }
}

TEST_CASE("what may change between two jobs of a run, and what may not") {
  const TokenFixture tokens(100, 8, 29);
  const TemporaryDirectory directory;
  const std::string run = directory.file("run");
  RunConfig saved = GridJob{{.dp = 2}, 1}.on(run_config(tokens, run));
  saved.training.max_steps = 2;
  saved.train_batch_size = 16;
  CHECK(train(saved, 2) == ExitCode::kOk);
  saved.training.max_steps = 4;

  RunConfig other_model = saved;
  other_model.model.intermediate_size = 32;
  CHECK_THAT(refusal(ExitCode::kConfig,
                     [&] { train(other_model, 2, {.overrides = {"model.intermediate_size"}}); }),
             contains_text("another model is another run"));
  RunConfig other_rate = saved;
  other_rate.optimizer.params.lr = 5e-3;
  CHECK_THAT(refusal(ExitCode::kConfig, [&] { train(other_rate, 2); }),
             contains_text("optimizer.params.lr: 0.01 -> 0.005") &&
                 contains_text("--override optimizer.params.lr"));
  // On four ranks: the accumulation stays, or else the micro-batch that works is named.
  RunConfig more_ranks = saved;
  more_ranks.parallelism.data_parallel_size = 4;
  more_ranks.gradient_accumulation_steps = 1;
  CHECK_THAT(refusal(ExitCode::kConfig, [&] { train(more_ranks, 4); }),
             contains_text("train_batch_size 16, gradient_accumulation_steps 2, "
                           "train_micro_batch_size_per_gpu 2"));
  CHECK(saved_step(run, 2).state.step == 2);
  CHECK_FALSE(fs::exists(step_directory(run, 3)));

  more_ranks.gradient_accumulation_steps.reset();
  more_ranks.train_micro_batch_size_per_gpu = 2;
  CHECK(train(more_ranks, 4) == ExitCode::kOk);
  CHECK(saved_step(run, 4).manifest.config.at("gradient_accumulation_steps") == 2);
  other_rate.training.max_steps = 6;
  CHECK(train(other_rate, 2,
              {.overrides = {"optimizer.params.lr", "scheduler.params.warmup_max_lr"}}) ==
        ExitCode::kOk);
  CHECK(saved_step(run, 6).manifest.config.at("optimizer").at("params").at("lr") == 5e-3);
}

TEST_CASE("a new run takes the weights of another, and nothing else") {
  const TokenFixture tokens(100, 8, 29);
  const TemporaryDirectory directory;
  const std::string parent = directory.file("parent"), child = directory.file("child");
  RunConfig config = GridJob{{.dp = 2, .ep = 2}, 2}.on(run_config(tokens, parent));
  config.bf16.enabled = true;
  config.training.max_steps = 3;
  CHECK(train(config, 2) == ExitCode::kOk);

  config = GridJob{{.tp = 2}, 1}.on(run_config(tokens, child));
  config.bf16.enabled = true;
  config.optimizer.params.lr = 5e-3;  // another run, with mathematics of its own
  config.training.max_steps = 1;
  CHECK(train(config, 2, {.init_from = parent}) == ExitCode::kOk);

  const SavedStep from = saved_step(parent, 3), begun = saved_step(child, 0);
  const SavedStep fresh = saved_step(parent, 0);
  CHECK(begun.state == TrainingState{.dataset = fresh.state.dataset});
  CHECK(begun.manifest.id.run_id != from.manifest.id.run_id);
  REQUIRE(begun.digests.size() == from.digests.size());
  for (const auto& [key, tensor] : begun.manifest.tensors) {
    CAPTURE(key);
    switch (tensor.role) {
      case TensorRole::kParam:
      case TensorRole::kState:
        CHECK(tensor.digest == from.digests.at(key));
        break;
      case TensorRole::kExpAvg:
      case TensorRole::kExpAvgSq:
        CHECK(tensor.digest == fresh.digests.at(key));  // zeros
        CHECK(tensor.digest != from.digests.at(key));
        break;
      case TensorRole::kMaster:
        CHECK(tensor.digest != from.digests.at(key));  // the weights, rounded to bf16
        CHECK(tensor.digest != fresh.digests.at(key));
    }
  }
}

TEST_CASE("a checkpoint of a format to come is refused, and an older one is not taken instead") {
  const TokenFixture tokens(100, 8, 29);
  const TemporaryDirectory directory;
  const std::string run = directory.file("run");
  RunConfig config = run_config(tokens, run);
  config.training.max_steps = 5;
  CHECK(train(config, 1) == ExitCode::kOk);
  const std::string path = step_directory(run, 5) + "/manifest.json";
  const std::string format = "switchyard-checkpoint/";
  std::string text = read_bytes(path);
  text.resize(text.size() - checksum_ending(0).size());
  const size_t at = text.find(format + "2");
  REQUIRE(at != std::string::npos);
  write_bytes(path, with_checksum(text.replace(at, format.size() + 1, format + "3")));

  config.training.max_steps = 8;
  const std::string message = refusal(ExitCode::kData, [&] { train(config, 1); });
  CHECK_THAT(message, contains_text(format + "3") && contains_text("to \"2\""));
  CHECK(fs::exists(path));
  CHECK_FALSE(fs::exists(step_directory(run, 8)));

  run_ranks(1, [&](Communicator& world) {
    TrainerOnRank on_rank(config, world);
    const Digests digests = digests_of(on_rank, world);
    try {
      load_step(on_rank, world, run, 5);
      SY_CHECK(false, "it was loaded");
    } catch (const Error& error) {
      SY_CHECK(error.code() == ExitCode::kData, "{}", error.what());
    }
    SY_CHECK(digests_of(on_rank, world) == digests, "a part of it was loaded");
  });
}
