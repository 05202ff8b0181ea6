#include "train/run_log.h"

#include <cmath>

#include "core/log.h"
#include "data/ngram_baseline.h"
#include "train/flops.h"

namespace switchyard {

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

}  // namespace switchyard
