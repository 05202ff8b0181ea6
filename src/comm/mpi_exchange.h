// MpiExchange: messages between this rank and others that are all under way at once.
//
// Messages of any length: MPI counts bytes with int, so long ones travel in pieces. Errors, also a
// message of another length than expected, name the group and the rank.
#pragma once

#include <mpi.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/progress_page.h"
#include "core/tensor.h"

namespace switchyard {

// Messages between two ranks match in the order in which they are posted under one tag.
struct MpiMessage {
  Tensor tensor;
  int peer = 0;
  int tag = 0;
};

class MpiExchange {
 public:
  // `who` begins error messages; `call` is what the messages are part of.
  MpiExchange(MPI_Comm comm, std::string who, CallKind call)
      : comm_(comm), who_(std::move(who)), call_(call) {}

  // Only when nothing is under way. Messages of no bytes are not sent at all.
  void post(std::span<const MpiMessage> sends, std::span<const MpiMessage> receives);
  // True when all that was posted has arrived or left. Never blocks.
  bool advance();
  // Messages that have arrived or left since it was made.
  int64_t num_arrived() const { return num_arrived_; }
  // The other end of the first that has not; -1: all have.
  int missing_peer() const { return num_done_ < peers_.size() ? peers_[num_done_] : -1; }

 private:
  void check_length(const MPI_Status& status, int64_t expected_bytes) const;
  void check(int code, const char* call) const;

  MPI_Comm comm_;
  std::string who_;
  CallKind call_;
  std::vector<MPI_Request> requests_;    // receives, then sends
  std::vector<int64_t> expected_bytes_;  // of each receive
  std::vector<int> peers_;               // of each request
  int64_t num_arrived_ = 0;
  size_t num_done_ = 0;  // the first requests
};

// Throws an Error that begins with `who` unless `code` is MPI_SUCCESS.
void mpi_check(int code, const char* call, const std::string& who);

}  // namespace switchyard
