// How often to save, for a given rate of failures (Young 1974; Daly 2006, doi
// 10.1016/j.future.2004.11.016). Failures are exponential; time in seconds.
//
//   C  training stands still for a save (save_s)
//   P  from then until the save is on the disk (persist_s): a failure loses this much work more
//   R  from a failure to the first step after it (restart_s): noticing, launching, loading
//   M  mean time between failures of the whole job (mttf_s)
#pragma once

#include <string>
#include <vector>

namespace switchyard {

struct FailureModel {
  double mttf_s = 0;
  double save_s = 0, persist_s = 0, restart_s = 0;
};

// sqrt(2 C M)
double young_interval(const FailureModel& model);
// sqrt(2 C M) [1 + sqrt(C / 2M) / 3 + (C / 2M) / 9] - C for C < 2M, else M.
double daly_interval(const FailureModel& model);
// Useful time / wall time with `interval` seconds of training between two saves:
// t / (M e^((R + P)/M) (e^((t + C)/M) - 1)).
double expected_ettr(const FailureModel& model, double interval);

// What the user of `plan` knows of the machines.
struct FailureRates {
  std::vector<double> rank_mtbf_hours = {50000, 10000};  // good and bad GPUs of large clusters
  double save_s = 3, persist_s = 60, restart_s = 180;
};

// How long a save takes, from its size. Not given: not known.
struct SaveSpeeds {
  double copy_gb_per_s = 0;   // of one rank, to host memory
  double write_gb_per_s = 0;  // of all ranks together, to the disk
};
// `rates` with the times of a save that follow from known speeds: an asynchronous one stops
// training for the copy of the largest rank and is on the disk a write later, a synchronous one
// stops it for the write.
FailureRates with_save_times(FailureRates rates, const SaveSpeeds& speeds, double checkpoint_bytes,
                             double copy_bytes, bool is_async);

// A line per rate: the interval, as a value of checkpoint.interval_minutes, and what it leaves.
std::string checkpoint_interval_text(const FailureRates& rates, int num_ranks);

}  // namespace switchyard
