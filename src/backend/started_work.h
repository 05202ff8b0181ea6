// StartedWork: what a backend does outside its queues (Backend::start), by polling. Every backend
// has one; events of work are told from those of queues by their number of a queue.
#pragma once

#include <memory>
#include <vector>

#include "backend/backend.h"

namespace switchyard {

class StartedWork {
 public:
  // `backend` says of all events whether they are complete, and keeps the marks.
  explicit StartedWork(Backend& backend) : backend_(backend) {}

  // Backend::start. The event is `done`, or none where all is done at once.
  Event start(Event done, std::unique_ptr<PendingWork> work, Event after);
  // Lets everything advance.
  void advance();
  bool is_complete(Event done) const;
  // Marks which part of the work that must advance before `event` can complete is missing; every
  // step back from it is one round less that the call has come.
  void mark_what_is_missing(Event event);

 private:
  struct Pending {
    Event done, after;
    std::unique_ptr<PendingWork> work;
    int64_t num_arrived = 0;  // parts that have been marked
  };
  bool advance(Pending& pending);

  Backend& backend_;
  std::vector<Pending> pending_;  // in the order of start()
};

}  // namespace switchyard
