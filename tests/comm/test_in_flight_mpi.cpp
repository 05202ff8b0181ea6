// Collectives in flight: started, not waited for, in any order. Every test here would hang, and end
// by its deadline, if a start or the wait for one event kept anything else from getting on.
#include <algorithm>
#include <numeric>

#include "backend/cpu/cpu_backend.h"
#include "core/random.h"
#include "support/catch.h"
#include "support/host_tensor.h"
#include "support/mpi_main.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

// More than one round of a sum among four ranks.
constexpr int64_t kLarge = 3'000'001;

class InFlight {
 public:
  InFlight() {
    group->use(backend);
    other->use(backend);
  }

  const int P = mpi_world().size(), me = mpi_world().rank();
  CpuBackend backend{1};
  std::unique_ptr<Communicator> group = mpi_world().split(0, me, "dp");
  std::unique_ptr<Communicator> other = mpi_world().split(0, -me, "ep");  // in reverse order
};

// Small integers, so that sums are exact in any type; unlike on every rank.
float term(int rank, int64_t i) { return static_cast<float>((rank + 1) * (i % 101)); }

HostTensor<float> terms(int rank, int64_t size) {
  HostTensor<float> tensor({size});
  for (int64_t i = 0; i < size; ++i) tensor.values[static_cast<size_t>(i)] = term(rank, i);
  return tensor;
}

float sum_of_terms(int size, int64_t i) {
  return static_cast<float>(size * (size + 1) / 2 * (i % 101));
}

// The elements from `begin` on hold the sums over all ranks.
bool holds_sums(Tensor tensor, int size, int64_t begin = 0) {
  const auto values = tensor.span<float>();
  for (size_t i = 0; i < values.size(); ++i)
    if (values[i] != sum_of_terms(size, begin + static_cast<int64_t>(i))) return false;
  return true;
}

std::vector<int64_t> uneven_rows(int size, int64_t total) {
  std::vector<int64_t> rows(static_cast<size_t>(size), total / (2 * size));
  rows.back() += total - size * (total / (2 * size));
  return rows;
}

}  // namespace

TEST_CASE("collectives of two groups in flight, waited for in an order of each rank's own") {
  InFlight job;
  const int P = job.P, me = job.me;
  constexpr int kEach = 5;
  for (int repetition = 0; repetition < 10; ++repetition) {
    std::vector<HostTensor<float>> sums, inputs, parts, gathered;
    std::vector<Event> events;
    for (int i = 0; i < kEach; ++i) {
      const int64_t size = i == 2 ? 0 : 40'000 * i + 7;
      sums.push_back(terms(me, size));
      inputs.push_back(terms(me, size * P));
      parts.emplace_back(std::initializer_list<int64_t>{size});
      gathered.emplace_back(std::initializer_list<int64_t>{size * P});
    }
    for (int i = 0; i < kEach; ++i) {
      Communicator &one = i % 2 == 0 ? *job.group : *job.other,
                   &two = i % 2 == 0 ? *job.other : *job.group;
      events.push_back(one.all_reduce_sum(sums[i]));
      events.push_back(two.reduce_scatter_sum(parts[i], inputs[i]));
      events.push_back(two.all_gather(gathered[i], parts[i], events.back()));
    }
    const uint64_t key = random_key(static_cast<uint64_t>(repetition * P + me), "order");
    for (size_t i = events.size(); i-- > 1;)
      std::swap(events[i],
                events[static_cast<size_t>(random_uniform(key, i) * static_cast<double>(i + 1))]);
    for (const Event event : events) job.backend.host_wait(event);
    for (int i = 0; i < kEach; ++i) {
      CHECK(holds_sums(sums[i], P));
      CHECK(holds_sums(gathered[i], P));
    }
  }
}

