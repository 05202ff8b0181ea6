#include "core/progress_page.h"

#include <fcntl.h>
#include <unistd.h>

#include <type_traits>

namespace switchyard {
namespace {

static_assert(std::is_trivially_copyable_v<ProgressPage>);
static_assert(sizeof(ProgressHead) % sizeof(ProgressWord) == 0);
static_assert(sizeof(ProgressEvent) % sizeof(ProgressWord) == 0);

// True when the file held as much. Not through a mapping: a file that is cut short while it is
// read would be a SIGBUS.
bool read_file(const std::string& path, void* to, size_t bytes) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return false;
  size_t done = 0;
  while (done < bytes) {
    const ssize_t count =
        pread(file, static_cast<char*>(to) + done, bytes - done, static_cast<off_t>(done));
    if (count <= 0) break;
    done += static_cast<size_t>(count);
  }
  close(file);
  return done == bytes;
}

}  // namespace

std::string_view name_of(RunPhase phase) {
  constexpr std::array<std::string_view, kNumRunPhases> kNames = {
      "start",     "load",   "data",       "forward", "backward",
      "optimizer", "report", "validation", "save",    "end"};
  const auto index = static_cast<size_t>(phase);
  return index < kNames.size() ? kNames[index] : "unknown phase";
}

std::string_view name_of(CallKind kind) {
  constexpr std::array<std::string_view, 11> kNames = {
      "none",          "all_reduce",   "reduce_scatter", "all_gather",      "all_to_all",
      "broadcast",     "send_receive", "split",          "all_gather_host", "all_to_all_host",
      "broadcast_host"};
  const auto index = static_cast<size_t>(kind);
  return index < kNames.size() ? kNames[index] : "unknown call";
}

std::string_view name_of(EventKind kind) {
  constexpr std::array<std::string_view, 7> kNames = {"phase", "unit",  "work",  "call",
                                                      "done",  "waits", "waited"};
  const auto index = static_cast<size_t>(kind);
  return index < kNames.size() ? kNames[index] : "unknown event";
}

std::string ProgressHead::group_name(int group) const {
  if (group < 0 || group >= num_groups) return "?";
  const auto& name = groups[static_cast<size_t>(group)].name;
  return {name.data(), std::string_view(name.data(), name.size()).find_first_of('\0')};
}

void copy_words(void* to, const void* from, int64_t bytes) {
  auto* target = static_cast<ProgressWord*>(to);
  const auto* source = static_cast<const ProgressWord*>(from);
  for (int64_t i = 0; i < bytes / static_cast<int64_t>(sizeof(ProgressWord)); ++i)
    target[i] = __atomic_load_n(source + i, __ATOMIC_RELAXED);
}

std::optional<ProgressHead> read_progress_head(const std::string& path) {
  ProgressHead head;
  if (!read_file(path, &head, sizeof(head)) || head.format != kProgressFormat) return std::nullopt;
  return head;
}

std::unique_ptr<ProgressPage> read_progress_page(const std::string& path) {
  auto page = std::make_unique<ProgressPage>();
  if (!read_file(path, page.get(), sizeof(*page)) || page->head.format != kProgressFormat)
    return nullptr;
  return page;
}

}  // namespace switchyard
