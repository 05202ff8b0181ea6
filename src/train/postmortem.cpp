#include "train/postmortem.h"

#include <fcntl.h>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/error.h"

namespace switchyard {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

// 'R', 'S', 'T', ... of a process of this host; '-' when there is none.
char process_state(int64_t pid) {
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  std::string text;
  std::getline(file, text);
  const size_t end_of_name = text.rfind(')');
  return end_of_name == std::string::npos || end_of_name + 2 >= text.size() ? '-'
                                                                            : text[end_of_name + 2];
}

Json call_json(const ProgressHead& head) {
  const ProgressCall& call = head.waits_for;
  if (call.is_none()) return nullptr;
  const double seconds = static_cast<double>(head.heartbeat_ns - head.waits_since_ns) * 1e-9;
  return {{"group", head.group_name(call.group)},
          {"call", name_of(call.kind)},
          {"sequence", call.sequence},
          {"bytes", call.bytes},
          {"seconds", std::max(seconds, 0.0)}};
}

std::string ending_text(const ProgressHead& head) {
  switch (head.ending) {
    case Ending::kHang:
      return "no progress";
    case Ending::kError:
      return "error";
    case Ending::kSignal:
      return fmt::format("signal {} ({})", head.signal, strsignal(static_cast<int>(head.signal)));
    case Ending::kNone:
      break;
  }
  return "killed, or still there";
}

}  // namespace

std::string progress_file(const std::string& run_directory, int64_t rank) {
  return fmt::format("{}/progress/rank-{:05}.bin", run_directory, rank);
}

std::string postmortem_directory(const std::string& run_directory, int64_t attempt) {
  return fmt::format("{}/postmortem/attempt-{}", run_directory, attempt);
}

std::string live_page(const ProgressHead& head) {
  return fmt::format("/proc/{}/fd/{}", head.pid, head.fd);
}

std::string page_file(const std::string& directory, int64_t rank) {
  return fmt::format("{}/rank-{:05}.page", directory, rank);
}

std::string report_file(const std::string& directory, int64_t rank) {
  return fmt::format("{}/rank-{:05}.json", directory, rank);
}

std::string alarm_file(const std::string& directory) { return directory + "/hang"; }
std::string verdict_file(const std::string& directory) { return directory + "/verdict.json"; }

bool write_whole_file(const std::string& path, const void* bytes, size_t size) {
  const std::string temporary = path + ".tmp";
  const int file = open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
  if (file < 0) return false;
  size_t done = 0;
  while (done < size) {
    const ssize_t count = write(file, static_cast<const char*>(bytes) + done, size - done);
    if (count <= 0) break;
    done += static_cast<size_t>(count);
  }
  return close(file) == 0 && done == size && rename(temporary.c_str(), path.c_str()) == 0;
}

bool write_whole_file(const std::string& path, const std::string& text) {
  return write_whole_file(path, text.data(), text.size());
}

bool same_host(const ProgressHead& a, const ProgressHead& b) {
  return a.host == b.host && a.boot == b.boot;
}

RankEvidence look_at_rank(const std::string& run_directory, const ProgressHead& me, int64_t rank) {
  const auto is_of_job = [&](const std::optional<ProgressHead>& head) {
    return head && head->job == me.job && head->rank == rank;
  };
  RankEvidence evidence;
  const std::optional<ProgressHead> copy = read_progress_head(progress_file(run_directory, rank));
  if (!is_of_job(copy)) return evidence;
  evidence.is_known = true;
  evidence.head = *copy;
  if (!same_host(*copy, me)) return evidence;
  evidence.process_state = process_state(copy->pid);
  const auto live = read_progress_head(live_page(*copy));
  if (is_of_job(live)) evidence.head = *live;
  return evidence;
}

std::vector<RankEvidence> gather_evidence(const std::string& run_directory,
                                          const std::string& directory, const ProgressHead& me) {
  std::vector<RankEvidence> ranks;
  for (int64_t rank = 0; rank < me.num_ranks; ++rank) {
    RankEvidence evidence = look_at_rank(run_directory, me, rank);
    const auto kept = read_progress_head(page_file(directory, rank));
    if (kept && kept->job == me.job && kept->ending != Ending::kNone) {
      evidence.head = *kept;
      evidence.is_known = evidence.answers = true;
    }
    ranks.push_back(evidence);
  }
  return ranks;
}

