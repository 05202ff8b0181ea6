#include "train/resume.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <thread>

#include "checkpoint/checkpoint_reader.h"
#include "checkpoint/declarations.h"
#include "checkpoint/digest.h"
#include "checkpoint/file.h"
#include "checkpoint/held_state.h"
#include "checkpoint/run_names.h"
#include "checkpoint/tensor_digests.h"
#include "comm/collective_error.h"
#include "config/changes.h"
#include "core/fault.h"
#include "core/log.h"

namespace switchyard {
namespace {

constexpr std::chrono::seconds kPauseBeforeRetry(1);

struct Refusal {
  ExitCode code = ExitCode::kData;
  std::string text = {};
};

// Why the checkpoint at hand is of no use: the message of the first rank on which `work` found it
// corrupt or could not read it. Nothing: it is fine on all ranks. Other errors go on. Collective.
std::optional<Refusal> refusal(Communicator& world, const std::function<void()>& work) {
  try {
    agree(world, work);
    return std::nullopt;
  } catch (const CollectiveError& error) {
    if (error.code() != ExitCode::kData && error.code() != ExitCode::kStorage) throw;
    return Refusal{error.code(), error.what()};
  }
}

// "" where it cannot be read: why is for its reader to say.
std::string manifest_text(const std::string& path) {
  try {
    return read_file_of_checkpoint(path, kMaxManifestBytes);
  } catch (const Error&) {
    return "";
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
  std::optional<TrainingState> load(int64_t step, Refusal& reason) {
    const std::string directory =
        join(request_.run_directory, name_of({.kind = RunEntryKind::kStep, .step = step}));
    refuse_newer_format(directory);
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
      check_identity(reader->manifest(), state, step, directory);
      check_config(reader->manifest(), state);
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
  // What a later version has written is not damaged: nothing older is taken in its place.
  void refuse_newer_format(const std::string& directory) const {
    agree(world_, [&] {
      if (world_.rank() != 0) return;
      const std::string path = join(directory, kManifestFile);
      const std::string text = manifest_text(path);
      if (is_newer_manifest(text)) parse_manifest(text, path);  // says what is wrong
    });
  }

  // Only rank 0 looks at the manifest file and at all the others.
  std::string checked_manifest(const std::string& directory) const {
    if (world_.rank() != 0) return "";
    const CheckpointReader reader(directory);
    reader.check_files();
    return to_json(reader.manifest());
  }

  // A directory that was renamed, or brought from another run.
  void check_identity(const Manifest& manifest, const TrainingState& state, int64_t step,
                      const std::string& directory) const {
    SY_REQUIRE(kData, manifest.id.step == step && state.step == step,
               "{}: holds step {} ({} in its training state), expected {}: was it renamed?",
               directory, manifest.id.step, state.step, step);
    SY_REQUIRE(kData, request_.run_id.empty() || manifest.id.run_id == request_.run_id,
               "{}: is of run {}, expected {}: was it brought from elsewhere? (--init-from takes "
               "weights of another run)",
               directory, manifest.id.run_id, request_.run_id);
  }

  void check_config(const Manifest& manifest, const TrainingState& state) const {
    if (!request_.checks_config) return;
    for (const ConfigChange& change : check_changes(manifest.config, config_, request_.overrides))
      if (world_.rank() == 0) spdlog::info("changed since the checkpoint: {}", to_text(change));
    const std::string& dataset = trainer_.training_state().dataset;
    const bool is_allowed =
        std::ranges::find(request_.overrides, "data.path") != request_.overrides.end();
    SY_REQUIRE(kConfig, state.dataset == dataset || is_allowed,
               "{} holds {}, the run began with {}: samples would be repeated or lost. Bring the "
               "old token file back, or accept the new one with --override data.path",
               config_.data.path, dataset, state.dataset);
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
    Refusal reason;
    std::optional<TrainingState> state = loading.load(step, reason);
    if (!state && reason.code == ExitCode::kStorage) {  // a network that stumbled, maybe
      if (world.rank() == 0) spdlog::warn("trying step {} once more: {}", step, reason.text);
      std::this_thread::sleep_for(kPauseBeforeRetry);
      state = loading.load(step, reason);
    }
    if (state) {
      loaded.step = step;
      loaded.state = std::move(*state);
      return loaded;
    }
    loaded.passed_over +=
        fmt::format("{}step {}: {}", loaded.passed_over.empty() ? "" : "; ", step, reason.text);
  }
  throw CollectiveError(
      ExitCode::kData,
      fmt::format("{} holds no checkpoint that can be used: {}", request.run_directory,
                  loaded.passed_over.empty() ? "there is none" : loaded.passed_over));
}

}  // namespace switchyard
