// A planted fault does what its name says, where it says, and nothing else.
#include <array>
#include <mutex>

#include "backend/cpu/cpu_backend.h"
#include "comm/thread_communicator.h"
#include "support/catch.h"
#include "verify/faulty_communicator.h"

using namespace switchyard;

namespace {

Tensor view(std::span<double> values) {
  return {values.data(), DType::kF64, {static_cast<int64_t>(values.size())}};
}

// What rank 1 of two has after each call in a group "g": contributions are 1 and 10.
struct Results {
  double all_reduced = 0, scattered = 0, gathered = 0, exchanged = 0, received = 0;
  int64_t counts = 0;  // exchanged, of integers

  bool operator==(const Results&) const = default;
};

constexpr Results kRight = {11, 11, 1, 1, 1, 7};

Results results_with(const Fault& fault) {
  Results results;
  std::mutex mutex;
  run_ranks(2, [&](Communicator& world) {
    CpuBackend backend(1);
    FaultyCommunicator faulty(world, fault);
    faulty.use(backend);
    const auto group = faulty.split(0, faulty.rank(), "g");
    const int rank = group->rank();
    const double mine = rank == 0 ? 1 : 10;
    Results result;

    std::array<double, 1> one = {mine};
    group->all_reduce_sum(view(one));
    result.all_reduced = one[0];

    std::array<double, 2> both = {mine, mine};
    group->reduce_scatter_sum(view(one), view(both));
    result.scattered = one[0];

    one = {mine};
    group->all_gather(view(both), view(one));
    result.gathered = both[0];

    const std::array<int64_t, 2> rows = {1, 1};
    std::array<double, 2> sent = {mine, mine};
    group->all_to_all(view(both), rows, view(sent), rows);
    result.exchanged = both[0];

    const std::array<int64_t, 2> counts = {7, 7};
    result.counts = group->all_to_all_host(counts)[0];

    const std::array<Message, 1> send = {Message{view(sent).rows(0, 1), 1 - rank}};
    const std::array<Message, 1> receive = {Message{view(one), 1 - rank}};
    group->send_receive(send, receive);
    result.received = one[0];

    const std::scoped_lock lock(mutex);
    if (rank == 1) results = result;
  });
  return results;
}

}  // namespace

TEST_CASE("each fault changes its own calls of its own group only") {
  Results sums = kRight, dropped = kRight, exchanges = kRight, messages = kRight;
  sums.all_reduced = sums.scattered = 22;
  dropped.all_reduced = dropped.scattered = 10;
  exchanges.exchanged = messages.received = 2;
  CHECK(results_with({.group = "g"}) == sums);
  CHECK(results_with({.group = "g", .effect = Fault::Effect::kDropped}) == dropped);
  CHECK(results_with({.group = "g", .call = Fault::Call::kExchange}) == exchanges);
  CHECK(results_with({.group = "g", .call = Fault::Call::kMessage}) == messages);
  CHECK(results_with({.group = "another"}) == kRight);
}

TEST_CASE("a fault is named by a group of the grid") {
  CHECK(fault_in("ep").call == Fault::Call::kExchange);
  CHECK(fault_in("pp").call == Fault::Call::kMessage);
  CHECK(fault_in("kv").call == Fault::Call::kSum);
  CHECK_THROWS_AS(fault_in("xp"), Error);
}