TEST_CASE("a sum of several rounds is done by progress() alone, beside a computation") {
  InFlight job;
  const std::vector<int64_t> rows = uneven_rows(job.P, kLarge);
  HostTensor<float> input = terms(job.me, kLarge), mine({rows[static_cast<size_t>(job.me)]});
  const Event done = job.group->reduce_scatter_rows(mine, input, rows);
  double computed = 0;
  while (!job.backend.is_complete(done)) {
    for (int i = 0; i < 1'000; ++i) computed += static_cast<double>(i % 7);
    job.backend.progress();
  }
  const int64_t begin = std::reduce(rows.begin(), rows.begin() + job.me);
  CHECK(holds_sums(mine, job.P, begin));
  CHECK(computed >= 0);
  mpi_world().barrier();
}

TEST_CASE("a collective starts without the other ranks") {
  InFlight job;
  const int last = job.P - 1;
  HostTensor<float> x = terms(job.me, kLarge), token({1}, 1.0f);
  // The last rank takes part only when all others tell it that they have started.
  std::vector<Message> messages;
  if (job.me == last) {
    for (int rank = 0; rank < last; ++rank) messages.push_back({token, rank});
    mpi_world().send_receive({}, messages);
  }
  const Event done = job.group->all_reduce_sum(x);
  if (job.me != last) {
    CHECK(!job.backend.is_complete(done));
    messages.push_back({token, last});
    mpi_world().send_receive(messages, {});
  }
  job.backend.host_wait(done);
  CHECK(holds_sums(x, job.P));
}

TEST_CASE("the functions for host values let everything in flight advance") {
  InFlight job;
  HostTensor<float> x = terms(job.me, kLarge);
  const Event done = job.group->all_reduce_sum(x);
  if (job.me != 0) job.backend.host_wait(done);  // needs rank 0, which is already in the next line
  CHECK(job.other->all_gather_host(job.me).size() == static_cast<size_t>(job.P));
  job.backend.host_wait(done);
  CHECK(holds_sums(x, job.P));
}

TEST_CASE("a message that waits for its event is overtaken, and still is the first") {
  InFlight job;
  if (job.P == 1) return;
  if (job.me > 1) return void(job.group->barrier());
  HostTensor<float> first({1}, 1.0f), second({2}, 2.0f), gate({1});
  const int peer = 1 - job.me;
  const auto pair = [&](Tensor tensor) { return std::vector<Message>{{tensor, peer}}; };
  if (job.me == 0) {
    // The gate opens when the second message has arrived over there.
    const Event open = job.other->send_receive({}, std::vector<Message>{{gate, job.P - 2}});
    const Event sent_first = job.group->send_receive(pair(first), {}, open);
    const Event sent_second = job.group->send_receive(pair(second), {});
    job.backend.host_wait(sent_second);
    job.backend.host_wait(sent_first);
  } else {
    HostTensor<float> received_first({1}), received_second({2});
    const Event has_first = job.group->send_receive({}, pair(received_first));
    const Event has_second = job.group->send_receive({}, pair(received_second));
    job.backend.host_wait(has_second);
    CHECK_FALSE(job.backend.is_complete(has_first));
    job.backend.host_wait(job.other->send_receive(std::vector<Message>{{gate, job.P - 1}}, {}));
    job.backend.host_wait(has_first);
    CHECK(received_first.values == first.values);
    CHECK(received_second.values == second.values);
  }
  job.group->barrier();
}

TEST_CASE("a collective that waits for its event is overtaken by later ones of its group") {
  InFlight job;
  HostTensor<float> gate({1}), late = terms(job.me, 1'000), early = terms(job.me, 2'000);
  std::vector<Message> sends, receives;
  // Rank 0 opens the gate of all others when the later collective is done.
  if (job.me == 0) {
    for (int rank = 1; rank < job.P; ++rank) sends.push_back({gate, rank});
  } else {
    receives.push_back({gate, 0});
  }
  // (In `other`, ranks count down.)
  const auto in_other = [&](std::vector<Message> messages) {
    for (Message& message : messages) message.peer = job.P - 1 - message.peer;
    return messages;
  };
  const Event open = job.me == 0 ? Event{} : job.other->send_receive({}, in_other(receives));
  const Event late_sum = job.group->all_reduce_sum(late, open);
  const Event early_sum = job.group->all_reduce_sum(early);
  job.backend.host_wait(early_sum);
  CHECK(holds_sums(early, job.P));
  if (job.me == 0) CHECK(job.backend.is_complete(late_sum) == (job.P == 1));
  if (job.me == 0) job.backend.host_wait(job.other->send_receive(in_other(sends), {}));
  job.backend.host_wait(late_sum);
  CHECK(holds_sums(late, job.P));
}
