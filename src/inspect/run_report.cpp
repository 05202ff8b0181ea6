#include "inspect/run_report.h"

#include "core/error.h"
#include "inspect/text_table.h"
#include "train/exit_record.h"
#include "train/goodput.h"

namespace switchyard {
namespace {

bool is_checkpoint(const RunItem& item) {
  return item.entry.kind == RunEntryKind::kStep || item.entry.kind == RunEntryKind::kSuperseded;
}

std::string head_text(const RunContents& contents) {
  if (!contents.identity)
    return fmt::format("run {}: {}\n", contents.directory, contents.identity_problem);
  const RunIdentity& identity = *contents.identity;
  return fmt::format("run {}: {} attempt{}, id {}, lineage {}\n", contents.directory,
                     identity.attempts, identity.attempts == 1 ? "" : "s", identity.run_id,
                     identity.lineage);
}

std::string state_of(const RunItem& item, const RunContents& contents) {
  std::string state = item.problem.empty() ? "valid" : "NOT VALID";
  if (item.entry.kind == RunEntryKind::kSuperseded) return state + ", superseded";
  if (contents.latest == item.entry.step) state += ", LATEST";
  if (item.is_pinned) state += ", PINNED";
  return state;
}

std::string checkpoints_text(const RunContents& contents) {
  TextTable table({"step>", "attempt>", "time", "size>", "tokens>", "lineage", "written by", ""});
  std::string problems;
  for (const RunItem& item : contents.items) {
    if (!is_checkpoint(item)) continue;
    const bool is_known = !item.id.run_id.empty();
    const auto known = [&](const std::string& text) { return is_known ? text : "?"; };
    table.add({std::to_string(item.entry.step), known(std::to_string(item.id.attempt)),
               known(item.time), megabytes(item.bytes), known(std::to_string(item.tokens)),
               known(item.id.lineage.substr(0, 8)), known(layout_text(item.layout)),
               state_of(item, contents)});
    if (!item.problem.empty()) problems += fmt::format("  {}\n", item.problem);
  }
  if (table.empty()) return "no checkpoints\n";
  return "checkpoints (valid: manifest, names, sizes and headers; --verify reads every byte)\n" +
         table.text() + (problems.empty() ? "" : "not valid:\n" + problems);
}

const char* meaning_of(RunEntryKind kind, bool is_at_work) {
  switch (kind) {
    case RunEntryKind::kStaging:
      return is_at_work ? "being written" : "was being written when its job ended";
    case RunEntryKind::kDeleting:
      return is_at_work ? "being removed" : "was being removed when its job ended";
    case RunEntryKind::kReplaced:
      return "another has taken its place";
    default:
      return "";
  }
}

std::string leftovers_text(const RunContents& contents) {
  std::string text;
  for (const RunItem& item : contents.items)
    if (!is_checkpoint(item))
      text += fmt::format("  {}: {}, {}\n", name_of(item.entry), megabytes(item.bytes),
                          meaning_of(item.entry.kind, contents.at_work.has_value()));
  return text.empty() ? "" : "beside them\n" + text;
}

// How the last attempt ended, or that it has not.
std::string exit_text(const RunContents& contents) {
  if (contents.at_work) return "at work: " + holder_text(*contents.at_work) + "\n";
  try {
    const auto record = read_exit_record(contents.directory);
    const int64_t attempts = contents.identity ? contents.identity->attempts : 0;
    if (record && record->attempt >= attempts)
      return fmt::format("attempt {} ended at step {}, {}, with {} ({}){}{}\n", record->attempt,
                         record->step, record->time, static_cast<int>(record->code),
                         name_of(record->code), record->reason.empty() ? "" : ": ", record->reason);
    return attempts == 0
               ? ""
               : fmt::format("attempt {} left no record of its end: it was killed\n", attempts);
  } catch (const Error& error) {
    return fmt::format("how the last attempt ended cannot be read: {}\n", error.what());
  }
}

std::string time_text(const RunContents& contents) {
  const auto report = read_goodput(join(contents.directory, "goodput.json"));
  return report ? to_text(*report) + "\n" : "";
}

}  // namespace

std::string holder_text(const LockHolder& holder) {
  return fmt::format("process {} on {}{} since {}", holder.pid, holder.host,
                     holder.job_id.empty() ? "" : ", job " + holder.job_id, holder.since);
}

std::string latest_text(const RunContents& contents) {
  if (contents.latest_problem.empty()) return "";
  return fmt::format("LATEST (no job goes by it): {}\n", contents.latest_problem);
}

std::string run_text(const RunContents& contents) {
  return head_text(contents) + checkpoints_text(contents) + latest_text(contents) +
         leftovers_text(contents) + exit_text(contents) + time_text(contents);
}

}  // namespace switchyard
