#include "save_job.h"

#include <cstring>
#include <filesystem>

#include "backend/cpu/cpu_backend.h"
#include "checkpoint/checkpoint_reader.h"
#include "checkpoint/load_state.h"
#include "checkpoint/run_entries.h"
#include "checkpoint/tensor_digests.h"
#include "comm/collective_error.h"
#include "comm/thread_communicator.h"
#include "core/fault.h"
#include "core/log.h"

namespace switchyard::test {
namespace {

constexpr int64_t kRowsOfRank = 2;

// Of the element that is number `index` in the whole tensor number `tensor`.
double value_of(int64_t step, size_t tensor, int64_t index) {
  return static_cast<double>(step * 4096 + static_cast<int64_t>(tensor) * 1024 + index % 1024);
}

int64_t first_index(const HeldTensor& held) {
  return held.shape.size() == 2 ? held.box.offset[0] * held.shape[1] : 0;
}

template <typename Visit>  // (value, bytes of the element)
void for_each_element(const std::vector<HeldTensor>& held, int64_t step, const Visit& visit) {
  for (size_t i = 0; i < held.size(); ++i) {
    auto* bytes = static_cast<std::byte*>(held[i].data.raw());
    const size_t item = size_in_bytes(held[i].data.dtype());
    for (int64_t n = 0; n < held[i].box.numel(); ++n, bytes += item) {
      const double value = value_of(step, i, first_index(held[i]) + n);
      const auto narrow = static_cast<float>(value);
      std::byte expected[8];
      std::memcpy(expected, item == 8 ? static_cast<const void*>(&value) : &narrow, item);
      visit(bytes, expected, item);
    }
  }
}

}  // namespace

StepState::StepState(int rank, int num_ranks, int64_t columns) {
  const std::vector<int64_t> matrix = {kRowsOfRank * num_ranks, columns};
  const Box rows{{kRowsOfRank * rank, 0}, {kRowsOfRank, columns}};
  add(TensorRole::kParam, "matrix", DType::kF32, matrix, rows);
  add(TensorRole::kExpAvg, "matrix", DType::kF32, matrix, rows);
  add(TensorRole::kParam, "vector", DType::kF32, {16}, {{0}, {16}});
  add(TensorRole::kState, "biases", DType::kF64, {5}, {{0}, {5}});
}

void StepState::add(TensorRole role, const std::string& name, DType dtype,
                    std::vector<int64_t> shape, Box box) {
  const int64_t numel = box.numel();
  memory_.emplace_back(static_cast<size_t>(numel) * size_in_bytes(dtype));
  held_.push_back({.key = tensor_key(role, name),
                   .role = role,
                   .shape = std::move(shape),
                   .box = std::move(box),
                   .data = Tensor(memory_.back().data(), dtype, {numel})});
}

void StepState::set(int64_t step) {
  for_each_element(held_, step, [](std::byte* bytes, const std::byte* expected, size_t item) {
    std::memcpy(bytes, expected, item);
  });
}

bool StepState::is_of(int64_t step) const {
  bool same = true;
  for_each_element(held_, step, [&](std::byte* bytes, const std::byte* expected, size_t item) {
    same = same && std::memcmp(bytes, expected, item) == 0;
  });
  return same;
}

int64_t StepState::bytes() const {
  int64_t total = 0;
  for (const HeldTensor& held : held_) total += held.data.bytes();
  return total;
}

SaveContents contents_of(int64_t step) {
  SaveContents contents = {
      .step = step, .time = "2026-01-01T00:00:00Z", .code = {.version = "test"}};
  contents.config = contents.layout = nlohmann::ordered_json::object();
  contents.train = {{"content", step}};
  return contents;
}

namespace {

std::string directory_of_step(const std::string& directory, int64_t step) {
  return join(directory, name_of({.kind = RunEntryKind::kStep, .step = step}));
}

ChunkReader reading(const CheckpointReader& reader) {
  return [&](const Chunk& chunk, int64_t begin, std::span<std::byte> out) {
    reader.read(chunk, begin, out);
  };
}

// False: the step cannot be used.
bool loads(const std::string& directory, int64_t step, Communicator& world, Backend& backend,
           StepState& state) {
  try {
    agree(world, [&] {
      const CheckpointReader reader(directory_of_step(directory, step));
      reader.check_files();
      load_state(reader.manifest(), reading(reader), state.held(), backend);
    });
  } catch (const CollectiveError& error) {
    if (error.code() != ExitCode::kData && error.code() != ExitCode::kStorage) throw;
    if (world.rank() == 0) spdlog::warn("step {} is passed over: {}", step, error.what());
    return false;
  }
  SY_CHECK(state.is_of(step), "MIXED: step {} holds something else", step);
  return true;
}

// Fills `state` from the newest checkpoint that can be used. Returns its step; -1: the run is new.
int64_t resume(RunDirectory* run, const std::string& directory, Communicator& world,
               Backend& backend, StepState& state) {
  std::vector<int64_t> steps;
  if (run) steps = run->committed_steps();
  std::string text = nlohmann::json(steps).dump();
  world.broadcast_host(text, 0);
  for (const int64_t step : nlohmann::json::parse(text).get<std::vector<int64_t>>()) {
    if (!loads(directory, step, world, backend, state)) continue;
    agree(world, [&] {
      if (run) run->go_back_to(step);
    });
    if (run) spdlog::info("resumed step {}", step);
    return step;
  }
  agree(world, [&] { SY_REQUIRE(kData, !run || run->is_new(), "LOST: no step can be used"); });
  return -1;
}

void run_rank(const SaveJob& job, Communicator& world) {
  set_fault_rank(world.rank());
  CpuBackend backend(1);
  StepState state(world.rank(), world.size(), job.columns);
  std::shared_ptr<RunDirectory> run;
  agree(world, [&] {
    if (world.rank() == 0)
      run = std::make_shared<RunDirectory>(*job.storage, job.directory,
                                           RunDirectory::Options{.lock_wait_s = 5});
  });
  int64_t step = resume(run.get(), job.directory, world, backend, state);
  SaveSettings settings = job.settings;
  settings.loaded_step = step;
  Checkpointer checkpointer(settings, world, backend, state.held(), job.storage, run);
  while (++step <= job.last_step) {
    state.set(step);
    fault_point("train.step");
    checkpointer.begin(contents_of(step));
    if (job.after_begin)
      job.after_begin(checkpointer, state, step);
    else
      checkpointer.finish();
  }
  if (job.drains) checkpointer.finish();
}

}  // namespace

void run_save_job(const SaveJob& job) {
  run_ranks(job.num_ranks, [&](Communicator& world) { run_rank(job, world); });
}

bool is_whole(const std::string& directory, int64_t step) {
  try {
    const CheckpointReader reader(directory_of_step(directory, step));
    reader.verify_everything();
    const Manifest& manifest = reader.manifest();
    const std::vector<int64_t>& shape = manifest.tensors.at("matrix").shape;
    const auto num_ranks = static_cast<int>(shape[0] / kRowsOfRank);
    CpuBackend backend(1);
    bool same = manifest.train.at("content") == step;
    for (int rank = 0; rank < num_ranks; ++rank) {
      StepState state(rank, num_ranks, shape[1]);
      load_state(manifest, reading(reader), state.held(), backend);
      same = same && state.is_of(step);
    }
    return same;
  } catch (const Error&) {
    return false;
  }
}

std::vector<int64_t> whole_steps(const std::string& directory) {
  std::vector<int64_t> whole;
  for (const int64_t step : committed_steps_in(directory))
    if (is_whole(directory, step)) whole.push_back(step);
  return whole;
}

std::vector<int64_t> newest_and_loaded(std::vector<int64_t> newest,
                                       const std::vector<int64_t>& loaded) {
  for (const int64_t step : loaded)
    if (std::find(newest.begin(), newest.end(), step) == newest.end()) newest.push_back(step);
  return newest;
}

std::vector<std::string> leftovers(const std::string& directory) {
  std::vector<std::string> names;
  for (const RunEntry& entry : entries_of(directory))
    if (entry.kind != RunEntryKind::kStep && entry.kind != RunEntryKind::kSuperseded)
      names.push_back(name_of(entry));
  return names;
}

}  // namespace switchyard::test
