// `switchyard inspect --gc`: what of a run's checkpoints nobody needs any more.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "checkpoint/retention.h"
#include "checkpoint/storage.h"
#include "inspect/run_contents.h"

namespace switchyard {

// "checkpoint" of RUN/config.json. Error (kData): the file is missing or does not say.
Retention retention_of_run(const std::string& run);

// What retention.h lets go now and, unless a job is at work, what jobs have left half done.
std::vector<RunItem> garbage_of(const RunContents& contents, const Retention& retention);

// Removes garbage_of(), and returns it. Takes the run's lock: error (kLocked) if a job is at work.
// Error (kStorage): something cannot be removed.
std::vector<RunItem> collect_garbage(Storage& storage, const std::string& run,
                                     const Retention& retention);

// A line for each, and the sum. `verb`: "would remove", "removed".
std::string garbage_text(const std::vector<RunItem>& garbage, const char* verb);

}  // namespace switchyard
