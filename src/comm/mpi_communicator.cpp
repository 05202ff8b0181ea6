#include "comm/mpi_communicator.h"

#include <algorithm>

#include "comm/host_memory.h"

namespace switchyard {
namespace {

// Sums travel in pieces that are still in the cache when they are added.
constexpr int64_t kSumPieceBytes = int64_t{1} << 22;
// MPI counts bytes with int: longer messages travel in pieces.
constexpr int64_t kMaxBytesPerCall = int64_t{1} << 30;
// Every rank sends and receives in program order, so messages never need telling apart.
constexpr int kTag = 0;

void mpi_check(int code, const char* call, const std::string& who) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  MPI_Error_string(code, text, &length);
  SY_CHECK(false, "{}: {} failed: {}", who, call, text);
}

int rank_in(MPI_Comm comm) {
  int rank = 0;
  mpi_check(MPI_Comm_rank(comm, &rank), "MPI_Comm_rank", "new group");
  return rank;
}

int size_of(MPI_Comm comm) {
  int size = 0;
  mpi_check(MPI_Comm_size(comm, &size), "MPI_Comm_size", "new group");
  return size;
}

// Calls work(first byte, bytes) for each piece of `bytes`.
template <typename Work>
void for_each_piece(int64_t bytes, int64_t piece_bytes, const Work& work) {
  for (int64_t begin = 0; begin < bytes; begin += piece_bytes)
    work(begin, std::min(piece_bytes, bytes - begin));
}

// Consecutive rows: the first rows[0], the next rows[1], ...
std::vector<Tensor> cut(Tensor tensor, std::span<const int64_t> rows) {
  std::vector<Tensor> parts;
  int64_t begin = 0;
  for (const int64_t count : rows) {
    parts.push_back(tensor.rows(begin, count));
    begin += count;
  }
  return parts;
}

std::byte* bytes_of(Tensor tensor) { return static_cast<std::byte*>(tensor.raw()); }

}  // namespace

MpiCommunicator::MpiCommunicator(MPI_Comm comm, std::string name)
    : Communicator(rank_in(comm), size_of(comm), std::move(name)) {
  check(MPI_Comm_dup(comm, &comm_), "MPI_Comm_dup");
  check(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
}

MpiCommunicator::~MpiCommunicator() { MPI_Comm_free(&comm_); }

std::unique_ptr<Communicator> MpiCommunicator::do_split(int color, int key, std::string name) {
  MPI_Comm part = MPI_COMM_NULL;
  check(MPI_Comm_split(comm_, color, key, &part), "MPI_Comm_split");
  auto communicator = std::make_unique<MpiCommunicator>(part, std::move(name));
  check(MPI_Comm_free(&part), "MPI_Comm_free");
  return communicator;
}

Event MpiCommunicator::do_reduce_scatter_sum(Tensor out, Tensor input,
                                             std::span<const int64_t> counts, Event after) {
  const auto item = static_cast<int64_t>(size_in_bytes(out.dtype()));
  const int64_t piece_items = std::max<int64_t>(1, kSumPieceBytes / (item * size()));
  const std::vector<Tensor> slices = cut(input, counts);
  for_each_piece(*std::max_element(counts.begin(), counts.end()), piece_items,
                 [&](int64_t begin, int64_t count) {
                   const auto piece_of = [&](Tensor slice) {  // a shorter slice has fewer pieces
                     const int64_t first = std::min(begin, slice.numel());
                     return slice.rows(first, std::min(count, slice.numel() - first));
                   };
                   std::vector<Tensor> pieces;
                   for (const Tensor& slice : slices) pieces.push_back(piece_of(slice));
                   sum_contributions(piece_of(out), pieces);
                 });
  return after;
}

void MpiCommunicator::sum_contributions(Tensor sum, std::span<const Tensor> mine) {
  received_.resize(std::max(received_.size(), static_cast<size_t>(size() * sum.bytes())));
  std::vector<Tensor> contributions;
  for (int r = 0; r < size(); ++r)
    contributions.emplace_back(received_.data() + r * sum.bytes(), sum.dtype(), sum.shape());
  contributions[rank()] = mine[rank()];
  exchange_all(mine, contributions);
  sum_host(sum, contributions);
}

Event MpiCommunicator::do_all_gather(Tensor out, Tensor input, std::span<const int64_t> counts,
                                     Event after) {
  const std::vector<Tensor> slices = cut(out, counts);
  exchange_all(std::vector<Tensor>(size(), input), slices);
  copy_host(slices[rank()], input);
  return after;
}

Event MpiCommunicator::do_all_to_all(Tensor out, std::span<const int64_t> receive_rows,
                                     Tensor input, std::span<const int64_t> send_rows,
                                     Event after) {
  const std::vector<Tensor> sent = cut(input, send_rows), received = cut(out, receive_rows);
  exchange_all(sent, received);
  copy_host(received[rank()], sent[rank()]);
  return after;
}

Event MpiCommunicator::do_broadcast(Tensor x, int root, Event after) {
  for_each_piece(x.bytes(), kMaxBytesPerCall, [&](int64_t begin, int64_t bytes) {
    check(MPI_Bcast(bytes_of(x) + begin, static_cast<int>(bytes), MPI_BYTE, root, comm_),
          "MPI_Bcast");
  });
  return after;
}

void MpiCommunicator::exchange_all(std::span<const Tensor> sent, std::span<const Tensor> received) {
  std::vector<Message> sends, receives;
  for (int step = 1; step < size(); ++step) {  // the next rank first: not all start with rank 0
    const int peer = (rank() + step) % size();
    sends.push_back({sent[peer], peer});
    receives.push_back({received[peer], peer});
  }
  do_send_receive(sends, receives, {});
}

Event MpiCommunicator::do_send_receive(std::span<const Message> sends,
                                       std::span<const Message> receives, Event after) {
  std::vector<MPI_Request> requests;
  std::vector<int64_t> expected_bytes;  // of each receive request; these come first
  for (const auto& message : receives) {
    for_each_piece(message.tensor.bytes(), kMaxBytesPerCall, [&](int64_t begin, int64_t bytes) {
      check(MPI_Irecv(bytes_of(message.tensor) + begin, static_cast<int>(bytes), MPI_BYTE,
                      message.peer, kTag, comm_, &requests.emplace_back()),
            "MPI_Irecv");
      expected_bytes.push_back(bytes);
    });
  }
  for (const auto& message : sends) {
    for_each_piece(message.tensor.bytes(), kMaxBytesPerCall, [&](int64_t begin, int64_t bytes) {
      check(MPI_Isend(bytes_of(message.tensor) + begin, static_cast<int>(bytes), MPI_BYTE,
                      message.peer, kTag, comm_, &requests.emplace_back()),
            "MPI_Isend");
    });
  }
  // One by one: after a truncated message Open MPI 4.1's MPI_Waitall now and then never returns.
  for (size_t i = 0; i < requests.size(); ++i) {
    MPI_Status status;
    check(MPI_Wait(&requests[i], &status), "MPI_Wait");
    if (i >= expected_bytes.size()) continue;
    int bytes = 0;
    check(MPI_Get_count(&status, MPI_BYTE, &bytes), "MPI_Get_count");
    SY_CHECK(bytes == expected_bytes[i], "{}: a message of rank {} has {} bytes, not {}", who(),
             status.MPI_SOURCE, bytes, expected_bytes[i]);
  }
  return after;
}

void MpiCommunicator::check(int code, const char* call) const { mpi_check(code, call, who()); }

}  // namespace switchyard
