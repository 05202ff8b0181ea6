#include "comm/mpi_exchange.h"

#include <algorithm>

#include "comm/call_faults.h"
#include "core/fault.h"

namespace switchyard {
namespace {

constexpr int64_t kMaxBytesPerCall = int64_t{1} << 30;

// Calls work(first byte, bytes) for each piece of the tensor that travels in one call.
template <typename Work>
void for_each_piece(Tensor tensor, const Work& work) {
  auto* const data = static_cast<std::byte*>(tensor.raw());
  for (int64_t begin = 0; begin < tensor.bytes(); begin += kMaxBytesPerCall)
    work(data + begin, static_cast<int>(std::min(kMaxBytesPerCall, tensor.bytes() - begin)));
}

}  // namespace

void MpiExchange::post(std::span<const MpiMessage> sends, std::span<const MpiMessage> receives) {
  requests_.clear();
  expected_bytes_.clear();
  peers_.clear();
  num_done_ = 0;
  for (const MpiMessage& message : receives) {
    for_each_piece(message.tensor, [&](std::byte* data, int bytes) {
      check(MPI_Irecv(data, bytes, MPI_BYTE, message.peer, message.tag, comm_,
                      &requests_.emplace_back()),
            "MPI_Irecv");
      expected_bytes_.push_back(bytes);
      peers_.push_back(message.peer);
    });
  }
  for (const MpiMessage& message : sends) {
    for_each_piece(message.tensor, [&](std::byte* data, int bytes) {
      const bool is_lost = fault_point(fault_points_of(call_).message) == Fault::kDrop;
      check(MPI_Isend(data, bytes, MPI_BYTE, is_lost ? MPI_PROC_NULL : message.peer, message.tag,
                      comm_, &requests_.emplace_back()),
            "MPI_Isend");
      peers_.push_back(message.peer);
    });
  }
}

// One by one: after a truncated message Open MPI 4.1's MPI_Waitall now and then never returns. A
// test of one request lets all of them move.
bool MpiExchange::advance() {
  for (; num_done_ < requests_.size(); ++num_done_) {
    int is_done = 0;
    MPI_Status status;
    check(MPI_Test(&requests_[num_done_], &is_done, &status), "MPI_Test");
    if (is_done == 0) return false;
    ++num_arrived_;
    if (num_done_ < expected_bytes_.size()) check_length(status, expected_bytes_[num_done_]);
  }
  return true;
}

void MpiExchange::check_length(const MPI_Status& status, int64_t expected_bytes) const {
  int bytes = 0;
  check(MPI_Get_count(&status, MPI_BYTE, &bytes), "MPI_Get_count");
  SY_CHECK(bytes == expected_bytes, "{}: a message of rank {} has {} bytes, not {}", who_,
           status.MPI_SOURCE, bytes, expected_bytes);
}

void MpiExchange::check(int code, const char* call) const { mpi_check(code, call, who_); }

void mpi_check(int code, const char* call, const std::string& who) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  MPI_Error_string(code, text, &length);
  SY_CHECK(false, "{}: {} failed: {}", who, call, text);
}

}  // namespace switchyard
