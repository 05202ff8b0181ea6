#include "cli/inspect.h"

#include <cstdio>

#include "checkpoint/run_entries.h"
#include "core/error.h"
#include "inspect/checkpoint_diff.h"
#include "inspect/garbage.h"
#include "inspect/run_report.h"
#include "inspect/step_report.h"
#include "inspect/verification.h"
#include "train/postmortem.h"

namespace switchyard {
namespace {

ExitCode tell(const VerifiedCheckpoint& verified) {
  fmt::print("{}\n", to_text(verified));
  std::fflush(stdout);  // the next may take minutes
  return verified.code;
}

int verify(const std::string& path) {
  if (is_checkpoint(path)) return static_cast<int>(tell(verify_checkpoint(path)));
  int num_checkpoints = 0;
  ExitCode code = ExitCode::kOk;
  const RunContents contents = contents_of_run(path);
  for (const RunItem& item : contents.items) {
    if (item.entry.kind != RunEntryKind::kStep) continue;
    const ExitCode of_item = tell(verify_checkpoint(item));
    if (code == ExitCode::kOk) code = of_item;
    ++num_checkpoints;
  }
  SY_REQUIRE(kData, num_checkpoints > 0, "{} holds no checkpoint", path);
  fmt::print("{}", latest_text(contents));
  return static_cast<int>(code);
}

int compare(const InspectOptions& options) {
  const std::string a = plain_path(options.paths[0]), b = plain_path(options.paths[1]);
  const CheckpointDiff diff =
      compare_checkpoints(CheckpointReader(a), CheckpointReader(b), options.tensors);
  fmt::print("{}", to_text(diff, a, b));
  return static_cast<int>(diff.equal() ? ExitCode::kOk : ExitCode::kMismatch);
}

Retention retention(const InspectOptions& options, const std::string& run) {
  if (options.keep_last && options.keep_every) return {*options.keep_last, *options.keep_every};
  const Retention of_run = retention_of_run(run);
  return {options.keep_last.value_or(of_run.keep_last),
          options.keep_every.value_or(of_run.keep_every)};
}

int tidy_up(const InspectOptions& options, const std::string& run) {
  const Retention kept = retention(options, run);
  fmt::print("keep_last {}, keep_every {}\n", kept.keep_last, kept.keep_every);
  if (!options.dry_run) {
    Storage storage;
    fmt::print("{}", garbage_text(collect_garbage(storage, run, kept), "removed"));
    return 0;
  }
  const RunContents contents = contents_of_run(run);
  if (contents.at_work)
    fmt::print("at work: {}; what it writes and removes is not listed\n",
               holder_text(*contents.at_work));
  fmt::print("{}", garbage_text(garbage_of(contents, kept), "would remove"));
  return 0;
}

}  // namespace

int run_inspect(const InspectOptions& options) {
  const size_t expected = options.diff ? 2 : 1;
  SY_REQUIRE(kConfig, options.paths.size() == expected, "inspect: {} path{} given, expected {}",
             options.paths.size(), options.paths.size() == 1 ? "" : "s",
             options.diff ? "two checkpoints, A and B" : "one: a run directory or a checkpoint");
  if (options.diff) return compare(options);
  const std::string path = plain_path(options.paths[0]);
  if (options.verify) return verify(path);
  if (options.garbage) return tidy_up(options, path);
  if (options.postmortem)
    fmt::print("{}", tell_postmortem(path, options.attempt, options.num_events));
  else
    fmt::print("{}", is_checkpoint(path) ? step_text(path, options.tensors)
                                         : run_text(contents_of_run(path)));
  return 0;
}

}  // namespace switchyard
