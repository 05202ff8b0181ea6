#include "train/run.h"

#include <cmath>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "checkpoint/weights.h"
#include "comm/collective_error.h"
#include "config/config.h"
#include "core/log.h"
#include "data/dataset.h"
#include "data/ngram_baseline.h"
#include "model/trainable.h"
#include "train/flops.h"
#include "train/metrics.h"
#include "train/trainer.h"

namespace switchyard {
namespace {

namespace fs = std::filesystem;

void write_file(const fs::path& path, const std::string& text) {
  std::ofstream file(path);
  file << text << '\n';
  file.close();
  SY_REQUIRE(kStorage, file.good(), "cannot write {}: check space and permissions", path.string());
}

void create_run_directory(const RunConfig& config, Backend& backend, const ProcessGrid& grid) {
  const fs::path directory = config.training.output_dir;
  SY_REQUIRE(kStorage, !fs::exists(directory / "metrics.jsonl"),
             "{} already holds a run, which would be overwritten (training cannot resume yet): "
             "choose another training.output_dir, or move the old run away",
             directory.string());
  std::error_code failure;
  fs::create_directories(directory, failure);
  SY_REQUIRE(kStorage, !failure, "cannot create {}: {}", directory.string(), failure.message());
  write_file(directory / "config.json", to_json(config));
  const nlohmann::ordered_json environment = {{"version", SWITCHYARD_VERSION},
                                              {"ranks", grid.world().size()},
                                              {"process_grid", grid.description()},
                                              {"device", backend.description()}};
  write_file(directory / "environment.json", environment.dump(2));
}

void log_start(const RunConfig& config, Backend& backend, const ProcessGrid& grid,
               const Dataset& dataset, const ParameterCount& count) {
  const auto millions = [](int64_t number) { return static_cast<double>(number) / 1e6; };
  spdlog::info("{} ranks: {}; each: {}, {}", grid.world().size(), grid.description(),
               backend.description(), name_of(config.real()));
  spdlog::info(
      "{:.2f} M parameters, {:.2f} M of them multiply each token; {:.2f} M are trained, {:.2f} M "
      "frozen; {} sequences of {} tokens per step",
      millions(count.trained + count.frozen), millions(active_matmul_parameters(config)),
      millions(count.trained), millions(count.frozen), *config.train_batch_size,
      config.data.sequence_length);
  spdlog::info("data {}: {} training and {} validation sequences; run directory {}",
               config.data.path, dataset.num_samples(Split::kTrain),
               dataset.num_samples(Split::kValidation), config.training.output_dir);
}

// Of rank 0; stages of a pipeline and ranks with more experts differ.
void log_memory(const RunConfig& config, const ProcessGrid& grid, const ZeroOptimizer& optimizer) {
  const int stage = config.zero_optimization.stage;
  spdlog::info("weights, gradients and optimizer state (ZeRO stage {}):", stage);
  bool has_experts = false;
  for (const MemoryOfGroup& group : optimizer.memory()) {
    spdlog::info("  {}", group.text());
    has_experts = has_experts || group.key.group == ReplicaGroup::kExpert;
  }
  if (optimizer.bytes_in_flight() > 0)
    spdlog::info("  gradients in flight: {:.1f} MB",
                 static_cast<double>(optimizer.bytes_in_flight()) / 1e6);
  if (stage > 0 && has_experts && grid.edp().size() == 1)
    spdlog::warn(
        "zero_optimization.stage {} cuts nothing of the experts: with ep {} x etp {}, no two ranks "
        "hold the same ones (edp 1)",
        stage, grid.sizes().ep, grid.sizes().etp);
}

void log_validation(const RunConfig& config, const Dataset& dataset,
                    const ValidationReport& report) {
  const double bits = report.lm_loss / std::log(2.0);
  spdlog::info("validation on all {} held-out tokens: {:.4f} bits per byte", report.num_targets,
               bits);
  if (!config.training.ngram_baselines) return;
  const NgramBaselines baselines = ngram_baselines(dataset);
  spdlog::info("  byte bigram  baseline: {:.4f} bits per byte ({})", baselines.bigram,
               bits < baselines.bigram ? "beaten" : "NOT beaten");
  spdlog::info("  byte trigram baseline: {:.4f} bits per byte ({})", baselines.trigram,
               bits < baselines.trigram ? "beaten" : "not beaten");
}

}  // namespace

void run_training(const RunConfig& config, Backend& backend, const ProcessGrid& grid) {
  Communicator& world = grid.world();
  ParameterCount count;  // first of all: a wrong pattern leaves no run directory behind
  agree(world, [&] { count = count_parameters(config, backend); });
  std::optional<Dataset> dataset;
  agree(world, [&] { dataset.emplace(open_dataset(config)); });
  agree(world, [&] {
    if (world.rank() == 0) create_run_directory(config, backend, grid);
  });

  Trainer trainer(config, backend, grid, *dataset);
  std::optional<Metrics> metrics;
  const fs::path directory = config.training.output_dir;
  if (world.rank() == 0) {
    log_start(config, backend, grid, *dataset, count);
    log_memory(config, grid, trainer.optimizer());
    metrics.emplace(directory / "metrics.jsonl", config.training.max_steps, config.steps_per_print);
  }

  while (trainer.step() < config.training.max_steps) {
    const StepReport report = trainer.train_step();
    if (metrics) metrics->add(report);
    check_finite(report);
    const int64_t interval = config.training.eval_interval;
    if (interval > 0 && report.step % interval == 0 && report.step < config.training.max_steps) {
      const ValidationReport validation = trainer.validate(config.training.eval_num_batches);
      if (metrics) metrics->add_validation(report.step, validation);
    }
  }

  const std::string weights = (directory / "model.safetensors").string();
  save_weights(weights, trainer.parameters(), trainer.state(), backend, world);
  if (metrics) spdlog::info("weights saved in {}", weights);

  const ValidationReport validation = trainer.validate(0);
  if (metrics) {
    metrics->add_validation(trainer.step(), validation);
    log_validation(config, *dataset, validation);
  }
}

}  // namespace switchyard
