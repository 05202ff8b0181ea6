// Checkpoints of two small tensors, written as training would by two ranks with two files each, for
// tests of what becomes of them on disk.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "checkpoint/manifest.h"
#include "checkpoint/run_directory.h"
#include "checkpoint/storage.h"

namespace switchyard::test {

// begin_save() and all files but the manifest. `content` says what the tensors hold.
Manifest write_tiny_files(Storage& storage, RunDirectory& run, int64_t step, int content);
RunDirectory::Commit save_tiny(Storage& storage, RunDirectory& run, int64_t step, int content);

// A checkpoint, every byte checked; nothing if it is not valid or another run's.
struct TinyCheckpoint {
  int content = 0;
  std::string lineage = {};
};
std::optional<TinyCheckpoint> read_tiny(const RunDirectory& run, int64_t step);

// The checkpoint that a run would go on from: the newest valid one.
struct TinyFound {
  int64_t step = -1;  // -1: there is none
  int content = 0;

  bool operator==(const TinyFound&) const = default;
};
TinyFound newest_tiny(const RunDirectory& run);

}  // namespace switchyard::test
