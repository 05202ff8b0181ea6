#include "checkpoint/retention.h"

#include <algorithm>

#include "checkpoint/checkpoint_reader.h"
#include "checkpoint/run_entries.h"
#include "core/error.h"

namespace switchyard {
namespace {

constexpr int64_t kFewest = 2;  // whole checkpoints that are never removed

// A checkpoint with the right files of the right sizes.
bool is_whole(const std::string& directory, const std::string& run_id) {
  try {
    const CheckpointReader reader(directory);
    reader.check_files();
    return reader.manifest().id.run_id == run_id;
  } catch (const Error&) {
    return false;
  }
}

bool is_of_run(const std::string& directory, const std::string& run_id) {
  try {
    return CheckpointReader(directory).manifest().id.run_id == run_id;
  } catch (const Error&) {
    return false;
  }
}

}  // namespace

std::vector<RunEntry> expired_entries(const std::string& run, const std::string& run_id,
                                      const Retention& retention, int64_t loaded_step) {
  const int64_t enough = std::max(retention.keep_last, kFewest);
  int64_t newest = -1, num_whole = 0;
  std::vector<RunEntry> expired;
  for (const RunEntry& entry : entries_of(run)) {  // the latest step first
    const std::string directory = join(run, name_of(entry));
    if (entry.kind == RunEntryKind::kStep) {
      if (num_whole < enough) {  // what looks damaged may be a failure to read: it stays here, too
        if (!is_whole(directory, run_id)) continue;
        newest = std::max(newest, entry.step);
        ++num_whole;
        continue;
      }
      if (entry.step == loaded_step) continue;
      if (retention.keep_every > 0 && entry.step % retention.keep_every == 0) continue;
    } else if (entry.kind != RunEntryKind::kSuperseded || entry.step > newest) {
      continue;
    }
    if (!exists(join(directory, kPinFile)) && is_of_run(directory, run_id))
      expired.push_back(entry);
  }
  return expired;
}

}  // namespace switchyard
