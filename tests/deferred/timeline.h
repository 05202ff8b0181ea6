// Timeline: what one rank has asked its queues to do, in which order that may happen, and how much
// of it has happened. The heart of the deferred backend (deferred_backend.h).
//
// Every queue is first in, first out; a work may also have to come after an event of another queue.
// Nothing runs when it is asked for. It runs
//   late      when the host waits for it, and then only what it needs;
//   random    at any time that its order allows, drawn with a seed: queues overtake each other as
//             far as they may;
//   at once   when it is asked for, with all that must come before it: right by luck where a wait
//   is
//             missing.
// Collectives of all queues run in the order in which they were asked for: a device launches them
// in one order, and those of threads block until their partners come.
//
// Beside that, the timeline proves that the order is *sufficient*, whatever happened to run when:
// each work carries a vector clock, the newest work of every queue that is certain to be over when
// it starts. Two works that use the same memory, one of them writing, of which neither is certain
// to come before the other, are reported with both names.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <initializer_list>
#include <random>
#include <string>
#include <vector>

#include "backend/backend.h"

namespace switchyard::test {

struct RunOrder {
  enum class Kind { kLate, kRandom, kAtOnce } kind = Kind::kLate;
  uint64_t seed = 0;  // of kRandom
};

// Memory that a work uses.
struct Access {
  const std::byte* begin = nullptr;
  int64_t bytes = 0;
  bool writes = false;
};
bool overlaps(const Access& access, const std::byte* memory, int64_t bytes);

// None and empty tensors use no memory.
std::vector<Access> accesses_of(std::initializer_list<Tensor> written,
                                std::initializer_list<Tensor> read);

struct Work {
  std::string name = {};
  std::vector<Access> accesses = {};
  std::function<void()> run = {};  // none: nothing to do
};

class Timeline {
 public:
  explicit Timeline(RunOrder order) : order_(order), random_(order.seed) {}

  int add_queue(std::string name);
  // Nobody will run the rest of its work: reported, if there is any.
  void close_queue(int queue);

  // Returns the event of the work's end.
  Event push(int queue, Work work, Event after = {});
  Event push_collective(int queue, Work work, Event after);
  // Later work of `queue` comes after `event`.
  void push_wait(int queue, Event event);
  // The end of all that `queue` has been asked for.
  Event last(int queue) const;

  // Runs work until the event's has run. The host, and all it asks for from now on, comes after it.
  void host_wait(Event event);
  // Whether it has run; if so the host comes after it.
  bool poll(Event event);
  // Runs all collectives asked for, and what they need.
  void run_collectives();
  // Random order: perhaps something runs. At once: everything does.
  void run_some();

  // The memory goes away. Work that the host does not know to be over is reported, and not run.
  void forget(const std::byte* memory, int64_t bytes);

  void report(const std::string& message);
  const std::string& name_of(int queue) const { return queues_[static_cast<size_t>(queue)].name; }
  int num_queues() const { return static_cast<int>(queues_.size()); }
  const std::vector<std::string>& reports() const { return reports_; }
  // In the order in which they ran: "compute: fill".
  const std::vector<std::string>& finished() const { return finished_; }

 private:
  using Clock = std::vector<int64_t>;  // by queue: its tickets up to this one

  struct Entry {
    Work work = {};
    Event after = {};
    bool is_collective = false;
    Clock clock = {};  // with this entry itself
  };
  struct WorkQueue {
    std::string name;
    std::deque<Entry> entries;   // done ones that may still matter, and those to do
    int64_t first_ticket = 1;    // of the first entry
    int64_t done = 0, last = 0;  // tickets
    Clock clock;                 // of its newest entry
  };

  Event push_entry(int queue, Entry entry);
  Entry& at(Event event);
  const Clock& clock_of(Event event);
  void check_races(int queue, const Entry& entry);
  bool is_over(Event event) const;
  bool may_run(int queue) const;
  void run_next(int queue);
  void run_through(Event event);
  bool run_random_one();
  void host_comes_after(Event event);
  std::string describe(int queue, const Entry& entry) const;

  RunOrder order_;
  std::mt19937_64 random_;
  std::deque<WorkQueue> queues_;
  std::deque<Event> collectives_;  // not yet done, as asked for
  Clock host_clock_;
  std::vector<std::string> reports_, finished_;
};

}  // namespace switchyard::test
