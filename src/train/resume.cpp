#include "train/resume.h"

#include <functional>

#include "checkpoint/checkpoint_reader.h"
#include "checkpoint/declarations.h"
#include "checkpoint/digest.h"
#include "checkpoint/held_state.h"
#include "checkpoint/run_names.h"
#include "checkpoint/tensor_digests.h"
#include "comm/collective_error.h"
#include "config/changes.h"
#include "core/fault.h"
#include "core/log.h"

namespace switchyard {
namespace {

// Why the checkpoint at hand is of no use: the message of the first rank on which `work` found it
// corrupt or could not read it. Nothing: it is fine on all ranks. Other errors go on.
std::optional<std::string> refusal(Communicator& world, const std::function<void()>& work) {
  try {
    agree(world, work);
    return std::nullopt;
  } catch (const CollectiveError& error) {
    if (error.code() != ExitCode::kData && error.code() != ExitCode::kStorage) throw;
    return error.what();
  }
}

class Loading {
 public:
  Loading(const LoadRequest& request, const RunConfig& config, Backend& backend,
          Communicator& world, Trainer& trainer)
      : request_(request),
        config_(config),
        backend_(backend),
        world_(world),
        trainer_(trainer),
        held_(request.scope == LoadScope::kEverything
                  ? held_state(trainer.parameters(), trainer.state(), trainer.optimizer())
                  : held_weights(trainer.parameters(), trainer.state())),
        regions_(regions_of(exchange_declarations(declarations_of(held_), world))) {}

  // Nothing: the step cannot be used, and `reason` says why.
  std::optional<TrainingState> load(int64_t step, std::string& reason) {
    const std::string directory =
        join(request_.run_directory, name_of({.kind = RunEntryKind::kStep, .step = step}));
    std::string text;
    if (const auto why = refusal(world_, [&] { text = checked_manifest(directory); })) {
      reason = *why;
      return std::nullopt;
    }
    world_.broadcast_host(text, 0);
    std::optional<CheckpointReader> reader;
    TrainingState state;
    const auto why = refusal(world_, [&] {
      reader.emplace(directory, parse_manifest(text, join(directory, kManifestFile)));
      state = training_state_from_json(reader->manifest().train, directory);
      check_config(reader->manifest());
      check_contents(reader->manifest(), regions_, request_.scope, directory);
      load_state(
          reader->manifest(),
          [&](const Chunk& chunk, int64_t begin, std::span<std::byte> out) {
            fault_point("load.read");
            reader->read(chunk, begin, out);
            backend_.marks().worked(static_cast<int64_t>(out.size()));
          },
          held_, backend_);
    });
    if (why) {
      reason = *why;
      return std::nullopt;
    }
    if (request_.scope == LoadScope::kWeights) trainer_.optimizer().refresh_masters();
    if (const auto differ = refusal(world_, check_loaded(reader->manifest(), directory))) {
      reason = *differ;
      return std::nullopt;
    }
    return state;
  }

 private:
  // Only rank 0 looks at the manifest file and at all the others.
  std::string checked_manifest(const std::string& directory) const {
    if (world_.rank() != 0) return "";
    const CheckpointReader reader(directory);
    reader.check_files();
    return to_json(reader.manifest());
  }

  void check_config(const Manifest& manifest) const {
    if (!request_.checks_config) return;
    for (const ConfigChange& change : check_changes(manifest.config, config_, request_.overrides))
      if (world_.rank() == 0) spdlog::info("changed since the checkpoint: {}", to_text(change));
  }

  // Collective now, and to be called on all ranks.
  std::function<void()> check_loaded(const Manifest& manifest, const std::string& directory) {
    const DigestsByRank digests = exchange_digests(digests_of(held_, backend_), world_);
    return [this, &manifest, directory, digests] {
      const auto differences = differing_replicas(regions_, digests);
      SY_REQUIRE(kData, differences.empty(), "{}: ranks have read different bits: {}", directory,
                 describe(differences));
      check_digests(manifest, tensor_digests(regions_, digests), directory);
    };
  }

  const LoadRequest& request_;
  const RunConfig& config_;
  Backend& backend_;
  Communicator& world_;
  Trainer& trainer_;
  const std::vector<HeldTensor> held_;
  const std::vector<Region> regions_;
};

}  // namespace

LoadedCheckpoint load_checkpoint(const LoadRequest& request, const RunConfig& config,
                                 Backend& backend, Communicator& world, Trainer& trainer) {
  backend.marks().enter(RunPhase::kLoad);
  std::string text = nlohmann::json(request.steps).dump();
  world.broadcast_host(text, 0);
  const std::vector<int64_t> steps = nlohmann::json::parse(text).get<std::vector<int64_t>>();
  Loading loading(request, config, backend, world, trainer);
  LoadedCheckpoint loaded;
  for (const int64_t step : steps) {
    std::string reason;
    if (std::optional<TrainingState> state = loading.load(step, reason)) {
      loaded.step = step;
      loaded.state = std::move(*state);
      return loaded;
    }
    loaded.passed_over +=
        fmt::format("{}step {}: {}", loaded.passed_over.empty() ? "" : "; ", step, reason);
  }
  throw CollectiveError(
      ExitCode::kData,
      fmt::format("{} holds no checkpoint that can be used: {}", request.run_directory,
                  loaded.passed_over.empty() ? "there is none" : loaded.passed_over));
}

}  // namespace switchyard
