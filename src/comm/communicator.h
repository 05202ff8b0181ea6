// Communicator: a group of ranks and what they can do together. One per dimension of the grid
// (process_grid.h). Four kinds: SelfCommunicator (a group of one, which copies), MpiCommunicator,
// NcclCommunicator (between GPUs), and ThreadCommunicator (ranks are threads of one process; tests
// only). What stands before another communicator and passes its collectives on is a
// ForwardingCommunicator.
//
// Collectives are dataflow: each takes the event after which its input is valid and its output no
// longer read, and returns the event after which its output is valid. All ranks of a group call
// the same collectives in the same order. Sums run in the order of ranks, so they are reproducible.
// Contributions may be empty. Memory of input and output does not overlap, but for the cases named
// below, in which a group of one copies nothing. The functions ending in _host are for small host
// values (counts, votes, metrics) and return when the result is there.
//
// A communicator belongs to the thread that made it, and checks that no other calls it: MPI is
// initialized for one thread, and ranks would no longer call the same collectives in the same
// order.
//
// A communicator blocks until it is given a backend. From then on a collective may return before it
// is done, any number may be in flight, on one communicator and on several, and the backend
// completes their events; waiting for one event lets all of them advance, and so do the _host
// functions while they wait. So ranks may wait for events in any order without holding each other
// up. What does hold others up: a long computation without Backend::progress(), a split, and any
// call of a communicator without a backend. A communicator outlives its collectives in flight. The
// thread communicator waits for the event it is given, and is done when it returns.
//
// Tensors are in the memory of the backend, or in host memory where there is none. The MPI and the
// thread communicator read and write them on the host: for a device whose memory it cannot reach,
// another kind carries tensors, and one of these the values of the _host functions.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "backend/backend.h"

namespace switchyard {

struct Payload {
  int64_t elements = 0, bytes = 0;  // elements of the tensors that travel, whatever their type
  bool operator==(const Payload&) const = default;
};

// What this rank handed over in one kind of collective: for other ranks, counted once for each of
// them, and for itself.
struct Traffic {
  Payload others, self;
  bool operator==(const Traffic&) const = default;
};

// All that a rank has handed to a communicator since it was made; the small values of the _host
// functions are not counted. n: elements of a tensor, P: size of the group, s: elements of my slice
// of it. What is not mentioned counts nothing.
struct TrafficReport {
  Traffic all_to_all;      // others: rows for other ranks; self: rows for me
  Traffic all_gather;      // of n:   others: n (P - 1);            self: n
  Traffic reduce_scatter;  // of n:   others: n - s;                self: s
  Traffic all_reduce;      // of n:   others: n - s + s (P - 1);    self: 2 s  (slice r of n: below)
  Traffic broadcast;       // of n:   others: n (P - 1) on root;    self: n on root
  Traffic point_to_point;  // messages sent to other ranks; to myself
  bool operator==(const TrafficReport&) const = default;
};
TrafficReport operator-(const TrafficReport& now, const TrafficReport& before);

// One message of send_receive.
struct Message {
  Tensor tensor;
  int peer = 0;
};

class Communicator {
 public:
  virtual ~Communicator() = default;

  int rank() const { return rank_; }
  int size() const { return size_; }
  const std::string& name() const { return name_; }  // "ep", for messages
  uint64_t id() const { return id_; }  // the same on all ranks of the group, and of no other group
  const TrafficReport& traffic() const { return traffic_; }

  // The ranks that pass the same color (>= 0) become a new group, ordered by key (ties: by rank
  // here).
  std::unique_ptr<Communicator> split(int color, int key, std::string name);

  // From now on `backend` completes the events of collectives, here and in groups split off later.
  // What is called, and what it waits for, is marked there (Backend::marks).
  virtual void use(Backend& backend);

  // x = sum over ranks. All ranks get the same bits. Sums of bf16 are held in f32 and rounded once.
  // (Rank r sums elements [n r / P, n (r + 1) / P), its slice, and hands the sum to all.)
  Event all_reduce_sum(Tensor x, Event after = {});
  // out = my slice of the sum; input holds size() slices of out's size, one after another. `out`
  // may be my slice of `input`.
  Event reduce_scatter_sum(Tensor out, Tensor input, Event after = {});
  // out = the inputs of all ranks, one after another. `input` may be my slice of `out`.
  Event all_gather(Tensor out, Tensor input, Event after = {});
  // The same with rows[r] rows (of dim 0, 0 or more) for rank r; `rows` is equal on all ranks.
  Event reduce_scatter_rows(Tensor out, Tensor input, std::span<const int64_t> rows,
                            Event after = {});
  Event all_gather_rows(Tensor out, Tensor input, std::span<const int64_t> rows, Event after = {});
  // Rank r gets send_rows[r] rows (of dim 0) of `input`, which are ordered by receiving rank; out
  // holds receive_rows[r] rows from each rank r, ordered by sending rank.
  Event all_to_all(Tensor out, std::span<const int64_t> receive_rows, Tensor input,
                   std::span<const int64_t> send_rows, Event after = {});
  Event broadcast(Tensor x, int root, Event after = {});
  // All messages at once, in no order between different peers; no deadlock among the ranks that
  // take part. Messages between the same two ranks match in the order of the lists.
  Event send_receive(std::span<const Message> sends, std::span<const Message> receives,
                     Event after = {});

