// Checkpoints on disk of any layout, loaded by any other: every tensor is the same, the next loss
// is, and what is saved again is the same checkpoint. The pairs of layouts themselves are proved
// exhaustively in memory (tests/checkpoint/test_held_state.cpp); here each is on disk once as
// source and once as target, and with [.all] every pair, which tests/soak/ calls.
#include <filesystem>
#include <mutex>

#include "checkpoint/digest.h"
#include "checkpoint/run_names.h"
#include "comm/thread_communicator.h"
#include "equivalence/layouts.h"
#include "resume/run_on_disk.h"
#include "support/catch.h"
#include "train/live_state.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

constexpr int kStepsBefore = 2;

// A checkpoint of one layout, and the step that followed.
struct Source {
  GridJob job;
  std::string directory;
  StepReport next = {};
  double max_over_mean_bytes = 0;
};

RunConfig job_config(const TokenFixture& tokens, DType real, int64_t vocab_size = 29) {
  RunConfig config = small_job_config(tokens.prefix(), vocab_size);
  config.fp64.enabled = real == DType::kF64;
  config.bf16.enabled = real == DType::kBF16;
  config.moe.num_shared_experts = 1;
  config.moe.router_bias_update_rate = 0.01;
  config.gradient_accumulation_steps = 2;
  config.train_batch_size = 16;
  return config;
}

// Most checkpoints are cut into many files, so that tensors lie in several.
constexpr int64_t kSmallFileBytes = 12'000;

void save_source(const RunConfig& config, Source& source,
                 int64_t max_file_bytes = kSmallFileBytes) {
  std::mutex mutex;
  run_ranks(source.job.ranks(), [&](Communicator& world) {
    TrainerOnRank on_rank(source.job.on(config), world);
    while (on_rank.trainer.step() < kStepsBefore) on_rank.trainer.train_step();
    RunOnDisk disk(on_rank, world, source.directory, true, max_file_bytes);
    disk.save();
    const StepReport report = on_rank.trainer.train_step();
    if (world.rank() != 0) return;
    const std::scoped_lock lock(mutex);
    source.next = report;
    source.max_over_mean_bytes = disk.max_over_mean_bytes();
  });
}

// Equal but for where things are.
void check_same_checkpoint(const SavedStep& a, const SavedStep& b) {
  SY_CHECK(a.digests == b.digests, "a tensor differs");
  SY_CHECK(a.state == b.state, "the training state differs");
  for (const auto& [key, tensor] : a.manifest.tensors) {
    const SavedTensor& other = b.manifest.tensors.at(key);
    SY_CHECK(
        tensor.shape == other.shape && tensor.dtype == other.dtype && tensor.role == other.role,
        "{} is another tensor", key);
  }
}

struct Tolerance {
  double loss, norm;  // relative, of the first step
};

// Loads each source on the layout of `to`, saves what has been loaded, and takes a step.
void load_on(const RunConfig& config, const GridJob& to, const std::vector<const Source*>& sources,
             const Tolerance& tolerance) {
  const TemporaryDirectory directory;
  run_ranks(to.ranks(), [&](Communicator& world) {
    TrainerOnRank on_rank(to.on(config), world);
    for (size_t i = 0; i < sources.size(); ++i) {
      const Source* const from = sources[i];
      write_garbage(on_rank.trainer);
      load_step(on_rank, world, from->directory, kStepsBefore);
      const std::string again = directory.file(std::to_string(i));
      RunOnDisk(on_rank, world, again).save();
      if (world.rank() == 0)
        check_same_checkpoint(saved_step(from->directory, kStepsBefore),
                              saved_step(again, kStepsBefore));
      const StepReport report = on_rank.trainer.train_step();
      const auto off = [](double a, double b) { return std::abs(a / b - 1); };
      SY_CHECK(off(report.lm_loss, from->next.lm_loss) <= tolerance.loss &&
                   off(report.grad_norm, from->next.grad_norm) <= tolerance.norm,
               "from {}: loss {} and norm {}, expected {} and {}", from->job.name(), report.lm_loss,
               report.grad_norm, from->next.lm_loss, from->next.grad_norm);
      SY_CHECK(report.tokens == from->next.tokens, "samples are lost or repeated");
    }
  });
}

// What a checkpoint has on disk: the bytes of its tensors, once, and little else.
void check_bytes(const Source& source) {
  const Manifest manifest = saved_step(source.directory, kStepsBefore).manifest;
  int64_t unique = 0, in_chunks = 0, data_in_files = 0;
  for (const auto& [key, tensor] : manifest.tensors) {
    int64_t numel = 1;
    for (const int64_t dim : tensor.shape) numel *= dim;
    unique += numel * static_cast<int64_t>(size_in_bytes(tensor.dtype));
    for (const Chunk& chunk : tensor.chunks) in_chunks += chunk.bytes;
  }
  for (const auto& [name, file] : manifest.files) data_in_files += file.bytes - file.header_bytes;
  CHECK(in_chunks == unique);
  CHECK(data_in_files == unique);
  // Stages hold what they hold; within a stage bytes spread.
  if (source.job.layout.pp == 1) CHECK(source.max_over_mean_bytes <= 1.10);
}

