#include "deferred/timeline.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "core/error.h"

namespace switchyard::test {
namespace {

void join(std::vector<int64_t>& clock, const std::vector<int64_t>& other) {
  if (clock.size() < other.size()) clock.resize(other.size(), 0);
  for (size_t i = 0; i < other.size(); ++i) clock[i] = std::max(clock[i], other[i]);
}

int64_t ticket_in(const std::vector<int64_t>& clock, size_t queue) {
  return queue < clock.size() ? clock[queue] : 0;
}

bool conflict(const Work& a, const Work& b) {
  return std::ranges::any_of(a.accesses, [&](const Access& x) {
    return std::ranges::any_of(b.accesses, [&](const Access& y) {
      return (x.writes || y.writes) && overlaps(x, y.begin, y.bytes);
    });
  });
}

// The memory that a work only reads, to be looked at again when it has run.
class ReadOnly {
 public:
  explicit ReadOnly(const Work& work) {
    for (const Access& access : work.accesses) {
      const bool is_written = std::ranges::any_of(work.accesses, [&](const Access& other) {
        return other.writes && overlaps(other, access.begin, access.bytes);
      });
      if (is_written) continue;
      accesses_.push_back(access);
      contents_.emplace_back(access.begin, access.begin + access.bytes);
    }
  }

  bool is_unchanged() const {
    for (size_t i = 0; i < accesses_.size(); ++i)
      if (!std::equal(contents_[i].begin(), contents_[i].end(), accesses_[i].begin)) return false;
    return true;
  }

