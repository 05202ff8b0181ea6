#include "nccl/waiting.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <map>
#include <memory>
#include <vector>

namespace cuda_emulator::nccl {
namespace {

constexpr size_t kMaxOthers = 64, kMaxText = 400;

// Written by its process alone, but for the last member. Odd generations are being written.
struct Page {
  std::atomic<uint64_t> generation;  // of what it waits for
  std::atomic<uint64_t> num_looks;   // how often it has found that it still waits
  std::atomic<uint32_t> num_others;  // 0: it waits for nobody
  SharedMemoryName others[kMaxOthers];
  char what[kMaxText];
  std::atomic<uint32_t> is_waited_for;
};

struct Snapshot {
  uint64_t generation = 0, num_looks = 0;
  std::vector<SharedMemoryName> others;
  std::string what;
};

SharedMemory& my_memory() {
  static SharedMemory memory = SharedMemory::create(sizeof(Page));
  return memory;
}

Page* page_of(SharedMemoryName name) {
  static std::map<std::pair<int, int>, std::unique_ptr<SharedMemory>> pages;
  std::unique_ptr<SharedMemory>& memory = pages[{name.pid, name.fd}];
  if (memory == nullptr) {
    auto opened = SharedMemory::open(name, sizeof(Page));
    if (!opened) return nullptr;
    memory = std::make_unique<SharedMemory>(std::move(*opened));
  }
  return static_cast<Page*>(memory->data());
}

Page& mine() { return *static_cast<Page*>(my_memory().data()); }

// Nothing where the page is being written, or its process has gone.
std::optional<Snapshot> read(SharedMemoryName name) {
  const Page* const page = page_of(name);
  if (page == nullptr) return std::nullopt;
  Snapshot snapshot;
  snapshot.generation = page->generation.load(std::memory_order_acquire);
  snapshot.num_looks = page->num_looks.load(std::memory_order_relaxed);
  snapshot.others.assign(page->others,
                         page->others + std::min<size_t>(page->num_others.load(), kMaxOthers));
  snapshot.what = page->what;
  std::atomic_thread_fence(std::memory_order_acquire);
  if (snapshot.generation % 2 != 0 || page->generation.load() != snapshot.generation)
    return std::nullopt;
  return snapshot;
}

void write(const std::string& what, std::span<const SharedMemoryName> others) {
  Page& page = mine();
  page.generation.fetch_add(1);
  std::copy_n(others.begin(), std::min(others.size(), kMaxOthers), page.others);
  page.num_others = static_cast<uint32_t>(std::min(others.size(), kMaxOthers));
  std::strncpy(page.what, what.c_str(), kMaxText - 1);
  page.generation.fetch_add(1);
}

struct Stop {
  SharedMemoryName process;
  Snapshot snapshot;
};

// Follows who waits for whom until it is back at this process. Everybody waits for all of its
// others, so one way round is enough.
bool find_circle(std::vector<Stop>& way) {
  for (const SharedMemoryName next : way.back().snapshot.others) {
    if (next == way.front().process) return true;
    if (std::any_of(way.begin(), way.end(), [&](const Stop& stop) { return stop.process == next; }))
      continue;
    const auto snapshot = read(next);
    if (!snapshot || snapshot->others.empty()) continue;
    way.push_back({next, *snapshot});
    if (find_circle(way)) return true;
    way.pop_back();
  }
  return false;
}

// The circle that was seen, and is one only if all on it go on looking and nobody moves.
std::vector<Stop>& suspects() {
  static std::vector<Stop> stops;
  return stops;
}

bool same_circle(const std::vector<Stop>& a, const std::vector<Stop>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const Stop& x, const Stop& y) {
    return x.process == y.process && x.snapshot.generation == y.snapshot.generation;
  });
}

}  // namespace

SharedMemoryName my_page() { return my_memory().name(); }

bool is_alive(SharedMemoryName page) {
  return page == my_page() || SharedMemory::open(page, sizeof(Page)).has_value();
}

std::optional<std::string> report_waiting(const std::string& text_of_wait,
                                          std::span<const SharedMemoryName> others) {
  Page& page = mine();
  const std::string what = text_of_wait.substr(0, kMaxText - 1);
  const bool is_known = page.num_others == others.size() && what == page.what &&
                        std::equal(others.begin(), others.end(), page.others);
  if (!is_known) write(what, others);
  page.num_looks.fetch_add(1);
  for (const SharedMemoryName other : others)
    if (Page* const theirs = page_of(other)) theirs->is_waited_for = 1;

  std::vector<Stop> way = {{my_page(), *read(my_page())}};
  if (!find_circle(way)) way.clear();
  std::vector<Stop>& seen = suspects();
  if (way.empty() || !same_circle(way, seen)) {
    seen = std::move(way);
    return std::nullopt;
  }
  constexpr uint64_t kEnoughLooks = 3;
  std::string text;
  for (size_t i = 0; i < way.size(); ++i) {
    if (way[i].snapshot.num_looks < seen[i].snapshot.num_looks + kEnoughLooks) return std::nullopt;
    text += "\n  process " + std::to_string(way[i].process.pid) + ": " + way[i].snapshot.what;
  }
  return text;
}

void report_moving() {
  suspects().clear();
  if (mine().num_others != 0) write("", {});
}

std::string describe_process(SharedMemoryName page) {
  const auto snapshot = read(page);
  if (!snapshot) return is_alive(page) ? "on its way" : "gone";
  return snapshot->others.empty() ? "in no operation of NCCL that waits" : snapshot->what;
}

bool take_is_waited_for() { return mine().is_waited_for.exchange(0) != 0; }

}  // namespace cuda_emulator::nccl
