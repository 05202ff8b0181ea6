// The deferred backend does nothing before it must, keeps every order that it has to keep and no
// other, and finds planted mistakes.
#include <cmath>
#include <cstring>
#include <mutex>
#include <set>

#include "checkpoint/snapshot.h"
#include "comm/thread_communicator.h"
#include "core/error.h"
#include "deferred/deferred_communicator.h"
#include "support/catch.h"
#include "support/host_tensor.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

constexpr RunOrder kLate = {};
RunOrder random_order(uint64_t seed) { return {RunOrder::Kind::kRandom, seed}; }

// A rank with a few vectors on its device.
struct Rank {
  Rank(Communicator& threads, RunOrder order)
      : backend({order.kind, order.seed + static_cast<uint64_t>(threads.rank())}),
        world(threads, backend) {
    world.use(backend);
  }

  Tensor vector(size_t i) {
    while (buffers.size() <= i) buffers.emplace_back(backend, 4 * sizeof(double));
    return buffers[i].tensor(DType::kF64, {4});
  }
  void fill(Tensor x, double value) { backend.ops().fill(queue(), x, value); }
  void add(Tensor y, Tensor a, Tensor b) { backend.ops().add(queue(), y, a, b); }
  Event ready() { return backend.record(queue()); }
  void wait(Event event) { backend.wait(queue(), event); }
  Queue queue() { return backend.compute_queue(); }
  // The first element, when all that has been asked for is done.
  double value(Tensor x) {
    std::vector<double> values(static_cast<size_t>(x.numel()));
    backend.download(queue(), values.data(), x);
    backend.host_wait(ready());
    return values[0];
  }

  DeferredBackend backend;
  std::deque<Buffer> buffers;
  DeferredCommunicator world;
};

// Everything that is reported when `num_ranks` ranks do this, line by line.
std::string reports_of(int num_ranks, const std::function<void(Rank&)>& body,
                       RunOrder order = kLate) {
  std::string text;
  std::mutex mutex;
  run_ranks(num_ranks, [&](Communicator& threads) {
    Rank rank(threads, order);
    body(rank);
    rank.backend.finish();
    const std::scoped_lock lock(mutex);
    for (const std::string& report : rank.backend.reports()) text += report + "\n";
  });
  return text;
}

}  // namespace

TEST_CASE("nothing runs before the host waits, and then only what is needed") {
  run_ranks(1, [](Communicator& threads) {
    Rank rank(threads, kLate);
    const Tensor x = rank.vector(0), y = rank.vector(1);
    rank.fill(x, 1);
    const Event filled = rank.ready();
    rank.fill(y, 2);
    SY_CHECK(rank.backend.finished().empty() && !rank.backend.is_complete(filled), "too early");
    rank.backend.host_wait(filled);
    SY_CHECK(rank.backend.finished() == std::vector<std::string>{"compute: fill"}, "not late: {}",
             fmt::join(rank.backend.finished(), ", "));
    SY_CHECK(rank.backend.is_complete(filled) && !rank.backend.is_complete(rank.ready()), "events");
    // What waits for a collective brings it about, and what the collective needs.
    rank.wait(rank.world.all_reduce_sum(y, rank.ready()));
    rank.add(x, x, y);
    SY_CHECK(rank.backend.finished().size() == 1 && rank.value(x) == 3, "the sum");
    const std::vector<std::string> expected = {"compute: fill", "compute: fill",
                                               "world: all_reduce_sum", "compute: add",
                                               "compute: download"};
    SY_CHECK(rank.backend.finished() == expected, "{}", fmt::join(rank.backend.finished(), ", "));
  });
}

TEST_CASE("a random order is one of many, and each gives the same numbers") {
  std::set<std::vector<std::string>> orders;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    run_ranks(1, [&](Communicator& threads) {
      Rank rank(threads, random_order(seed));
      const auto other = rank.world.split(0, 0, "other");
      std::vector<Event> events;
      for (size_t i = 0; i < 4; ++i) {
        rank.fill(rank.vector(i), static_cast<double>(i));
        Communicator& group = i % 2 == 0 ? rank.world : *other;
        events.push_back(group.all_reduce_sum(rank.vector(i), rank.ready()));
      }
      for (const Event event : events) rank.wait(event);
      rank.add(rank.vector(3), rank.vector(3), rank.vector(2));
      SY_CHECK(rank.value(rank.vector(3)) == 5, "the sum");
      SY_CHECK(rank.backend.reports().empty(), "{}", fmt::join(rank.backend.reports(), "\n"));
      orders.insert(rank.backend.finished());
    });
  }
  CHECK(orders.size() > 5);
}

