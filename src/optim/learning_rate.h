// LearningRate: the learning rate of each step, a pure function of the step (from 1).
//
//   Constant              lr (of the optimizer)
//   WarmupLR              warm-up to max_lr, then constant
//   WarmupDecayLR         warm-up, then linear to 0 at total_num_steps
//   WarmupCosineLR        warm-up from warmup_min_ratio, then cosine to cos_min_ratio, times lr
//   WarmupStableDecayLR   warm-up, constant, then linear to decay_min_ratio in the last
//                         decay_num_steps (WSD, arXiv 2404.06395)
// Formulas of the first three warm-ups as in DeepSpeed 0.19.6, whose step t counts from 0; warm-up
// is "log": ln(t + 1) / ln(N), or "linear": t / N. There as here N is at least 2; 0 (which
// DeepSpeed refuses) means no warm-up.
#pragma once

#include <algorithm>
#include <cstdint>

#include "config/run_config.h"

namespace switchyard {

class LearningRate {
 public:
  // `config` is resolved.
  explicit LearningRate(const RunConfig& config)
      : type_(config.scheduler.type),
        params_(config.scheduler.params),
        base_(config.optimizer.params.lr),
        warmup_(params_.warmup_num_steps == 0
                    ? 0.0
                    : std::max(2.0, static_cast<double>(params_.warmup_num_steps))) {}

  double at(int64_t step) const;

 private:
  double warmup_fraction(double t) const;  // from 0 to 1
  double cosine_ratio(double t) const;
  double stable_decay_ratio(double t) const;

  SchedulerType type_;
  SchedulerParams params_;
  double base_;
  double warmup_;  // N
};

}  // namespace switchyard
