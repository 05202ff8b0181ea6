#include "train/metrics.h"

#include <unistd.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <span>

#include "core/log.h"
#include "train/metrics_file.h"

namespace switchyard {
namespace {

using Json = nlohmann::ordered_json;

Json number(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
  return value;
}

std::string duration_text(double seconds) {
  const auto total = static_cast<int64_t>(seconds + 0.5);
  if (total >= 3600) return fmt::format("{}h{:02}m", total / 3600, total / 60 % 60);
  return fmt::format("{}m{:02}s", total / 60, total % 60);
}

std::string step_line(const StepReport& report, int64_t total_steps, double eta_s) {
  return fmt::format(
      "step {:>{}}/{}  loss {:7.4f}  balance {:5.3f}  norm {:8.3g}  lr {:8.2e}  {:>9.0f} tokens/s  "
      "mfu {:4.1f} %  load {:4.2f}  drop {:4.1f} %  eta {}",
      report.step, std::to_string(total_steps).size(), total_steps, report.lm_loss,
      report.moe.load_balancing_loss, report.grad_norm, report.learning_rate, report.tokens_per_s,
      100 * report.mfu, report.moe.expert_load_max_over_mean, 100 * report.moe.dropped_fraction,
      duration_text(eta_s));
}

// Fits into 80 columns: a line that wraps cannot be rewritten.
std::string progress_line(const StepReport& report, int64_t total_steps, double eta_s) {
  return fmt::format("step {}/{}  loss {:.4f}  {:.0f} tokens/s  eta {}", report.step, total_steps,
                     report.lm_loss, report.tokens_per_s, duration_text(eta_s));
}

Json to_json(const MoeLayerStatistics& layer) {
  return {{"layer", layer.layer},
          {"expert_load_max_over_mean", number(layer.expert_load_max_over_mean)},
          {"router_entropy", number(layer.router_entropy)},
          {"dead_experts", layer.dead_experts},
          {"dropped_fraction", number(layer.dropped_fraction)}};
}

}  // namespace

std::string to_json_line(const StepReport& report) {
  Json layers = Json::array();
  for (const MoeLayerStatistics& layer : report.moe.layers) layers.push_back(to_json(layer));
  Json json = {{"step", report.step},
               {"tokens", report.tokens},
               {"lm_loss", number(report.lm_loss)},
               {"load_balancing_loss", number(report.moe.load_balancing_loss)},
               {"z_loss", number(report.moe.z_loss)},
               {"grad_norm", number(report.grad_norm)},
               {"learning_rate", number(report.learning_rate)},
               {"step_time_s", number(report.step_time_s)},
               {"tokens_per_s", number(report.tokens_per_s)},
               {"tflops", number(report.tflops)},
               {"mfu", number(report.mfu)},
               {"all_to_all_time_s", number(report.all_to_all_time_s)},
               {"all_to_all_bytes", static_cast<int64_t>(report.all_to_all_bytes)},
               {"expert_load_max_over_mean", number(report.moe.expert_load_max_over_mean)},
               {"dropped_fraction", number(report.moe.dropped_fraction)},
               {"moe_layers", layers},
               {"peak_memory_bytes", report.peak_memory_bytes},
               {"arena_growths", report.arena_growths},
               {"skipped_steps", report.skipped_steps},
               {"consecutive_skipped_steps", report.consecutive_skipped_steps}};
  if (report.outcome != StepOutcome::kApplied) json["skip_reason"] = report.skip_reason;
  return json.dump();
}

Metrics::Metrics(const std::string& path, int64_t attempt, int64_t total_steps,
                 int64_t steps_per_print)
    : file_(File::open_or_create(path)),
      end_(file_.size()),
      attempt_(attempt),
      total_steps_(total_steps),
      steps_per_print_(steps_per_print),
      on_terminal_(isatty(STDERR_FILENO) != 0) {}

void Metrics::write(const std::string& object) {
  kept_ += stamped(object, attempt_) + '\n';
  try {
    write_kept_lines();
    is_failing_ = false;
  } catch (const Error& error) {
    if (!is_failing_)
      spdlog::warn("metrics are kept in memory until they can be written: {}", error.what());
    is_failing_ = true;
  }
}

// All of them or none: a part of a line would be taken for the end of a killed run.
void Metrics::write_kept_lines() {
  try {
    file_.write_at(end_, std::as_bytes(std::span(kept_)));
  } catch (const Error&) {
    file_.cut_at(end_);
    throw;
  }
  end_ += static_cast<int64_t>(kept_.size());
  kept_.clear();
}

void Metrics::add(const StepReport& report) {
  write(to_json_line(report));
  if (report.outcome != StepOutcome::kApplied) {
    end_progress();
    spdlog::warn("step {} is skipped, {} in a row: {}", report.step,
                 report.consecutive_skipped_steps, report.skip_reason);
  }
  mean_step_s_ =
      mean_step_s_ == 0 ? report.step_time_s : 0.9 * mean_step_s_ + 0.1 * report.step_time_s;
  const double eta_s = static_cast<double>(total_steps_ - report.step) * mean_step_s_;
  if (report.step == 1 || report.step == total_steps_ || report.step % steps_per_print_ == 0) {
    end_progress();
    spdlog::info("{}", step_line(report, total_steps_, eta_s));
  } else {
    show_progress(progress_line(report, total_steps_, eta_s));
  }
  log_growth(report);
}

// The first step sizes the arenas; later ones only follow the routing.
void Metrics::log_growth(const StepReport& report) {
  if (report.step > 1 && report.arena_growths > arena_growths_) {
    end_progress();
    spdlog::info("step {}  memory grew by {} block(s), to {:.1f} MB on the rank with most",
                 report.step, report.arena_growths - arena_growths_,
                 static_cast<double>(report.peak_memory_bytes) / 1e6);
  }
  arena_growths_ = report.arena_growths;
}

void Metrics::add_validation(int64_t step, const ValidationReport& report) {
  end_progress();
  const Json json = {{"step", step},
                     {"validation_lm_loss", number(report.lm_loss)},
                     {"validation_targets", report.num_targets}};
  write(json.dump());
  spdlog::info("step {}  validation loss {:.4f} nats/token = {:.4f} bits/token ({} tokens)", step,
               report.lm_loss, report.lm_loss / std::log(2.0), report.num_targets);
}

void Metrics::add_goodput(int64_t step, const GoodputReport& report) {
  end_progress();
  const Json json = {{"step", step}, {"goodput", to_json(report)}};
  write(json.dump());
  spdlog::info("{}", to_text(report));
}

void Metrics::show_progress(const std::string& line) {
  if (!on_terminal_) return;
  fmt::print(stderr, "\r\033[K{}", line);
  std::fflush(stderr);
  line_is_open_ = true;
}

void Metrics::end_progress() {
  if (line_is_open_) fmt::print(stderr, "\r\033[K");
  line_is_open_ = false;
}

}  // namespace switchyard