TEST_CASE("uploads have the bytes of the call, downloads come with the host's wait") {
  run_ranks(1, [](Communicator& threads) {
    Rank rank(threads, kLate);
    std::vector<double> host(4, 7);
    rank.backend.upload(rank.queue(), rank.vector(0), host.data());
    host.assign(4, 8);  // may be used again
    std::vector<double> back(4, 0);
    rank.backend.download(rank.queue(), back.data(), rank.vector(0));
    SY_CHECK(std::isnan(back[0]), "a download that nobody has waited for gives {}", back[0]);
    rank.backend.host_wait(rank.ready());
    SY_CHECK(back[0] == 7, "{}", back[0]);
    // 0 in the i32 that it is read into is as good a value as any.
    int32_t count = 0;
    rank.backend.download(rank.queue(), &count, Tensor(rank.vector(0).raw(), DType::kI32, {1}));
    SY_CHECK(count != 0, "a count that nobody has waited for");
    rank.backend.host_wait(rank.ready());
  });
}

TEST_CASE("memory is garbage when it is new and when its scope has closed") {
  run_ranks(1, [](Communicator& threads) {
    Rank rank(threads, kLate);
    SY_CHECK(std::isnan(rank.value(rank.vector(0))), "new memory");
    Arena arena(rank.backend);
    Tensor x;
    {
      Arena::Scope scope(arena);
      x = arena.allocate(DType::kF64, {4});
      rank.fill(x, 1);
      rank.add(rank.vector(0), x, x);
    }
    SY_CHECK(rank.value(rank.vector(0)) == 2, "work that was asked for inside the scope");
    SY_CHECK(std::isnan(rank.value(x)), "memory of a closed scope");
  });
}

TEST_CASE("a missing wait for a collective's result is found") {
  const auto use_sum = [](bool waits) {
    return [waits](Rank& rank) {
      const Tensor x = rank.vector(0), y = rank.vector(1);
      rank.fill(x, 1);
      const Event done = rank.world.all_reduce_sum(x, rank.ready());
      if (waits) rank.wait(done);
      rank.add(y, x, x);
      SY_CHECK(rank.value(y) == (waits ? 4 : 2), "{}", rank.value(y));  // 2: not yet summed
    };
  };
  CHECK(reports_of(2, use_sum(true)) == "");
  CHECK(reports_of(2, use_sum(true), random_order(3)) == "");
  CHECK_THAT(reports_of(2, use_sum(false)),
             contains_text("world: all_reduce_sum and compute: add use the same memory"));
}

TEST_CASE("a collective that does not wait for its input is found") {
  CHECK_THAT(reports_of(2,
                        [](Rank& rank) {
                          rank.fill(rank.vector(0), 1);
                          rank.wait(rank.world.all_reduce_sum(rank.vector(0)));
                        }),
             contains_text("compute: fill and world: all_reduce_sum use the same memory"));
}

TEST_CASE("memory that is used again while a message still reads it is found") {
  const auto send = [](bool waits) {
    return [waits](Rank& rank) {
      const Tensor sent = rank.vector(0), received = rank.vector(1);
      const int other = 1 - rank.world.rank();
      rank.fill(sent, 1);
      const Event done =
          rank.world.send_receive(std::vector<Message>{{sent, other}},
                                  std::vector<Message>{{received, other}}, rank.ready());
      rank.add(rank.vector(2), sent, sent);  // both only read
      if (waits) rank.wait(done);
      rank.fill(sent, 2);
    };
  };
  CHECK(reports_of(2, send(true)) == "");
  CHECK_THAT(reports_of(2, send(false)), contains_text("world: send_receive and compute: fill"));
}

TEST_CASE("a scope that closes while a collective still reads is found") {
  const auto gather = [](bool waits) {
    return [waits](Rank& rank) {
      Arena arena(rank.backend);
      Event done;
      {
        Arena::Scope scope(arena);
        const Tensor mine = arena.allocate(DType::kF64, {2});
        rank.fill(mine, 1);
        done = rank.world.all_gather(rank.vector(0), mine, rank.ready());
        if (waits) rank.wait(done);
      }
      rank.wait(done);
      rank.backend.finish();  // before the arena's memory goes
    };
  };
  CHECK(reports_of(2, gather(true)) == "");
  CHECK_THAT(reports_of(2, gather(false)),
             contains_text("world: all_gather and compute: the end of an arena scope"));
}

