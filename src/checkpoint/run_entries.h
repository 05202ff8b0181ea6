// What lies in a run directory, and how it is removed. Symbolic links are never followed: one by
// the name of a checkpoint is none.
#pragma once

#include <string>
#include <vector>

#include "checkpoint/run_names.h"
#include "checkpoint/storage.h"

namespace switchyard {

// Whether there is anything by that name, a symbolic link for one.
bool exists(const std::string& path);

// The directories of `run` by names of run_names.h, the latest step first, of the same step the
// latest attempt. Error (kStorage) if it cannot be read.
std::vector<RunEntry> entries_of(const std::string& run);
std::vector<RunEntry> entries_of(const std::string& run, RunEntryKind kind);
// The steps of the directories of kind kStep, the latest first.
std::vector<int64_t> committed_steps_in(const std::string& run);

// A directory with all that is in it, the manifest last: what is half removed still says whose it
// is.
void remove_tree(Storage& storage, const std::string& path);

}  // namespace switchyard
