// Training runs that find their checkpoints damaged, unfit or gone, and runs for which saving must
// not make a difference (reliability: B3, B4, B5, C7, D2, I5).
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/checkpointer.h"
#include "checkpoint/held_state.h"
#include "checkpoint/run_entries.h"
#include "comm/self_communicator.h"
#include "core/error.h"
#include "core/fault_injection.h"
#include "log_lines.h"
#include "save_job.h"
#include "support/catch.h"
#include "training_run.h"

namespace switchyard::test {
namespace {

namespace fs = std::filesystem;

constexpr int kNumRanks = 2;
constexpr const char* kOlder = "warning going on from an older checkpoint";

// One run up to step 3, made once and copied, and what it comes to at step 4 if nothing happens.
class Runs {
 public:
  Runs() {
    const LogLines log;
    set_faults("");
    REQUIRE(train_on_threads(config(path("start"), 3), kNumRanks).error.empty());
    fs::copy(path("start"), path("straight"), fs::copy_options::recursive);
    REQUIRE(train_on_threads(config(path("straight"), 4), kNumRanks).error.empty());
    expected_ = digests_of(path("straight"), 4);
  }

  std::string path(const std::string& name) const { return directory_.file(name); }
  RunConfig config(const std::string& run, int64_t max_steps) const {
    RunConfig config = training_run_config(tokens_.prefix(), run, max_steps);
    config.parallelism.expert_parallel_size = 2;
    return config;
  }
  std::string new_copy() const {
    fs::remove_all(path("run"));
    fs::copy(path("start"), path("run"), fs::copy_options::recursive);
    return path("run");
  }
  const std::map<std::string, uint64_t>& expected() const { return expected_; }

