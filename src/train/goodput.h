// Goodput: where the wall time of a run goes, from the start of its first attempt. Every second is
// in exactly one bucket: there is one at a time, and the clock runs for that. Rank 0 only.
//
// RUN/goodput.json carries the sums from attempt to attempt; it is written every few seconds of
// steps. The time between its last word and the start of the next attempt is `down`, which
// includes the seconds that a killed attempt had not told yet. A step that was taken before, and
// lost, is `recompute` the second time.
//
// ETTR, the effective training time ratio, is productive time / wall time.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

namespace switchyard {

enum class TimeBucket {
  kProductive,  // steps taken for the first time, validation
  kInit,        // from the start of an attempt to its first step, but for loading
  kData,        // waiting for data
  kCheckpoint,  // training stands still for a save
  kLoad,        // of a checkpoint
  kRecompute,   // steps taken again
  kHang,        // from the last sign of progress to the watchdog's end
  kDown         // between attempts
};
constexpr size_t kNumTimeBuckets = 8;
const char* name_of(TimeBucket bucket);  // "checkpoint"

struct GoodputReport {
  std::array<double, kNumTimeBuckets> seconds = {};
  double wall_s = 0;  // since the first attempt began
  int64_t attempts = 0;

  double operator[](TimeBucket bucket) const { return seconds[static_cast<size_t>(bucket)]; }
  double ettr() const { return wall_s > 0 ? (*this)[TimeBucket::kProductive] / wall_s : 0; }
};

nlohmann::ordered_json to_json(const GoodputReport& report);
std::string to_text(const GoodputReport& report);  // lines for people
// What a file of Goodput says; nothing where there is none, or it is something else.
std::optional<GoodputReport> read_goodput(const std::string& path);

class Goodput {
 public:
  // A new attempt, in kInit, on the sums in `path`, or on none. What it cannot read it begins anew,
  // with a warning. `now`: Unix time.
  Goodput(std::string path, std::function<double()> now);

  // The attempt starts at this step; up to `furthest_step` steps have been taken before.
  void resume(int64_t step, int64_t furthest_step);

  // The time of a guard's life goes to its bucket, then to what it was before.
  class Guard {
   public:
    Guard(Goodput* goodput, TimeBucket bucket);  // null: does nothing
    ~Guard();
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;

   private:
    Goodput* goodput_;
    TimeBucket before_ = TimeBucket::kInit;
  };

  // From here on the time belongs to the step after `step`.
  void begin_steps(int64_t step);
  // A step is done; so much of its time went to waiting for data. Writes the file now and then, but
  // does not wait until it has reached the disk.
  void finish_step(int64_t step, double data_s);
  // The watchdog ends the job after so long without progress. Any thread.
  void end_in_hang(double seconds);

  GoodputReport report();
  // Durably. Failure is a warning: it must not end a run.
  void save();

 private:
  void advance();  // the clock, for the bucket at hand
  std::string file_text();
  TimeBucket enter(TimeBucket bucket);
  TimeBucket bucket_of_step(int64_t step) const;
  void move(TimeBucket to, double seconds);

  std::string path_;
  std::function<double()> now_;
  std::mutex mutex_;  // of all below
  GoodputReport sums_;
  double first_start_ = 0, last_ = 0, saved_at_ = 0;  // Unix time
  TimeBucket bucket_ = TimeBucket::kInit;
  int64_t furthest_step_ = 0;
};

}  // namespace switchyard
