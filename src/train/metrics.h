// Metrics: what a run tells about itself: one aligned line for people, one JSON object per step in
// RUN/metrics.jsonl for programs, and on a terminal a line that is rewritten at every step. Rank 0
// only.
#pragma once

#include <cstdio>
#include <string>

#include "checkpoint/file.h"
#include "train/goodput.h"
#include "train/trainer.h"

namespace switchyard {

// {"step":1,...,"moe_layers":[{"layer":0,...},...]} with the shortest text that reads back to the
// same bits; NaN and infinities, which JSON cannot say as numbers, are the strings "NaN",
// "Infinity", "-Infinity".
std::string to_json_line(const StepReport& report);

class Metrics {
 public:
  // Appends to `path` (train/metrics_file.h), for this attempt at the run; `total_steps` is for the
  // ETA. A log line every `steps_per_print` steps. Lines that the disk does not take are kept, with
  // a warning, and written with later ones. Error: kStorage, when there is no such file and none
  // can be made.
  Metrics(const std::string& path, int64_t attempt, int64_t total_steps, int64_t steps_per_print);

  void add(const StepReport& report);
  void add_validation(int64_t step, const ValidationReport& report);
  void add_goodput(int64_t step, const GoodputReport& report);

 private:
  void write(const std::string& object);  // a line
  void write_kept_lines();
  void log_growth(const StepReport& report);
  void show_progress(const std::string& line);  // rewrites the terminal's last line
  void end_progress();

  File file_;
  int64_t end_;              // of its whole lines
  std::string kept_ = {};    // lines that are not in it yet
  bool is_failing_ = false;  // the last write
  int64_t attempt_;
  int64_t total_steps_, steps_per_print_;
  double mean_step_s_ = 0;     // exponential mean, for the ETA
  int64_t arena_growths_ = 0;  // of the step before
  bool on_terminal_;
  bool line_is_open_ = false;
};

}  // namespace switchyard
