#include "resume/run_on_disk.h"

#include <spdlog/spdlog.h>

#include "checkpoint/checkpoint_reader.h"
#include "checkpoint/digest.h"
#include "checkpoint/held_state.h"
#include "checkpoint/run_names.h"
#include "comm/collective_error.h"
#include "config/config.h"

namespace switchyard::test {
std::vector<HeldTensor> held_by(TrainerOnRank& on_rank) {
  Trainer& trainer = on_rank.trainer;
  return held_state(trainer.parameters(), trainer.state(), trainer.optimizer());
}

RunOnDisk::RunOnDisk(TrainerOnRank& on_rank, Communicator& world, const std::string& directory,
                     bool async, int64_t max_file_bytes)
    : on_rank_(on_rank), world_(world), directory_(directory) {
  spdlog::set_level(spdlog::level::warn);
  const auto storage = std::make_shared<Storage>();
  agree(world, [&] {
    if (world.rank() == 0)
      run_ = std::make_shared<RunDirectory>(*storage, directory, RunDirectory::Options{});
  });
  checkpointer_.emplace(
      SaveSettings{
          .async = async, .retention = {.keep_last = 1'000'000}, .max_file_bytes = max_file_bytes},
      world, on_rank.backend, held_by(on_rank), storage, run_);
}

bool RunOnDisk::load_newest() {
  std::vector<int64_t> steps;
  if (run_) steps = run_->committed_steps();
  if (world_.all_reduce_max_host(steps.empty() ? 0 : 1) == 0) return false;
  const LoadedCheckpoint loaded =
      load_checkpoint({.run_directory = directory_, .steps = steps}, on_rank_.config,
                      on_rank_.backend, world_, on_rank_.trainer);
  on_rank_.trainer.restore(loaded.state);
  return true;
}

void RunOnDisk::save() {
  on_rank_.trainer.optimizer().wait_for_params();
  const TrainingState& state = on_rank_.trainer.training_state();
  SaveContents contents = {.step = state.step};
  if (world_.rank() == 0) {
    contents.code.version = "test";
    contents.config = nlohmann::ordered_json::parse(to_json(on_rank_.config));
    contents.layout = nlohmann::ordered_json::object();
    contents.train = to_json(state);
  }
  checkpointer_->begin(std::move(contents));
  checkpointer_->finish();
  SY_CHECK(checkpointer_->committed_step() == state.step, "step {} is not saved", state.step);
}

void load_step(TrainerOnRank& on_rank, Communicator& world, const std::string& directory,
               int64_t step) {
  const LoadedCheckpoint loaded =
      load_checkpoint({.run_directory = directory, .steps = {step}}, on_rank.config,
                      on_rank.backend, world, on_rank.trainer);
  on_rank.trainer.restore(loaded.state);
}

Digests digests_of(TrainerOnRank& on_rank, Communicator& world) {
  const std::vector<HeldTensor> held = held_by(on_rank);
  const std::vector<Region> regions =
      regions_of(exchange_declarations(declarations_of(held), world));
  const DigestsByRank by_rank =
      exchange_digests(switchyard::digests_of(held, on_rank.backend), world);
  const auto differences = differing_replicas(regions, by_rank);
  SY_CHECK(differences.empty(), "copies differ: {}", describe(differences));
  return tensor_digests(regions, by_rank);
}

SavedStep saved_step(const std::string& directory, int64_t step) {
  const std::string path = join(directory, name_of({.kind = RunEntryKind::kStep, .step = step}));
  const CheckpointReader reader(path);
  reader.verify_everything();
  SavedStep saved = {.manifest = reader.manifest(),
                     .state = training_state_from_json(reader.manifest().train, path)};
  for (const auto& [key, tensor] : saved.manifest.tensors) saved.digests[key] = tensor.digest;
  return saved;
}

}  // namespace switchyard::test