TEST_CASE("memory that goes before the host has waited for its work is found") {
  const auto free_memory = [](bool waits) {
    return [waits](Rank& rank) {
      const Buffer memory(rank.backend, 32);
      rank.fill(memory.tensor(DType::kF64, {4}), 1);
      if (waits) rank.backend.host_wait(rank.ready());
    };
  };
  CHECK(reports_of(1, free_memory(true)) == "");
  CHECK_THAT(reports_of(1, free_memory(false)),
             contains_text("freed before the host has waited for compute: fill"));
}

TEST_CASE("a communicator that goes with collectives in flight is found") {
  CHECK_THAT(reports_of(1,
                        [](Rank& rank) {
                          const auto group = rank.world.split(0, 0, "group");
                          rank.wait(group->all_reduce_sum(rank.vector(0), rank.ready()));
                        }),
             contains_text("group: all_reduce_sum has not run"));
}

TEST_CASE("work that writes more than it says is found") {
  CHECK_THAT(reports_of(1,
                        [](Rank& rank) {
                          const Tensor x = rank.vector(0), y = rank.vector(1);
                          rank.fill(x, 1);
                          rank.backend.timeline().push(rank.queue().id,
                                                       {.name = "thief",
                                                        .accesses = accesses_of({y}, {x}),
                                                        .run = [x] { x.data<double>()[2] = 3; }});
                        }),
             contains_text("compute: thief has changed what it was to read only"));
}

TEST_CASE("an operation on host memory is found") {
  HostTensor<double> host({4});
  CHECK_THAT(reports_of(1, [&](Rank& rank) { rank.fill(host, 1); }),
             contains_text("fill uses memory that is not the device's"));
}

TEST_CASE("two communicators used in opposite order on two ranks are found") {
  IssuedByRank issued(2);
  run_ranks(2, [&](Communicator& threads) {
    Rank rank(threads, kLate);
    auto tp = rank.world.split(0, rank.world.rank(), "tp");
    auto dp = rank.world.split(0, rank.world.rank(), "dp");
    if (rank.world.rank() == 1) std::swap(tp, dp);
    tp->all_reduce_sum(rank.vector(0));
    dp->all_reduce_sum(rank.vector(1));
    issued[static_cast<size_t>(rank.world.rank())] = rank.backend.issued();
  });
  const std::string found = find_standstill(issued);
  CHECK_THAT(found, contains_text("rank 0 is in all_reduce_sum of tp"));
  CHECK_THAT(found, contains_text("rank 1 is in all_reduce_sum of dp"));
}

TEST_CASE("host values do not wait for what is queued, and pending work is an event as any other") {
  run_ranks(2, [](Communicator& threads) {
    Rank rank(threads, kLate);
    rank.fill(rank.vector(0), 1);
    SY_CHECK(rank.world.all_gather_host(rank.world.rank()) == (std::vector<int64_t>{0, 1}),
             "hosts");
    SY_CHECK(rank.backend.finished().empty(), "{}", fmt::join(rank.backend.finished(), ", "));

    struct Countdown final : PendingWork {
      explicit Countdown(int& left_) : left(left_) {}
      bool advance() override { return --left == 0; }
      int& left;
    };
    int left = 3;
    const Event done = rank.backend.start(std::make_unique<Countdown>(left), rank.ready());
    SY_CHECK(left == 3 && !rank.backend.is_complete(done), "too early");
    rank.backend.host_wait(done);
    SY_CHECK(left == 0 && rank.backend.finished().front() == "compute: fill", "the order");
  });
}

TEST_CASE("a snapshot has what the compute queue was asked to do before it, and nothing later") {
  for (const RunOrder order : {kLate, random_order(1), random_order(2), random_order(3)}) {
    double copied = 0;
    CHECK(reports_of(
              1,
              [&](Rank& rank) {
                const Tensor x = rank.vector(0);
                const std::vector<HeldTensor> held = {{.key = "x", .shape = {4}, .data = x}};
                Snapshot snapshot(held, rank.backend);
                rank.fill(x, 3);
                snapshot.take(held, rank.backend);
                rank.fill(x, 4);
                std::memcpy(&copied, snapshot.bytes(0).data(), sizeof(copied));
              },
              order) == "");
    CHECK(copied == 3);
  }
}
