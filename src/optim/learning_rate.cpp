#include "optim/learning_rate.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace switchyard {

double LearningRate::at(int64_t step) const {
  if (type_ == SchedulerType::kConstant) return base_;
  const auto t = static_cast<double>(step - 1);
  const auto total = static_cast<double>(*params_.total_num_steps);
  const double low = params_.warmup_min_lr, high = *params_.warmup_max_lr;
  if (type_ == SchedulerType::kWarmupCosineLR) return base_ * cosine_ratio(t);
  if (t < warmup_) return low + (high - low) * warmup_fraction(t);
  switch (type_) {
    case SchedulerType::kWarmupDecayLR:
      return low + (high - low) * std::max(0.0, (total - t) / std::max(1.0, total - warmup_));
    case SchedulerType::kWarmupStableDecayLR:
      return high * stable_decay_ratio(t);
    default:
      return high;
  }
}

double LearningRate::warmup_fraction(double t) const {
  return params_.warmup_type == WarmupType::kLog ? std::log(t + 1) / std::log(warmup_)
                                                 : t / warmup_;
}

double LearningRate::cosine_ratio(double t) const {
  const auto total = static_cast<double>(*params_.total_num_steps);
  if (t < warmup_)
    return params_.warmup_min_ratio + (1 - params_.warmup_min_ratio) * warmup_fraction(t);
  const double progress = std::min(1.0, (t - warmup_ + 1) / std::max(1.0, total - warmup_));
  const double cosine = (1 + std::cos(std::numbers::pi * progress)) / 2;
  return params_.cos_min_ratio + (1 - params_.cos_min_ratio) * cosine;
}

double LearningRate::stable_decay_ratio(double t) const {
  const auto decay = static_cast<double>(*params_.decay_num_steps);
  const auto left = static_cast<double>(*params_.total_num_steps) - t;
  const double fraction = std::clamp(left / std::max(1.0, decay), 0.0, 1.0);
  return params_.decay_min_ratio + (1 - params_.decay_min_ratio) * fraction;
}

}  // namespace switchyard