void check_cuts(const Source& source) {
  const Manifest manifest = saved_step(source.directory, kStepsBefore).manifest;
  CHECK(manifest.files.size() > 2 * static_cast<size_t>(source.job.ranks()));
  for (const auto& [name, file] : manifest.files) CHECK(file.bytes <= kSmallFileBytes);
}

enum class Pairs { kEachOnce, kAll };

void check_pairs(const RunConfig& config, const std::vector<GridJob>& jobs, Pairs pairs,
                 const Tolerance& tolerance) {
  const TemporaryDirectory directory;
  std::vector<Source> sources;
  for (const GridJob& job : jobs) {
    CAPTURE(job.name());
    sources.push_back({job, directory.file(std::to_string(sources.size()))});
    save_source(config, sources.back());
    check_bytes(sources.back());
    check_cuts(sources.back());
  }
  for (size_t to = 0; to < jobs.size(); ++to) {
    std::vector<const Source*> from;
    for (size_t i = 0; i < jobs.size(); ++i)
      if (pairs == Pairs::kAll ? i != to : i == (to + jobs.size() / 2) % jobs.size())
        from.push_back(&sources[i]);
    CAPTURE(jobs[to].name(), from.front()->job.name());
    CHECK_NOTHROW(load_on(config, jobs[to], from, tolerance));
  }
}

// Every cut, every ZeRO stage and interleaved stages, on 1 to 8 ranks.
const std::vector<GridJob> kTwelveLayouts = {{{.dp = 1}, 2},
                                             {{.dp = 2}, 1},
                                             {{.dp = 4, .ep = 2}, 2},
                                             {{.tp = 2}, 0},
                                             {{.tp = 4, .ep = 4}, 1},
                                             {{.pp = 2}, 5},
                                             {{.dp = 2, .tp = 2, .ep = 2, .etp = 2}, 2},
                                             {{.dp = 2, .tp = 2, .pp = 2, .ep = 4}, 4},
                                             {{.dp = 8, .ep = 8}, 1},
                                             {{.dp = 4, .pp = 2, .ep = 2}, 8},
                                             {{.tp = 8, .ep = 2}, 2},
                                             {{.dp = 2, .tp = 4, .ep = 2, .etp = 4}, 7}};

constexpr Tolerance kF64 = {1e-12, 1e-9}, kF32 = {1e-6, 1e-4};

}  // namespace

TEST_CASE("twelve layouts, each loaded by another: f64") {
  const TokenFixture tokens(320, 8, 29);
  check_pairs(job_config(tokens, DType::kF64), kTwelveLayouts, Pairs::kEachOnce, kF64);
}

TEST_CASE("twelve layouts, each loaded by another: f32") {
  const TokenFixture tokens(320, 8, 29);
  check_pairs(job_config(tokens, DType::kF32), kTwelveLayouts, Pairs::kEachOnce, kF32);
}

TEST_CASE("twelve layouts, every ordered pair", "[.all]") {
  const TokenFixture tokens(320, 8, 29);
  for (const DType real : {DType::kF64, DType::kF32})
    check_pairs(job_config(tokens, real), kTwelveLayouts, Pairs::kAll,
                real == DType::kF64 ? kF64 : kF32);
}

TEST_CASE("nasty shapes: primes, copies of heads, tied embeddings, padded buckets") {
  const TokenFixture tokens(320, 8, 257);
  RunConfig config = job_config(tokens, DType::kF64, 257);
  config.model.hidden_size = 24;
  config.model.num_attention_heads = 12;
  config.model.num_key_value_heads = 1;
  config.model.intermediate_size = 41;
  config.model.moe_intermediate_size = 13;
  config.moe.num_experts = 6;
  config.train_batch_size = 24;
  config.model.tie_word_embeddings = GENERATE(false, true);
  check_pairs(config,
              {{{.dp = 1}, 0},
               {{.dp = 3, .ep = 3}, 2},
               {{.dp = 4}, 2},
               {{.dp = 6, .ep = 2}, 1},
               {{.dp = 3, .pp = 2, .ep = 3}, 4}},
              Pairs::kEachOnce, kF64);
}