 private:
  std::vector<Access> accesses_;
  std::vector<std::vector<std::byte>> contents_;
};

bool uses(const Work& work, const std::byte* memory, int64_t bytes) {
  return std::ranges::any_of(work.accesses,
                             [&](const Access& access) { return overlaps(access, memory, bytes); });
}

}  // namespace

bool overlaps(const Access& access, const std::byte* memory, int64_t bytes) {
  return access.begin < memory + bytes && memory < access.begin + access.bytes;
}

std::vector<Access> accesses_of(std::initializer_list<Tensor> written,
                                std::initializer_list<Tensor> read) {
  std::vector<Access> accesses;
  const auto add = [&](Tensor tensor, bool writes) {
    if (tensor.bytes() > 0)
      accesses.push_back({static_cast<const std::byte*>(tensor.raw()), tensor.bytes(), writes});
  };
  for (const Tensor& tensor : written) add(tensor, true);
  for (const Tensor& tensor : read) add(tensor, false);
  return accesses;
}

int Timeline::add_queue(std::string name) {
  queues_.emplace_back().name = std::move(name);
  return static_cast<int>(queues_.size()) - 1;
}

void Timeline::close_queue(int queue) {
  WorkQueue& closed = queues_[static_cast<size_t>(queue)];
  for (int64_t ticket = closed.done + 1; ticket <= closed.last; ++ticket) {
    Entry& entry = at({queue, ticket});
    if (entry.work.run && std::uncaught_exceptions() == 0)
      report(fmt::format("{} has not run when its queue is closed", describe(queue, entry)));
    entry.work.run = nullptr;
  }
}

Event Timeline::push(int queue, Work work, Event after) {
  const Event done = push_entry(queue, {.work = std::move(work), .after = after});
  run_some();
  return done;
}

Event Timeline::push_collective(int queue, Work work, Event after) {
  const Event done =
      push_entry(queue, {.work = std::move(work), .after = after, .is_collective = true});
  collectives_.push_back(done);
  run_some();
  return done;
}

void Timeline::push_wait(int queue, Event event) {
  if (event.queue < 0 || event.queue == queue) return;
  push_entry(queue, {.work = {.name = "wait"}, .after = event});
}

Event Timeline::last(int queue) const { return {queue, queues_[static_cast<size_t>(queue)].last}; }

Event Timeline::push_entry(int queue, Entry entry) {
  WorkQueue& own = queues_[static_cast<size_t>(queue)];
  join(own.clock, host_clock_);
  if (entry.after.queue >= 0) join(own.clock, clock_of(entry.after));
  own.clock.resize(queues_.size(), 0);
  own.clock[static_cast<size_t>(queue)] = ++own.last;
  entry.clock = own.clock;
  check_races(queue, entry);
  own.entries.push_back(std::move(entry));
  return {queue, own.last};
}

Timeline::Entry& Timeline::at(Event event) {
  WorkQueue& queue = queues_[static_cast<size_t>(event.queue)];
  SY_CHECK(event.ticket >= queue.first_ticket && event.ticket <= queue.last, "{} has no event {}",
           queue.name, event.ticket);
  return queue.entries[static_cast<size_t>(event.ticket - queue.first_ticket)];
}

// What the host knows to be over is in its own clock, with all that came before.
const Timeline::Clock& Timeline::clock_of(Event event) {
  if (event.ticket <= ticket_in(host_clock_, static_cast<size_t>(event.queue))) return host_clock_;
  return at(event).clock;
}

void Timeline::check_races(int queue, const Entry& entry) {
  for (int other = 0; other < num_queues(); ++other) {
    if (other == queue) continue;
    const WorkQueue& theirs = queues_[static_cast<size_t>(other)];
    const int64_t over = ticket_in(entry.clock, static_cast<size_t>(other));
    for (int64_t ticket = std::max(over + 1, theirs.first_ticket); ticket <= theirs.last; ++ticket)
      if (const Entry& unordered = at({other, ticket}); conflict(entry.work, unordered.work))
        report(fmt::format("{} and {} use the same memory, and no event orders them",
                           describe(other, unordered), describe(queue, entry)));
  }
}

bool Timeline::is_over(Event event) const {
  return event.queue < 0 || queues_[static_cast<size_t>(event.queue)].done >= event.ticket;
}

bool Timeline::may_run(int queue) const {
  const WorkQueue& own = queues_[static_cast<size_t>(queue)];
  if (own.done == own.last) return false;
  const Entry& next = own.entries[static_cast<size_t>(own.done + 1 - own.first_ticket)];
  return is_over(next.after) && (!next.is_collective || collectives_.front().queue == queue);
}

void Timeline::run_next(int queue) {
  WorkQueue& own = queues_[static_cast<size_t>(queue)];
  Entry& entry = at({queue, own.done + 1});
  if (entry.work.run) {
    const ReadOnly read(entry.work);
    entry.work.run();
    entry.work.run = nullptr;
    finished_.push_back(describe(queue, entry));
    if (!read.is_unchanged())
      report(fmt::format("{} has changed what it was to read only", finished_.back()));
  }
  if (entry.is_collective) collectives_.pop_front();
  ++own.done;
}

// What keeps an event away was asked for before it, so this comes to an end.
void Timeline::run_through(Event event) {
  while (!is_over(event)) {
    const WorkQueue& queue = queues_[static_cast<size_t>(event.queue)];
    const Entry& next = at({event.queue, queue.done + 1});
    if (!is_over(next.after))
      run_through(next.after);
    else if (next.is_collective && collectives_.front().queue != event.queue)
      run_through(collectives_.front());
    else
      run_next(event.queue);
  }
}

bool Timeline::run_random_one() {
  std::vector<int> ready;
  for (int queue = 0; queue < num_queues(); ++queue)
    if (may_run(queue)) ready.push_back(queue);
  if (ready.empty()) return false;
  run_next(ready[random_() % ready.size()]);
  return true;
}

void Timeline::run_some() {
  if (order_.kind == RunOrder::Kind::kAtOnce)
    for (int queue = 0; queue < num_queues(); ++queue) run_through(last(queue));
  if (order_.kind == RunOrder::Kind::kRandom)
    while (random_() % 2 == 0 && run_random_one()) {
    }
}

void Timeline::run_collectives() {
  while (!collectives_.empty()) run_through(collectives_.front());
}

void Timeline::host_wait(Event event) {
  if (order_.kind == RunOrder::Kind::kRandom)
    while (!is_over(event)) SY_CHECK(run_random_one(), "nothing can run: queues wait in a circle");
  run_through(event);
  host_comes_after(event);
}

bool Timeline::poll(Event event) {
  if (!is_over(event)) return false;
  host_comes_after(event);
  return true;
}

void Timeline::host_comes_after(Event event) {
  if (event.queue < 0 || event.ticket == 0) return;
  join(host_clock_, clock_of(event));
  for (size_t i = 0; i < queues_.size(); ++i) {
    WorkQueue& queue = queues_[i];
    for (; queue.first_ticket <= std::min(queue.done, ticket_in(host_clock_, i));
         ++queue.first_ticket)
      queue.entries.pop_front();
  }
}

void Timeline::forget(const std::byte* memory, int64_t bytes) {
  for (int queue = 0; queue < num_queues(); ++queue)
    for (Entry& entry : queues_[static_cast<size_t>(queue)].entries) {
      if (!uses(entry.work, memory, bytes)) continue;
      if (std::uncaught_exceptions() == 0)
        report(fmt::format("memory is freed before the host has waited for {}, which uses it",
                           describe(queue, entry)));
      entry.work.run = nullptr;
      entry.work.accesses.clear();
    }
}

void Timeline::report(const std::string& message) {
  constexpr size_t kEnough = 100;
  if (reports_.size() < kEnough && std::ranges::count(reports_, message) == 0)
    reports_.push_back(message);
}

std::string Timeline::describe(int queue, const Entry& entry) const {
  return fmt::format("{}: {}", queues_[static_cast<size_t>(queue)].name, entry.work.name);
}

}  // namespace switchyard::test