void keep_pages_of_others(const std::string& run_directory, const std::string& directory,
                          const ProgressHead& me) {
  for (int64_t rank = 0; rank < me.num_ranks; ++rank) {
    const std::string file = page_file(directory, rank);
    if (rank == me.rank || access(file.c_str(), F_OK) == 0) continue;
    const RankEvidence other = look_at_rank(run_directory, me, rank);
    if (!other.is_known || !same_host(other.head, me)) continue;
    const auto page = read_progress_page(live_page(other.head));
    if (page && page->head.job == me.job) write_whole_file(file, page.get(), sizeof(*page));
  }
}

std::string report_json(std::span<const RankEvidence> ranks, int rank) {
  const ProgressHead& head = ranks[static_cast<size_t>(rank)].head;
  const Json json = {{"rank", head.rank},
                     {"host", head.host.data()},
                     {"pid", head.pid},
                     {"ending", ending_text(head)},
                     {"message", head.message.data()},
                     {"step", head.step},
                     {"phase", name_of(head.phase)},
                     {"layer", unit_text(head, head.unit)},
                     {"waits_for", call_json(head)},
                     {"marks", head.counter},
                     {"text", describe_rank(ranks, rank)}};
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string verdict_json(const Diagnosis& diagnosis) {
  const Json json = {{"culprits", diagnosis.culprits}, {"text", diagnosis.text}};
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

namespace {

int64_t last_attempt(const std::string& run_directory) {
  int64_t last = 0;
  std::error_code failure;
  for (const auto& entry : fs::directory_iterator(run_directory + "/postmortem", failure)) {
    const std::string name = entry.path().filename().string();
    const std::string prefix = "attempt-";
    if (name.rfind(prefix, 0) == 0)
      last = std::max<int64_t>(last, std::strtoll(name.c_str() + prefix.size(), nullptr, 10));
  }
  return last;
}

// The pages of an attempt; of ranks that kept none, the last copy of the head if there is one.
std::vector<std::unique_ptr<ProgressPage>> read_pages(const std::string& run_directory,
                                                      const std::string& directory) {
  std::vector<std::unique_ptr<ProgressPage>> pages;
  std::error_code failure;
  for (const auto& entry : fs::directory_iterator(directory, failure))
    if (entry.path().extension() == ".page")
      if (auto page = read_progress_page(entry.path().string())) pages.push_back(std::move(page));
  if (pages.empty()) return pages;
  const uint64_t job = pages[0]->head.job;
  const auto num_ranks = static_cast<size_t>(pages[0]->head.num_ranks);
  std::vector<std::unique_ptr<ProgressPage>> by_rank(num_ranks);
  for (auto& page : pages)
    if (page->head.job == job && static_cast<size_t>(page->head.rank) < num_ranks)
      by_rank[static_cast<size_t>(page->head.rank)] = std::move(page);
  for (size_t rank = 0; rank < num_ranks; ++rank) {
    const auto copy = read_progress_head(progress_file(run_directory, static_cast<int64_t>(rank)));
    if (by_rank[rank] || !copy || copy->job != job) continue;
    by_rank[rank] = std::make_unique<ProgressPage>();
    by_rank[rank]->head = *copy;
  }
  return by_rank;
}

struct DatedEvent {
  int64_t wall_ns = 0;
  int rank = 0;
  const ProgressEvent* event = nullptr;
};

std::vector<DatedEvent> merged_events(const std::vector<std::unique_ptr<ProgressPage>>& pages,
                                      int num_events) {
  std::vector<DatedEvent> events;
  for (size_t rank = 0; rank < pages.size(); ++rank) {
    if (!pages[rank]) continue;
    const ProgressHead& head = pages[rank]->head;
    for (const ProgressEvent& event : pages[rank]->events)
      if (event.number > 0)
        events.push_back({head.started_wall_ns + event.time_ns - head.started_ns,
                          static_cast<int>(rank), &event});
  }
  std::sort(events.begin(), events.end(), [](const DatedEvent& a, const DatedEvent& b) {
    return std::tuple(a.wall_ns, a.rank, a.event->number) <
           std::tuple(b.wall_ns, b.rank, b.event->number);
  });
  if (const auto limit = static_cast<size_t>(std::max(num_events, 0)); events.size() > limit)
    events.erase(events.begin(), events.end() - static_cast<ptrdiff_t>(limit));
  return events;
}

std::string event_text(const ProgressHead& head, const ProgressEvent& event) {
  std::string text = fmt::format("step {}, {}", event.step, name_of(event.phase));
  if (const std::string unit = unit_text(head, event.unit); !unit.empty()) text += ", " + unit;
  if (event.kind == EventKind::kWork) return text + fmt::format(": {} bytes", event.bytes);
  if (event.call == CallKind::kNone) return text;
  const ProgressCall call = {
      .group = event.group, .kind = event.call, .sequence = event.sequence, .bytes = event.bytes};
  return text + fmt::format(": {} {}", name_of(event.kind), describe_call(head, call));
}

std::vector<RankEvidence> evidence_of(const std::vector<std::unique_ptr<ProgressPage>>& pages) {
  std::vector<RankEvidence> ranks(pages.size());
  for (size_t rank = 0; rank < pages.size(); ++rank) {
    if (!pages[rank]) continue;
    ranks[rank] = {.is_known = true,
                   .answers = pages[rank]->head.ending != Ending::kNone,
                   .head = pages[rank]->head};
  }
  return ranks;
}

// What the ranks said themselves comes first: after a crash the others had no time to.
std::string culprit_text(const std::string& directory, std::span<const RankEvidence> ranks) {
  std::vector<std::string> failed;
  for (const RankEvidence& rank : ranks)
    if (rank.head.ending == Ending::kError || rank.head.ending == Ending::kSignal)
      failed.push_back(fmt::format("rank {} on {} ended with {} at {}{}{}", rank.head.rank,
                                   rank.head.host.data(), ending_text(rank.head),
                                   describe_place(rank.head), rank.head.message[0] != 0 ? ": " : "",
                                   rank.head.message.data()));
  if (!failed.empty()) return fmt::format("{}", fmt::join(failed, "\n  "));
  std::ifstream file(verdict_file(directory));
  const Json verdict = Json::parse(file, nullptr, false);
  if (verdict.is_object() && verdict.contains("text") && verdict["text"].is_string())
    return verdict["text"].get<std::string>();
  return diagnose_hang(ranks).text;
}

std::string clock_text(int64_t wall_ns) {
  const std::time_t seconds = wall_ns / 1'000'000'000;
  return fmt::format("{:%H:%M:%S}.{:06}", fmt::gmtime(seconds), wall_ns / 1000 % 1'000'000);
}

}  // namespace

std::string tell_postmortem(const std::string& run_directory, int64_t attempt, int num_events) {
  if (attempt == 0) attempt = last_attempt(run_directory);
  const std::string directory = postmortem_directory(run_directory, attempt);
  const auto pages = read_pages(run_directory, directory);
  SY_REQUIRE(kData, !pages.empty(),
             "{}/postmortem: no rank has left its last events here (they do after a hang, a crash, "
             "or an error of their own)",
             run_directory);
  const std::vector<RankEvidence> ranks = evidence_of(pages);
  std::string text =
      fmt::format("attempt {}\nculprit\n  {}\nranks\n", attempt, culprit_text(directory, ranks));
  for (int rank = 0; rank < static_cast<int>(ranks.size()); ++rank)
    text += fmt::format("  {} [{}]\n", describe_rank(ranks, rank),
                        ending_text(ranks[static_cast<size_t>(rank)].head));
  const std::vector<DatedEvent> events = merged_events(pages, num_events);
  text += fmt::format("last {} events of all ranks, UTC by each host's clock\n", events.size());
  for (const DatedEvent& event : events)
    text += fmt::format("  {}  rank {}  {}\n", clock_text(event.wall_ns), event.rank,
                        event_text(pages[static_cast<size_t>(event.rank)]->head, *event.event));
  return text;
}

}  // namespace switchyard
