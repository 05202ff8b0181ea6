// What lies in a run directory. Everything in this folder only reads (but for collect_garbage()),
// takes no lock and is right beside a job at work, which may remove a checkpoint at any moment, and
// where nothing can be written.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/manifest.h"
#include "checkpoint/run_file.h"
#include "checkpoint/run_lock.h"
#include "checkpoint/run_names.h"

namespace switchyard {

// A directory by a name of run_names.h.
struct RunItem {
  RunEntry entry = {};
  std::string directory = {};  // path
  int64_t bytes = 0;           // of all files in it
  bool is_pinned = false;
  // Of a step and of what is superseded: why it cannot be used; empty: manifest and headers are
  // right. What follows is known where the manifest is valid.
  std::string problem = {};
  CheckpointId id = {};
  std::string time = {};
  int64_t tokens = 0;
  nlohmann::ordered_json layout = {};
};

struct RunContents {
  std::string directory = {};
  std::optional<RunIdentity> identity = {};  // none: run.json is missing or damaged
  std::string identity_problem = {};
  std::vector<RunItem> items = {};         // the latest step first
  std::optional<int64_t> latest = {};      // the step that LATEST names
  std::string latest_problem = {};         // what is wrong with LATEST, which only people go by
  std::optional<LockHolder> at_work = {};  // whoever holds the lock, as far as can be told
};

// Error (kData): no directory, or one without anything of a run.
RunContents contents_of_run(const std::string& run);

// The path is a checkpoint (whole or not) rather than a run.
bool is_checkpoint(const std::string& path);
// Without slashes at its end.
std::string plain_path(std::string path);
// Of all files in a directory and in those in it; what goes away meanwhile does not count.
int64_t bytes_in(const std::string& directory);
// "8 ranks, dp 4, tp 2, zero_stage 1": without what is not cut.
std::string layout_text(const nlohmann::ordered_json& layout);

}  // namespace switchyard
