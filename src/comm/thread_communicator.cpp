#include "comm/thread_communicator.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <thread>

#include "comm/host_memory.h"
#include "comm/thread_job.h"

namespace switchyard {
namespace {

std::string describe(const char* call, Tensor tensor) {
  return fmt::format("{} of {} ({})", call, name_of(tensor.dtype()), tensor.numel());
}

std::string describe(const char* call, Tensor tensor, std::span<const int64_t> counts) {
  return fmt::format("{} of {} ({})", call, name_of(tensor.dtype()), fmt::join(counts, ", "));
}

class ThreadCommunicator final : public Communicator {
 public:
  ThreadCommunicator(ThreadJob& job, ThreadGroup& group, int rank, std::string name)
      : Communicator(rank, group.size(), std::move(name)), job_(job), group_(group) {}

 private:
  // Publishes my contribution, runs `read` when all ranks have published theirs, and returns when
  // all have read.
  template <typename Read>
  void collective(ThreadContribution mine, const Read& read) {
    job_.enter(group_, rank(), who(), std::move(mine));
    std::exception_ptr failure;
    try {
      check_same_call();
      read();
    } catch (...) {
      failure = std::current_exception();
    }
    job_.leave(group_);
    if (failure) std::rethrow_exception(failure);
  }

  void check_same_call() const {
    for (int other = 0; other < size(); ++other)
      SY_CHECK(of(other).call == of(rank()).call, "{}: rank {} calls {}, but rank {} calls {}",
               name(), rank(), of(rank()).call, other, of(other).call);
  }

  const ThreadContribution& of(int other) const { return group_.contributions[other]; }

  std::unique_ptr<Communicator> do_split(int color, int key, std::string split_name) override {
    ThreadGroup* part = nullptr;
    int part_rank = 0;
    collective({.call = "split", .color = color, .key = key}, [&] {
      std::vector<std::pair<int, int>> members;  // (key, rank here)
      for (int other = 0; other < size(); ++other)
        if (of(other).color == color) members.emplace_back(of(other).key, other);
      std::sort(members.begin(), members.end());
      const auto me = std::find(members.begin(), members.end(), std::pair(key, rank()));
      part_rank = static_cast<int>(me - members.begin());
      part = &job_.subgroup(group_, num_splits_, color, static_cast<int>(members.size()));
    });
    ++num_splits_;
    return std::make_unique<ThreadCommunicator>(job_, *part, part_rank, std::move(split_name));
  }

  // sum = the elements from `begin` on of all ranks' inputs, added in the order of ranks.
  void sum_slices(Tensor sum, int64_t begin) const {
    std::vector<Tensor> slices;
    for (const ThreadContribution& contribution : group_.contributions)
      slices.push_back(contribution.input.flat().rows(begin, sum.numel()));
    sum_host(sum, slices);
  }

  Event do_all_reduce_sum(Tensor x, Event after) override {
    finish(after);
    std::vector<std::byte> memory(static_cast<size_t>(x.bytes()));
    const Tensor sum(memory.data(), x.dtype(), {x.numel()});
    collective({.call = describe("all_reduce_sum", x), .input = x}, [&] { sum_slices(sum, 0); });
    copy_host(x, sum);
    return after;
  }

  Event do_reduce_scatter_sum(Tensor out, Tensor input, std::span<const int64_t> counts,
                              Event after) override {
    finish(after);
    std::vector<std::byte> memory(static_cast<size_t>(out.bytes()));
    const Tensor sum(memory.data(), out.dtype(), {out.numel()});
    const int64_t begin = std::reduce(counts.begin(), counts.begin() + rank());
    collective({.call = describe("reduce_scatter_sum", input, counts), .input = input},
               [&] { sum_slices(sum, begin); });
    copy_host(out, sum);
    return after;
  }

  Event do_all_gather(Tensor out, Tensor input, std::span<const int64_t> counts,
                      Event after) override {
    finish(after);
    collective({.call = describe("all_gather", input, counts), .input = input}, [&] {
      int64_t begin = 0;
      for (int other = 0; other < size(); ++other) {
        copy_host(out.rows(begin, counts[other]), of(other).input);
        begin += counts[other];
      }
    });
    return after;
  }

  Event do_all_to_all(Tensor out, std::span<const int64_t> receive_rows, Tensor input,
                      std::span<const int64_t> send_rows, Event after) override {
    finish(after);
    const Tensor row(nullptr, input.dtype(), input.shape().subspan(1));
    const std::string call = describe("all_to_all of rows", row);
    collective({.call = call, .input = input, .send_rows = send_rows}, [&] {
      int64_t begin = 0;
      for (int other = 0; other < size(); ++other) {
        const auto sent = of(other).send_rows.first(rank() + 1);
        const int64_t rows = sent.back(), expected = receive_rows[other];
        SY_CHECK(rows == expected, "{}: rank {} sends {} rows, but rank {} expects {}", name(),
                 other, rows, rank(), expected);
        const int64_t first = std::accumulate(sent.begin(), sent.end() - 1, int64_t{0});
        copy_host(out.rows(begin, rows), of(other).input.rows(first, rows));
        begin += rows;
      }
    });
    return after;
  }

  Event do_broadcast(Tensor x, int root, Event after) override {
    finish(after);
    collective({.call = fmt::format("{} from {}", describe("broadcast", x), root), .input = x},
               [&] { copy_host(x, of(root).input); });
    return after;
  }

  Event do_send_receive(std::span<const Message> sends, std::span<const Message> receives,
                        Event after) override {
    finish(after);
    for (const Message& message : sends) job_.send(group_, rank(), message.peer, message.tensor);
    for (const auto& [tensor, peer] : receives) {
      const ThreadParcel parcel = job_.receive(group_, peer, rank(), who());
      SY_CHECK(parcel.dtype == tensor.dtype() &&
                   static_cast<int64_t>(parcel.bytes.size()) == tensor.bytes(),
               "{}: rank {} sends {} bytes of {}, but rank {} expects {} bytes of {}", name(), peer,
               parcel.bytes.size(), name_of(parcel.dtype), rank(), tensor.bytes(),
               name_of(tensor.dtype()));
      if (!parcel.bytes.empty())
        std::memcpy(tensor.raw(), parcel.bytes.data(), parcel.bytes.size());
    }
    return after;
  }

  ThreadJob& job_;
  ThreadGroup& group_;
  int64_t num_splits_ = 0;
};

}  // namespace

void run_ranks(int num_ranks, const std::function<void(Communicator& world)>& body,
               double deadline_s) {
  ThreadJob job(num_ranks, deadline_s);
  const auto run_rank = [&](int rank) {
    try {
      ThreadCommunicator world(job, job.world(), rank, "world");
      body(world);
    } catch (const std::exception& error) {
      job.fail(rank, error.what(), std::current_exception());
    } catch (...) {
      job.fail(rank, "an exception that is no std::exception", std::current_exception());
    }
  };
  std::vector<std::thread> threads;
  for (int rank = 0; rank < num_ranks; ++rank) threads.emplace_back(run_rank, rank);
  for (std::thread& thread : threads) thread.join();
  job.rethrow_failure();
}

}  // namespace switchyard
