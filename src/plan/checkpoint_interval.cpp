#include "plan/checkpoint_interval.h"

#include <fmt/format.h>

#include <cmath>

namespace switchyard {

double young_interval(const FailureModel& model) {
  return std::sqrt(2 * model.save_s * model.mttf_s);
}

double daly_interval(const FailureModel& model) {
  const double ratio = model.save_s / (2 * model.mttf_s);
  if (ratio >= 1) return model.mttf_s;
  return young_interval(model) * (1 + std::sqrt(ratio) / 3 + ratio / 9) - model.save_s;
}

double expected_ettr(const FailureModel& model, double interval) {
  const double m = model.mttf_s;
  return interval / (m * std::exp((model.restart_s + model.persist_s) / m) *
                     std::expm1((interval + model.save_s) / m));
}

FailureRates with_save_times(FailureRates rates, const SaveSpeeds& speeds, double checkpoint_bytes,
                             double copy_bytes, bool is_async) {
  if (speeds.write_gb_per_s > 0) {
    const double write_s = checkpoint_bytes / 1e9 / speeds.write_gb_per_s;
    rates.save_s = is_async ? rates.save_s : write_s;
    rates.persist_s = is_async ? write_s : 0;
  }
  if (is_async && speeds.copy_gb_per_s > 0) rates.save_s = copy_bytes / 1e9 / speeds.copy_gb_per_s;
  return rates;
}

std::string checkpoint_interval_text(const FailureRates& rates, int num_ranks) {
  std::string text = fmt::format(
      "checkpoint interval (Young/Daly), if a save stops training for {:.4g} s and is on the disk "
      "{:.4g} s later, and a restart takes {:.4g} s:\n",
      rates.save_s, rates.persist_s, rates.restart_s);
  for (const double hours : rates.rank_mtbf_hours) {
    const FailureModel model = {.mttf_s = 3600 * hours / num_ranks,
                                .save_s = rates.save_s,
                                .persist_s = rates.persist_s,
                                .restart_s = rates.restart_s};
    const double interval = daly_interval(model);
    text += fmt::format(
        "  a failure per rank every {:.6g} h, of the job every {:.4g} h: checkpoint."
        "interval_minutes {:.3g} (Young: {:.3g}), {:.2f} % of the time productive\n",
        hours, hours / num_ranks, interval / 60, young_interval(model) / 60,
        100 * expected_ettr(model, interval));
  }
  return text;
}

}  // namespace switchyard
