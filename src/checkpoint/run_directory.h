// RunDirectory: the checkpoints of a run as one job sees them: it commits new ones, removes old
// ones, goes back. Used by rank 0 only, one call at a time. Names: run_names.h.
//
// Whatever happens at whatever moment (the job killed, power lost), what commit() has returned for
// is there at the next start, whole, and newer than anything else; a checkpoint that was not
// finished is never taken for one. The order of the steps below is what that rests on
// (tests/checkpoint/test_power_loss.cpp goes through every crash):
//
//   begin_save   the directory .staging-S-A
//   ...          each rank's files in it, synced (shard_file.h)
//   commit       manifest.json in it, synced; the names in it, synced; its name becomes step-S,
//                synced; LATEST, which is for people, may fail and may be one checkpoint behind.
//                What had the name step-S goes out of its way as .replaced-S-A
//   remove_old   names become .deleting-S-A, synced; only then the files go
//   go_back_to   later steps become .superseded-S-A, synced; then run.json has another lineage
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "checkpoint/manifest.h"
#include "checkpoint/retention.h"
#include "checkpoint/run_file.h"
#include "checkpoint/run_lock.h"
#include "checkpoint/run_names.h"
#include "checkpoint/storage.h"

namespace switchyard {

class RunDirectory {
 public:
  struct Options {
    double lock_wait_s = 10;   // for the job before to end
    bool allow_fresh = false;  // put aside what there is, and begin anew as another run
    std::string job_id = {};   // of the scheduler, for people
    bool is_attempt = true;    // false: only tidies up, and is not counted
  };

  // Makes the directory if need be, in a directory that is there, and takes its lock; removes what
  // a job before left unfinished; tries whether files can be written, synced, renamed and removed;
  // counts this attempt, durably. run.json, if damaged, is made again from the checkpoints.
  // Errors: kLocked, naming the holder; kStorage.
  RunDirectory(Storage& storage, std::string path, const Options& options);

  const std::string& path() const { return path_; }
  int64_t attempt() const { return identity_.attempts; }  // from 1
  // No step was ever committed. Where this is false and no step is valid, the caller must refuse.
  bool is_new() const;
  // Steps whose directories are there, the latest first. Whether one is valid, and of this run
  // (`run_id` of its manifest), is for its reader to say.
  std::vector<int64_t> committed_steps() const;
  std::string step_directory(int64_t step) const;
  CheckpointId id_of(int64_t step) const;  // that a save of that step has now

  // Returns the staging directory.
  std::string begin_save(int64_t step);
  enum class Commit {
    kCommitted,
    kKept,  // the step was there already, whole, of the same lineage and with equal digests
  };
  // All files named by `manifest` are in the staging directory, synced. A step that is there
  // already and is not the same is replaced. When this throws, nothing is promised: the step may be
  // there at the next start, whole, or not.
  Commit commit(const Manifest& manifest);
  // Removes the staging directory, if it is there. Failures are logged.
  void discard_save(int64_t step) noexcept { discard(RunEntryKind::kStaging, step); }

  // retention.h. Failures are logged: the disk fills up, but what was committed stays.
  std::vector<RunEntry> to_remove(const Retention& retention, int64_t loaded_step) const;
  void remove_old(const Retention& retention, int64_t loaded_step) noexcept;

  // Later steps are superseded and the run has another lineage; without any, nothing happens.
  // `step` must be there.
  void go_back_to(int64_t step);

 private:
  std::string path_of(RunEntryKind kind, int64_t step) const;  // of this attempt
  std::string path_of(const RunEntry& entry) const { return join(path_, name_of(entry)); }

  void restore_replaced_steps();
  void remove_leftovers();
  void probe();
  RunIdentity find_identity() const;
  void begin_anew();

  void write_manifest(const std::string& staging, const std::string& text);
  bool holds_same(const std::string& directory, const Manifest& manifest) const;
  void put_in_place(int64_t step);
  void discard(RunEntryKind kind, int64_t step) noexcept;
  void drop_replaced(int64_t step);
  void point_latest_to(int64_t step, const std::string& manifest);
  void supersede(int64_t step);
  void move_to_deleting(const std::string& path, int64_t step);

  Storage& storage_;
  std::string path_;
  RunLock lock_;
  RunIdentity identity_ = {};
};

}  // namespace switchyard
