#include "comm/mpi_communicator.h"

#include <algorithm>
#include <thread>

namespace switchyard {
namespace {

// Tags go round in two ranges, within what every MPI allows (32767). Two messages under one tag
// would have to be in flight at once, between the same ranks, to be taken for each other.
constexpr int kTagsPerRange = 1 << 14;
constexpr int kFirstMessageTag = 0;
constexpr int kFirstCollectiveTag = kTagsPerRange;

int nth_tag(int first, int64_t n) { return first + static_cast<int>(n % kTagsPerRange); }

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

}  // namespace

MpiCommunicator::MpiCommunicator(MPI_Comm comm, std::string name)
    : Communicator(rank_in(comm), size_of(comm), std::move(name)),
      num_sent_(static_cast<size_t>(size()), 0),
      num_received_(num_sent_) {
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
  return run(std::make_unique<MpiReduceScatter>(new_exchange(), next_collective_tag(), rank(), out,
                                                cut(input, counts), spare_),
             after);
}

Event MpiCommunicator::do_all_gather(Tensor out, Tensor input, std::span<const int64_t> counts,
                                     Event after) {
  return exchange_all(std::vector<Tensor>(size(), input), cut(out, counts), after);
}

Event MpiCommunicator::do_all_to_all(Tensor out, std::span<const int64_t> receive_rows,
                                     Tensor input, std::span<const int64_t> send_rows,
                                     Event after) {
  return exchange_all(cut(input, send_rows), cut(out, receive_rows), after);
}

Event MpiCommunicator::do_broadcast(Tensor x, int root, Event after) {
  const int tag = next_collective_tag();
  std::vector<MpiMessage> sends, receives;
  if (rank() != root) receives.push_back({x, root, tag});
  for (int step = 1; rank() == root && step < size(); ++step)
    sends.push_back({x, (root + step) % size(), tag});
  return run(std::make_unique<MpiRound>(new_exchange(), std::move(sends), std::move(receives)),
             after);
}

Event MpiCommunicator::do_send_receive(std::span<const Message> sends,
                                       std::span<const Message> receives, Event after) {
  const auto with_tags = [](std::span<const Message> messages, std::vector<int64_t>& so_far) {
    std::vector<MpiMessage> tagged;
    for (const auto& [tensor, peer] : messages)
      tagged.push_back({tensor, peer, nth_tag(kFirstMessageTag, so_far[peer]++)});
    return tagged;
  };
  return run(std::make_unique<MpiRound>(new_exchange(), with_tags(sends, num_sent_),
                                        with_tags(receives, num_received_)),
             after);
}

Event MpiCommunicator::exchange_all(std::span<const Tensor> sent, std::span<const Tensor> received,
                                    Event after) {
  const int tag = next_collective_tag();
  std::vector<MpiMessage> sends, receives;
  for (int step = 1; step < size(); ++step) {  // the next rank first: not all start with rank 0
    const int peer = (rank() + step) % size();
    sends.push_back({sent[peer], peer, tag});
    receives.push_back({received[peer], peer, tag});
  }
  return run(std::make_unique<MpiRound>(new_exchange(), std::move(sends), std::move(receives),
                                        received[rank()], sent[rank()]),
             after);
}

Event MpiCommunicator::run(std::unique_ptr<PendingWork> work, Event after) {
  if (backend() != nullptr) return backend()->start(std::move(work), after);
  while (!work->advance()) std::this_thread::yield();  // the other rank may need this core
  return after;
}

int MpiCommunicator::next_collective_tag() {
  return nth_tag(kFirstCollectiveTag, num_collectives_++);
}

void MpiCommunicator::check(int code, const char* call) const { mpi_check(code, call, who()); }

}  // namespace switchyard