 private:
  TemporaryDirectory directory_;
  TokenFixture tokens_{200, 8, 29};
  std::map<std::string, uint64_t> expected_;
};

std::string step_of(const std::string& run, int64_t step) {
  return join(run, name_of({.kind = RunEntryKind::kStep, .step = step}));
}

void flip(const std::string& path, double where) {
  std::string bytes = read_bytes(path);
  char& byte = bytes.at(static_cast<size_t>(where * static_cast<double>(bytes.size() - 1)));
  byte = static_cast<char>(byte ^ 4);
  write_bytes(path, bytes);
}

using Damage = std::pair<std::string, std::function<void(const std::string& run, int64_t step)>>;

// Ways to spoil a step of a run.
std::vector<Damage> damages() {
  std::vector<Damage> all;
  const auto add = [&](const std::string& file, const std::string& what,
                       const std::function<void(const std::string& path)>& spoil) {
    all.emplace_back(file + " " + what, [=](const std::string& run, int64_t step) {
      spoil(join(step_of(run, step), file));
    });
  };
  for (const double where : {0.5, 1.0})
    add("w00000.safetensors", fmt::format("has a bit turned over at {}", where),
        [=](const std::string& path) { flip(path, where); });
  for (const std::string file : {"manifest.json", "w00001.safetensors"}) {
    for (const double where : {0.0, 0.001, 0.5, 1.0})
      add(file, fmt::format("has a bit turned over at {}", where),
          [=](const std::string& path) { flip(path, where); });
    add(file, "is cut short",
        [](const std::string& path) { fs::resize_file(path, fs::file_size(path) - 1); });
    add(file, "is empty", [](const std::string& path) { fs::resize_file(path, 0); });
    add(file, "is longer",
        [](const std::string& path) { fs::resize_file(path, fs::file_size(path) + 1); });
    add(file, "is gone", [](const std::string& path) { fs::remove(path); });
    all.emplace_back(file + " is of the step before", [=](const std::string& run, int64_t step) {
      fs::copy_file(join(step_of(run, step - 1), file), join(step_of(run, step), file),
                    fs::copy_options::overwrite_existing);
    });
  }
  return all;
}

TEST_CASE("runs whose newest checkpoint cannot be used") {
  const Runs runs;
  for (const auto& [what, spoil] : damages()) {
    INFO(what);
    const std::string run = runs.new_copy();
    spoil(run, 3);
    {
      const LogLines log;
      const TrainingEnd named =
          train_on_threads(runs.config(run, 4), kNumRanks, {.resume_step = 3});
      CHECK(named.code == ExitCode::kData);
      CHECK_THAT(named.error, contains_text("step 3"));
      CHECK(committed_steps_in(run) == std::vector<int64_t>{3, 2, 1});
    }
    const LogLines log;
    const TrainingEnd end = train_on_threads(runs.config(run, 4), kNumRanks);
    INFO(log.text());
    CHECK(end.error.empty());
    CHECK(log.with("warning ").size() == 1);
    CHECK(log.with(kOlder).size() == 1);
    CHECK(log.with("goes on from step 2").size() == 1);
    CHECK(digests_of(run, 4) == runs.expected());
  }
}

TEST_CASE("two damaged checkpoints are two steps further back; none left is the end") {
  const Runs runs;
  const std::string run = runs.new_copy();
  for (const int64_t step : {3, 2}) flip(join(step_of(run, step), "w00000.safetensors"), 1);
  {
    const LogLines log;
    CHECK(train_on_threads(runs.config(run, 4), kNumRanks).error.empty());
    CHECK(log.with(kOlder).size() == 1);
    CHECK(log.with("goes on from step 1").size() == 1);
    CHECK(digests_of(run, 4) == runs.expected());
  }
  const std::string other = runs.new_copy();
  for (const int64_t step : {3, 2, 1}) fs::remove(join(step_of(other, step), "manifest.json"));
  {
    const LogLines log;
    const TrainingEnd end = train_on_threads(runs.config(other, 4), kNumRanks);
    CHECK(end.code == ExitCode::kData);
    CHECK_THAT(end.error, contains_text("holds no checkpoint that can be used"));
    CHECK(committed_steps_in(other) == std::vector<int64_t>{3, 2, 1});
  }
  const LogLines log;
  const TrainingEnd fresh =
      train_on_threads(runs.config(other, 1), kNumRanks, {.allow_fresh = true});
  CHECK(fresh.error.empty());
  CHECK(committed_steps_in(other) == std::vector<int64_t>{1, 0});
  for (const int64_t step : {1, 2, 3})  // put aside, with all that was left of them
    CHECK(fs::file_size(join(other, fmt::format(".superseded-{:09}-3/w00001.safetensors", step))) >
          4096);
}

TEST_CASE("a run that has lost its checkpoints never begins anew by itself") {
  const Runs runs;
  const LogLines log;
  SECTION("LATEST is gone: it does not choose") {
    const std::string run = runs.new_copy();
    fs::remove(join(run, "LATEST"));
    CHECK(train_on_threads(runs.config(run, 4), kNumRanks).error.empty());
    CHECK(log.with("goes on from step 3").size() == 1);
    CHECK(digests_of(run, 4) == runs.expected());
  }
  SECTION("LATEST lies: it does not choose") {
    const std::string run = runs.new_copy();
    write_bytes(join(run, "LATEST"), "{\"step\":1,\"directory\":\"step-000000001\"}\n");
    CHECK(train_on_threads(runs.config(run, 4), kNumRanks).error.empty());
    CHECK(digests_of(run, 4) == runs.expected());
  }
  SECTION("all steps are gone") {
    const std::string run = runs.new_copy();
    for (const int64_t step : {1, 2, 3}) fs::remove_all(step_of(run, step));
    const TrainingEnd end = train_on_threads(runs.config(run, 4), kNumRanks);
    CHECK(end.code == ExitCode::kData);
    CHECK_THAT(end.error, contains_text("--allow-fresh"));
  }
  SECTION("all steps and the metrics are gone, but for a part of one") {
    const std::string run = runs.new_copy();
    for (const int64_t step : {1, 2}) fs::remove_all(step_of(run, step));
    for (const char* name : {"manifest.json", "w00000.safetensors"})
      fs::remove(join(step_of(run, 3), name));
    fs::remove(join(run, "metrics.jsonl"));
    CHECK(train_on_threads(runs.config(run, 4), kNumRanks).code == ExitCode::kData);
  }
}

// Saves, in the place of step 3, what `doctor` makes of a state: a checkpoint that is valid and
// holds something else than the run needs.
void save_doctored(const RunConfig& config,
                   const std::function<void(std::vector<HeldTensor>&)>& doctor) {
  SelfCommunicator world("world");
  TrainerOnRank on_rank(config, world);
  std::vector<HeldTensor> held = held_state(on_rank.trainer.parameters(), on_rank.trainer.state(),
                                            on_rank.trainer.optimizer());
  doctor(held);
  const auto storage = std::make_shared<Storage>();
  const auto run = std::make_shared<RunDirectory>(*storage, config.training.output_dir,
                                                  RunDirectory::Options{.lock_wait_s = 0});
  const Manifest manifest = manifest_of(config.training.output_dir, 3);
  SaveContents contents = {.step = 3, .time = manifest.time, .code = manifest.code};
  contents.config = manifest.config;
  contents.layout = manifest.layout;
  contents.train = manifest.train;
  Checkpointer checkpointer({}, world, on_rank.backend, held, storage, run);
  checkpointer.begin(std::move(contents));
  checkpointer.finish();
}

HeldTensor& first_of(std::vector<HeldTensor>& held, TensorRole role) {
  return *std::find_if(held.begin(), held.end(),
                       [&](const HeldTensor& tensor) { return tensor.role == role; });
}

TEST_CASE("a checkpoint with other tensors than the run has is refused, by name") {
  const TemporaryDirectory directory;
  const TokenFixture tokens(200, 8, 29);
  RunConfig config = training_run_config(tokens.prefix(), directory.file("start"), 3);
  config.fp64.enabled = false;
  config.bf16.enabled = true;  // with master weights
  config.moe.router_bias_update_rate = 0.01;
  {
    const LogLines log;
    set_faults("");
    const TrainingEnd end = train_on_threads(config, 1);
    REQUIRE(end.error == "");
  }
  config.training.output_dir = directory.file("run");
  config.training.max_steps = 5;
  using Doctor = std::function<void(HeldTensor&)>;
  const std::pair<const char*, Doctor> kinds[] = {
      {"is not a tensor of this run",
       [](HeldTensor& tensor) { tensor.key = tensor_key(tensor.role, "model.someone_else"); }},
      {"is missing",
       [](HeldTensor& tensor) { tensor.key = tensor_key(tensor.role, "model.someone_else"); }},
      {"expected a",
       [](HeldTensor& tensor) {
         tensor.shape = {1, tensor.box.numel()};
         tensor.box = {{0, 0}, tensor.shape};
       }},
      {"expected a", [](HeldTensor& tensor) {
         tensor.data = Tensor(tensor.data.raw(), DType::kU8, {tensor.data.numel()});
       }}};
  for (const TensorRole role : {TensorRole::kParam, TensorRole::kMaster, TensorRole::kExpAvg,
                                TensorRole::kExpAvgSq, TensorRole::kState}) {
    for (const auto& [complaint, doctor] : kinds) {
      fs::remove_all(config.training.output_dir);
      fs::copy(directory.file("start"), config.training.output_dir, fs::copy_options::recursive);
      const LogLines log;
      std::string key;
      save_doctored(config, [&](std::vector<HeldTensor>& held) {
        HeldTensor& tensor = first_of(held, role);
        key = tensor.key;
        doctor(tensor);
      });
      const TrainingEnd end = train_on_threads(config, 1, {.resume_step = 3});
      INFO(role_name(role) << ", " << complaint << ": " << end.error);
      CHECK(end.code == ExitCode::kData);
      CHECK_THAT(end.error, contains_text("\"" + key + "\""));
      CHECK_THAT(end.error, contains_text(complaint));
    }
  }
  SECTION("many") {
    fs::remove_all(config.training.output_dir);
    fs::copy(directory.file("start"), config.training.output_dir, fs::copy_options::recursive);
    const LogLines log;
    save_doctored(config, [](std::vector<HeldTensor>& held) { held.resize(held.size() - 23); });
    const TrainingEnd end = train_on_threads(config, 1, {.resume_step = 3});
    CHECK(end.code == ExitCode::kData);
    size_t named = 0;
    for (size_t at = 0; (at = end.error.find("is missing", at)) != std::string::npos; ++at) ++named;
    CHECK(named == 20);
    CHECK_THAT(end.error, contains_text("in 23 tensors"));
    CHECK_THAT(end.error, contains_text("and 3 more"));
    // By itself the run goes on from the step before.
    CHECK(train_on_threads(config, 1).error.empty());
    CHECK(log.with(kOlder).size() == 1);
    CHECK(log.with("goes on from step 2").size() == 1);
  }
}

// Losses and norms of the steps, and digests at the last.
std::string outcome_of(const std::string& run, int64_t step) {
  std::string outcome;
  const std::string metrics = read_bytes(join(run, "metrics.jsonl"));
  for (size_t begin = 0; begin < metrics.size();) {
    const size_t end = metrics.find('\n', begin);
    const auto line = nlohmann::json::parse(metrics.substr(begin, end - begin));
    if (line.contains("lm_loss"))
      outcome += fmt::format("{} {} {}\n", line.at("step").dump(), line.at("lm_loss").dump(),
                             line.at("grad_norm").dump());
    begin = end + 1;
  }
  for (const auto& [key, digest] : digests_of(run, step))
    outcome += fmt::format("{} {:x}\n", key, digest);
  return outcome + manifest_of(run, step).train.dump();
}

TEST_CASE(
    "saving changes nothing: at every step, or never, beside training or not, on a slow disk") {
  constexpr int kSteps = 8;
  const TemporaryDirectory directory;
  const TokenFixture tokens(200, 8, 29);
  const LogLines log;
  set_faults("");
  const auto train = [&](const std::string& name, int64_t interval, bool async) {
    RunConfig config = training_run_config(tokens.prefix(), directory.file(name), kSteps);
    config.checkpoint.interval_steps = interval;
    config.checkpoint.async = async;
    config.parallelism.expert_parallel_size = 2;
    config.zero_optimization.stage = 2;
    const TrainingEnd end = train_on_threads(config, 4);
    CHECK(end.error == "");
    return outcome_of(directory.file(name), kSteps);
  };
  const std::string never = train("never", 0, true);
  CHECK(std::count(never.begin(), never.end(), '\n') > kSteps + 50);
  CHECK(train("always", 1, true) == never);
  CHECK(train("waiting", 1, false) == never);
  // The last step comes while a save is under way: that one ends, then the last is saved.
  set_faults("rank=3,point=checkpoint.shard.write,nth=3+,action=sleep:0.05");
  CHECK(train("slow", 1, true) == never);
  set_faults("");
  CHECK(log.with("is still under way").size() >= 2);
}

TEST_CASE("a disk with room for less than two checkpoints is refused before the first step") {
  const TemporaryDirectory directory;
  const TokenFixture tokens(200, 8, 29);
  const LogLines log;
  set_faults("point=checkpoint.free_bytes,nth=1+,action=enospc");
  const TrainingEnd end =
      train_on_threads(training_run_config(tokens.prefix(), directory.file("run"), 3), kNumRanks);
  set_faults("");
  CHECK(end.code == ExitCode::kStorage);
  CHECK_THAT(end.error, contains_text("for 2 checkpoints"));
  CHECK(committed_steps_in(directory.file("run")).empty());
}

}  // namespace
}  // namespace switchyard::test
