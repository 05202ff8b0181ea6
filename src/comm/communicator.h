// Communicator: a group of ranks and what they can do together. One per dimension of the grid
// (process_grid.h). Three kinds: SelfCommunicator (a group of one, which copies), MpiCommunicator,
// and ThreadCommunicator (ranks are threads of one process; tests only).
//
// Collectives are dataflow: each takes the event after which its input is valid and its output no
// longer read, and returns the event after which its output is valid. All ranks of a group call
// the same collectives in the same order. Sums run in the order of ranks, so they are reproducible.
// Contributions may be empty. Memory of input and output does not overlap, but for the two cases
// named below. The functions ending in _host are for small host values (counts,
// votes, metrics) and return when the result is there.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"

namespace switchyard {

// Bytes of tensors that this rank handed to a communicator for other ranks: its part for itself and
// the small values of the _host functions are not counted.
struct TrafficReport {
  int64_t all_to_all_bytes = 0;
  int64_t other_bytes = 0;
};

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
  const TrafficReport& traffic() const { return traffic_; }

  // The ranks that pass the same color (>= 0) become a new group, ordered by key (ties: by rank
  // here).
  std::unique_ptr<Communicator> split(int color, int key, std::string name);

  // x = sum over ranks. f32, f64, i32, i64. (All ranks get the same bits.)
  Event all_reduce_sum(Tensor x, Event after = {});
  // out = my slice of the sum; input holds size() slices of out's size, one after another. `out`
  // may be my slice of `input`.
  Event reduce_scatter_sum(Tensor out, Tensor input, Event after = {});
  // out = the inputs of all ranks, one after another. `input` may be my slice of `out`.
  Event all_gather(Tensor out, Tensor input, Event after = {});
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
      : rank_(rank), size_(size), name_(std::move(name)) {}

  std::string who() const;  // "ep (rank 1 of 4)", the beginning of every error message

 private:
  void check_member(const char* what, int peer) const;

  // Called after sizes have been checked.
  virtual std::unique_ptr<Communicator> do_split(int color, int key, std::string name) = 0;
  virtual Event do_all_reduce_sum(Tensor x, Event after) = 0;
  virtual Event do_reduce_scatter_sum(Tensor out, Tensor input, Event after) = 0;
  virtual Event do_all_gather(Tensor out, Tensor input, Event after) = 0;
  virtual Event do_all_to_all(Tensor out, std::span<const int64_t> receive_rows, Tensor input,
                              std::span<const int64_t> send_rows, Event after) = 0;
  virtual Event do_broadcast(Tensor x, int root, Event after) = 0;
  virtual Event do_send_receive(std::span<const Message> sends, std::span<const Message> receives,
                                Event after) = 0;

  int rank_;
  int size_;
  std::string name_;
  TrafficReport traffic_;
};

}  // namespace switchyard
