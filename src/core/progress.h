// Progress: the marks that a rank leaves of its work, for the watchdog (train/watchdog.h) and for
// whoever asks afterwards what happened (train/postmortem.h). Owned by the Backend, which everybody
// has who does something worth a mark.
//
// The page lies in memory that has a file descriptor, so that other processes of the node can read
// it while this one is stopped or stuck, and nothing is left of it when the last of them has gone.
//
// One thread writes marks: the one that drives the backend. A mark costs about 50 ns. What counts
// as progress are layers, phases, collectives and their parts that arrive, blocks of files: a rank
// that only polls makes none. Marks are fault points, too (core/fault.h): "train.forward" where
// that phase begins, "train.unit" at each layer.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/progress_page.h"

namespace switchyard {

int64_t monotonic_ns();

class Progress {
 public:
  Progress();
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // Calls `follower` with every mark that is an event, for profilers.
  using Follower = std::function<void(const ProgressHead& head, EventKind mark)>;
  void follow(Follower follower) { follower_ = std::move(follower); }

  // Which job the page belongs to; before the watchdog starts.
  void identify(uint64_t job, int rank, int num_ranks, int num_layers);

  void begin_step(int64_t step);  // from 1
  void enter(RunPhase phase);
  void at_unit(int unit);
  // A piece of anything else that takes long: a block of a file, a batch of a validation.
  void worked(int64_t bytes);

  // For communicators. The group's place in the page; the same for the same id.
  int add_group(uint64_t id, const std::string& name, int rank, int size);
  void message_sent(int group, int peer);
  PeerMessage message_expected(int group, int peer);
  // A call begins, and what it returned: the ticket of an event to come, or 0: all is done.
  void call_begins(const ProgressCall& call);
  void call_returns(int64_t ticket);

  // For backends.
  void completed(int64_t ticket);
  void part_arrived();               // of a call under way
  bool wait_begins(int64_t ticket);  // false: no call has this ticket, and nothing is marked
  // While waiting: whose message is missing, and how far the call has come.
  void wait_misses(int peer, int64_t reached);
  void wait_ends();

  // For the watchdog's thread; the only functions that may run beside the others.
  void beat();
  void end(Ending ending, int64_t signal, std::string_view message);
  ProgressHead head() const;
  const ProgressPage& page() const { return *page_; }  // being written: see copy_words()

 private:
  void note(EventKind kind, const ProgressCall& call);
  int64_t moved();  // returns the time
  void set_waits_for(const ProgressCall& call);
  ProgressChannel* channel(int group, int peer);

  ProgressPage* page_;  // mapped
  int fd_;
  Follower follower_;
  ProgressCall at_hand_;                 // the call that has begun and not returned
  std::vector<ProgressCall> in_flight_;  // the calls that have returned and are not complete
};

}  // namespace switchyard
