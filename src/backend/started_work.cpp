#include "backend/started_work.h"

#include <algorithm>
#include <utility>

namespace switchyard {

Event StartedWork::start(Event done, std::unique_ptr<PendingWork> work, Event after) {
  if (backend_.is_complete(after) && work->advance()) return {};
  pending_.push_back({done, after, std::move(work)});
  return done;
}

void StartedWork::advance() {
  for (auto pending = pending_.begin(); pending != pending_.end();) {
    if (!advance(*pending)) {
      ++pending;
      continue;
    }
    const int64_t ticket = pending->done.ticket;
    pending = pending_.erase(pending);
    backend_.marks().completed(ticket);
  }
}

bool StartedWork::advance(Pending& pending) {
  if (!backend_.is_complete(pending.after)) return false;
  const bool is_done = pending.work->advance();
  if (const int64_t arrived = pending.work->num_arrived(); arrived != pending.num_arrived) {
    pending.num_arrived = arrived;
    backend_.marks().part_arrived();
  }
  return is_done;
}

void StartedWork::mark_what_is_missing(Event event) {
  constexpr int64_t kRound = int64_t{1} << 32;
  int64_t reached = 0;
  for (size_t i = pending_.size(); i-- > 0;) {  // work comes after what it waits for
    const Pending& pending = pending_[i];
    if (pending.done.ticket != event.ticket) continue;
    if (backend_.is_complete(pending.after)) {
      backend_.marks().wait_misses(pending.work->missing_peer(), reached + pending.num_arrived);
      return;
    }
    event = pending.after;
    reached -= kRound;
  }
}

bool StartedWork::is_complete(Event done) const {
  return std::none_of(pending_.begin(), pending_.end(),
                      [&](const Pending& pending) { return pending.done.ticket == done.ticket; });
}

}  // namespace switchyard
