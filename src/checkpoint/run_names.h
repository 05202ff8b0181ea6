// Names in a run directory.
//
//   RUN/run.json                    who the run is, and how often it was started
//   RUN/lock                        held by the job at work (run_lock.h)
//   RUN/LATEST                      newest checkpoint, for people; never chooses
//   RUN/step-000001000/             a committed checkpoint
//     manifest.json                 its commit record
//     w00000.safetensors ...        what a writer wrote (shard_cut.h): one file,
//     w00001-00001.safetensors ...  or several
//   RUN/.staging-000001100-3/       being written, by attempt 3
//   RUN/.deleting-000000900-3/      to be removed
//   RUN/.superseded-000001000-3/    a checkpoint that attempt 3 went back behind
//   RUN/.replaced-000001000-3/      a checkpoint that attempt 3 puts another in the place of; back
//                                   again at the next start if the other is not there
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace switchyard {

constexpr const char* kRunFile = "run.json";
constexpr const char* kLockFile = "lock";
constexpr const char* kLatestFile = "LATEST";
constexpr const char* kProbeFile = ".probe";  // written and removed when a run starts
constexpr const char* kPinFile = "PINNED";    // in a step: never removed
constexpr const char* kManifestFile = "manifest.json";
constexpr const char* kShardSuffix = ".safetensors";

// What a directory in a run directory is.
enum class RunEntryKind { kStep, kStaging, kDeleting, kSuperseded, kReplaced };

struct RunEntry {
  RunEntryKind kind = RunEntryKind::kStep;
  int64_t step = 0;
  int64_t attempt = 0;  // that made it; 0 for a step

  bool operator==(const RunEntry&) const = default;
};

std::string name_of(const RunEntry& entry);
// Nothing for names that name_of() does not give.
std::optional<RunEntry> parse_entry(const std::string& name);

// Which file of a checkpoint.
struct ShardPlace {
  int writer = 0, num_writers = 1;
  int part = 1, num_parts = 1;  // of the writer's files, from 1
};

// "w00000.safetensors"; "w00000-00001.safetensors" of a writer with several.
std::string shard_name(const ShardPlace& place);

// "a/b", and the part of it before and after the last slash. The directory of a bare name is ".".
std::string join(const std::string& directory, const std::string& name);
std::string directory_of(const std::string& path);
std::string last_part_of(const std::string& path);

// A word for what a path in or below a run directory is, for messages and fault points: "shard",
// "manifest", "latest", "run_file", "probe", "step", "staging", "deleting", "superseded",
// "replaced"; "directory" or "file", from its looks, for any other.
const char* word_for(const std::string& path);

}  // namespace switchyard