  void barrier();
  // out[r] = the value of rank r.
  std::vector<int64_t> all_gather_host(int64_t value);
  // The same number of values to every rank, ordered by rank; what every rank has for me.
  std::vector<int64_t> all_to_all_host(std::span<const int64_t> values);
  void all_reduce_sum_host(std::span<double> values);
  double all_reduce_max_host(double value);  // NaN if any rank's value is
  void broadcast_host(std::string& bytes, int root);
  // Gathers the bytes of every rank on `root` (empty result elsewhere).
  std::vector<std::string> gather_host(const std::string& bytes, int root);

 protected:
  Communicator(int rank, int size, std::string name)
      : rank_(rank), size_(size), name_(std::move(name)), owner_(std::this_thread::get_id()) {}

  std::string who() const;  // "ep (rank 1 of 4)", the beginning of every error message

  // for_host_values() of another.
  static Communicator& for_host_values_of(Communicator& other) { return other.for_host_values(); }

  Backend* backend() const { return backend_; }            // null: blocking
  CallKind call_at_hand() const { return call_at_hand_; }  // the last that began
  void finish(
      Event event) const;  // blocks until it has completed; all do where there is no backend

 private:
  void check_member(const char* what, int peer) const;
  void check_rows(const char* call, Tensor parts, Tensor my_part,
                  std::span<const int64_t> rows) const;
  // The same for every rank, and n cut into one slice for each.
  std::vector<int64_t> same_counts(int64_t count) const;
  std::vector<int64_t> slices_of(int64_t n) const;
  int64_t mine(std::span<const int64_t> counts) const { return counts[static_cast<size_t>(rank_)]; }
  // Flat tensors; count what is about to travel.
  Event reduce_scatter_counts(Tensor out, Tensor input, std::span<const int64_t> counts,
                              Event after);
  Event all_gather_counts(Tensor out, Tensor input, std::span<const int64_t> counts, Event after);
  void all_gather_values(Tensor out, Tensor mine);

  // Called after sizes have been checked. Those with `counts` get flat tensors, counts[r] elements
  // of them for each rank r.
  virtual std::unique_ptr<Communicator> do_split(int color, int key, std::string name) = 0;
  // Unless overridden: a reduce-scatter and an all-gather, both in place.
  virtual Event do_all_reduce_sum(Tensor x, Event after);
  virtual Event do_reduce_scatter_sum(Tensor out, Tensor input, std::span<const int64_t> counts,
                                      Event after) = 0;
  virtual Event do_all_gather(Tensor out, Tensor input, std::span<const int64_t> counts,
                              Event after) = 0;
  virtual Event do_all_to_all(Tensor out, std::span<const int64_t> receive_rows, Tensor input,
                              std::span<const int64_t> send_rows, Event after) = 0;
  virtual Event do_broadcast(Tensor x, int root, Event after) = 0;
  virtual Event do_send_receive(std::span<const Message> sends, std::span<const Message> receives,
                                Event after) = 0;
  // Whether calls are marked: not where another communicator carries them, and marks them.
  virtual bool is_marked() const { return true; }
  // Around every call that may have to wait for others. end_call() returns `done`.
  void begin_call(CallKind kind, int64_t bytes, std::span<const Message> sends = {},
                  std::span<const Message> receives = {});
  Event end_call(Event done);

  // Who carries the values of the _host functions: another communicator of the same ranks where
  // tensors do not travel through the host.
  virtual Communicator& for_host_values() { return *this; }

  int rank_;
  int size_;
  std::string name_;
  std::thread::id owner_;
  Backend* backend_ = nullptr;
  TrafficReport traffic_;
  uint64_t id_ = 1;  // of world
  int64_t num_collectives_ = 0, num_exchanges_ = 0, num_splits_ = 0;
  CallKind call_at_hand_ = CallKind::kNone;
  int group_ = -1;  // in the page of marks
};

}  // namespace switchyard
