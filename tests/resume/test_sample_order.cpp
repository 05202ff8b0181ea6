// Which samples a run reads, and in which order, over many jobs that are killed and resumed, on
// other layouts too. What is recorded is what reaches the device.
#include <algorithm>
#include <mutex>
#include <nlohmann/json.hpp>
#include <random>
#include <set>

#include "comm/thread_communicator.h"
#include "data/token_file.h"
#include "equivalence/layouts.h"
#include "resume/run_on_disk.h"
#include "resume/watched_backend.h"
#include "support/catch.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

constexpr int64_t kSequence = 8, kBatch = 4, kSamples = 130, kTrained = 117;
constexpr int64_t kSteps = (2 * kTrained + kBatch - 1) / kBatch;  // two epochs
constexpr int kDigits = 16;

// Each sample begins with its number, as two digits.
std::string numbered_samples(const TemporaryDirectory& directory) {
  const std::string prefix = directory.file("tokens");
  std::vector<int32_t> tokens;
  for (int32_t i = 0; i < kSamples; ++i) {
    tokens.insert(tokens.end(), {i / kDigits, i % kDigits});
    for (int64_t j = 2; j < kSequence; ++j)
      tokens.push_back(static_cast<int32_t>((i + j) % kDigits));
  }
  tokens.push_back(0);
  TokenFileWriter writer(prefix, 29);
  writer.add_document(tokens);
  writer.finish();
  return prefix;
}

using Samples = std::vector<int32_t>;  // numbers, in the order of the global batch

Samples samples_of(const std::vector<int32_t>& token_ids) {
  Samples samples;
  for (size_t row = 0; row < token_ids.size(); row += kSequence)
    samples.push_back(token_ids[row] * kDigits + token_ids[row + 1]);
  return samples;
}

// A step, and, on rank 0, the samples that it has read. Copies of a batch, on the ranks of a tp
// group or of a pipeline, are equal.
Samples read_by_step(TrainerOnRank& on_rank, WatchedBackend& backend, Communicator& world) {
  backend.take_uploads();
  on_rank.trainer.train_step();
  const Samples mine = samples_of(backend.take_uploads().at(0));
  std::map<int, Samples> by_dp;
  for (const std::string& text :
       world.gather_host(nlohmann::json{on_rank.grid.me().dp, mine}.dump(), 0)) {
    const auto parsed = nlohmann::json::parse(text);
    const auto [place, is_new] = by_dp.emplace(parsed[0].get<int>(), parsed[1].get<Samples>());
    SY_CHECK(is_new || place->second == parsed[1].get<Samples>(), "copies of a batch differ");
  }
  Samples all;
  for (const auto& [dp, samples] : by_dp) all.insert(all.end(), samples.begin(), samples.end());
  return all;
}

// One job of a run: goes on from the newest checkpoint, takes some steps, saves after some of
// them, and is gone. Steps are recorded as they were last taken.
struct Job {
  GridJob layout;
  std::vector<bool> saves;  // of each step that it takes
};

int64_t run(const RunConfig& config, const std::string& directory, const Job& job,
            std::map<int64_t, Samples>& steps) {
  int64_t durable = 0;
  run_ranks(job.layout.ranks(), [&](Communicator& world) {
    WatchedBackend backend;
    TrainerOnRank on_rank(job.layout.on(config), world, &backend);
    RunOnDisk disk(on_rank, world, directory);
    if (!disk.load_newest()) disk.save();
    int64_t saved = on_rank.trainer.step();
    for (const bool save : job.saves) {
      const Samples samples = read_by_step(on_rank, backend, world);
      if (world.rank() == 0) steps[on_rank.trainer.step()] = samples;
      if (!save) continue;
      disk.save();
      saved = on_rank.trainer.step();
    }
    if (world.rank() == 0) durable = saved;
  });
  return durable;
}

}  // namespace

TEST_CASE("over two epochs of kills, no sample is lost, none comes twice, and the order stays") {
  const TemporaryDirectory directory;
  RunConfig config = small_job_config(numbered_samples(directory));
  config.fp64.enabled = false;
  config.train_batch_size = kBatch;
  std::map<int64_t, Samples> straight, resumed;
  run(config, directory.file("straight"), {{{.dp = 1}, 0}, std::vector(kSteps, false)}, straight);

  const std::vector<GridJob> layouts = {{{.dp = 1}, 1},
                                        {{.dp = 2, .ep = 2}, 2},
                                        {{.dp = 4, .ep = 2}, 1},
                                        {{.dp = 2, .pp = 2}, 0},
                                        {{.dp = 2, .tp = 2}, 2}};
  std::mt19937 random(3);
  int jobs = 0;
  for (int64_t durable = 0; durable < kSteps; ++jobs) {
    Job job = {layouts[random() % layouts.size()], {}};
    const auto left = static_cast<size_t>(kSteps - durable);
    for (size_t steps = std::min<size_t>(left, random() % 4); steps > 0; --steps)
      job.saves.push_back(random() % 3 == 0);
    durable = run(config, directory.file("run"), job, resumed);
  }
  CHECK(jobs >= 100);
  CHECK(resumed == straight);

  Samples stream;
  for (const auto& [step, samples] : straight) {
    REQUIRE(samples.size() == kBatch);
    stream.insert(stream.end(), samples.begin(), samples.end());
  }
  const auto epoch = [&](int64_t i) {
    return Samples(stream.begin() + i * kTrained, stream.begin() + (i + 1) * kTrained);
  };
  CHECK(epoch(0) != epoch(1));
  for (int64_t i = 0; i < 2; ++i) {
    const Samples samples = epoch(i);
    const std::set<int32_t> distinct(samples.begin(), samples.end());
    CHECK(distinct.size() == kTrained);
  }
}