TEST_CASE("nasty shapes: fewer elements than ranks") {
  const TokenFixture tokens(320, 8, 5);
  RunConfig config = job_config(tokens, DType::kF64, 5);
  check_pairs(config,
              {{{.dp = 1}, 0}, {{.tp = 4}, 1}, {{.dp = 2, .tp = 4}, 2}, {{.dp = 8, .ep = 8}, 2}},
              Pairs::kAll, kF64);
}

TEST_CASE("experts over 1, 2, 4 and 8 ranks, cut or whole, some that no token has chosen") {
  const TokenFixture tokens(320, 8, 29);
  RunConfig config = job_config(tokens, DType::kF32);
  config.moe.num_experts = 32;
  config.moe.top_k = 1;
  config.moe.router_bias_update_rate = 0;
  const std::vector<GridJob> jobs = {{{.dp = 1}, 1},
                                     {{.dp = 2, .ep = 2}, 2},
                                     {{.dp = 4, .ep = 4}, 1},
                                     {{.dp = 8, .ep = 8}, 2},
                                     {{.dp = 2, .tp = 2, .ep = 2, .etp = 2}, 1},
                                     {{.dp = 4, .tp = 2, .ep = 2, .etp = 2}, 2},
                                     {{.dp = 2, .tp = 2, .ep = 4, .etp = 1}, 0}};
  check_pairs(config, jobs, Pairs::kEachOnce, kF32);
  const TemporaryDirectory directory;
  Source source = {jobs[3], directory.file("run")};
  save_source(config, source);
  const std::vector<float> zeros(16 * 16, 0.0f);
  const std::vector<int64_t> shape = {16, 16};
  const uint64_t of_zeros =
      digest_of(shape, whole_box(shape), DType::kF32, std::as_bytes(std::span(zeros)));
  const Digests digests = saved_step(source.directory, kStepsBefore).digests;
  int without_moments = 0;
  for (int expert = 0; expert < 32; ++expert)
    without_moments +=
        digests.at(fmt::format("exp_avg/model.layers.2.mlp.experts.{}.down_proj.weight", expert)) ==
                of_zeros
            ? 1
            : 0;
  CHECK(without_moments > 0);
  CHECK(without_moments < 32);
}

TEST_CASE("a checkpoint takes its bytes, and one percent for the rest") {
  const TokenFixture tokens(100, 8, 29);
  RunConfig config = job_config(tokens, DType::kBF16);
  config.model.hidden_size = 128;
  config.model.moe_intermediate_size = 256;
  config.train_batch_size = 8;
  config.gradient_accumulation_steps = 1;
  const TemporaryDirectory directory;
  Source source = {{{.dp = 4, .tp = 2, .ep = 2}, 1}, directory.file("run")};
  save_source(config, source, kMaxFileBytes);
  check_bytes(source);
  int64_t unique = 0, on_disk = 0;
  for (const auto& [key, tensor] : saved_step(source.directory, kStepsBefore).manifest.tensors)
    for (const Chunk& chunk : tensor.chunks) unique += chunk.bytes;
  for (const auto& entry : std::filesystem::directory_iterator(
           join(source.directory, name_of({.kind = RunEntryKind::kStep, .step = kStepsBefore}))))
    on_disk += static_cast<int64_t>(entry.file_size());
  CHECK(on_disk >= unique);
  CHECK(static_cast<double>(on_disk) <= 1.01 * static_cast<double>(unique));
}

TEST_CASE("a bit in which copies differ is found before one of them is dropped") {
  const TokenFixture tokens(100, 8, 29);
  const RunConfig config = GridJob{{.dp = 2}, 0}.on(job_config(tokens, DType::kF32));
  run_ranks(2, [&](Communicator& world) {
    const TemporaryDirectory directory;  // of rank 0's counts
    TrainerOnRank on_rank(config, world);
    on_rank.trainer.train_step();
    const std::vector<HeldTensor> held = held_by(on_rank);
    SY_CHECK(held.size() > 50, "{} tensors", held.size());
    for (size_t i = 0; i < held.size(); ++i) {
      auto* const byte = static_cast<unsigned char*>(held[i].data.raw()) +
                         i * 7919 % static_cast<size_t>(held[i].data.bytes());
      const auto flip = [&] {
        if (world.rank() == 1) *byte ^= static_cast<unsigned char>(1u << i % 8);
      };
      RunOnDisk disk(on_rank, world, directory.file(std::to_string(i)));
      flip();
      std::string found;
      try {
        disk.save();
      } catch (const Error& error) {
        SY_CHECK(error.code() == ExitCode::kInternal, "{}", error.what());
        found = error.what();
      }
      flip();
      SY_CHECK(found.find("\"" + held[i].key + "\"") != std::string::npos,
               "a bit of {} differs: \"{}\"", held[i].key, found);
    }
  });
}
