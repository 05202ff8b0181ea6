// What run_ranks() does when ranks fail, disagree or wait for ever.
#include <atomic>
#include <chrono>
#include <functional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>

#include "comm/thread_communicator.h"
#include "support/catch.h"
#include "support/host_tensor.h"

using namespace switchyard;
using namespace switchyard::test;

TEST_CASE("the first exception of a rank stops the others and is thrown with its rank") {
  std::atomic<int> num_stopped = 0;
  const auto body = [&](Communicator& world) {
    SY_REQUIRE(kData, world.rank() != 2, "no such file");
    try {
      world.barrier();
    } catch (const Error& error) {
      if (std::string(error.what()).find("rank 2 failed: no such file") != std::string::npos)
        ++num_stopped;
      throw;
    }
  };
  try {
    run_ranks(4, body);
    FAIL("nothing was thrown");
  } catch (const Error& error) {
    CHECK(error.code() == ExitCode::kData);
    CHECK(std::string(error.what()) == "rank 2 failed: no such file");
  }
  CHECK(num_stopped == 3);
}

TEST_CASE("a failure reaches ranks in other groups, and ranks that wait for messages") {
  const auto body = [](Communicator& world) {
    const auto half = world.split(world.rank() / 2, 0, "half");
    if (world.rank() == 0) throw std::runtime_error("broken");
    if (world.rank() == 3) {
      HostTensor<float> x({1});
      const Message receives[] = {{x, 0}};
      half->send_receive({}, receives);
    }
    half->barrier();
  };
  CHECK_THROWS_WITH(run_ranks(4, body), "rank 0 failed: broken");
}

TEST_CASE("something thrown that is no std::exception") {
  CHECK_THROWS_WITH(run_ranks(2,
                              [](Communicator& world) {
                                if (world.rank() == 1) throw 42;
                                world.barrier();
                              }),
                    contains_text("rank 1 failed: an exception that is no std::exception"));
}

TEST_CASE("memory of a rank that fails is not read afterwards") {
  // Rank 0 finds the counts wrong and frees its input while the others may still be reading it.
  const auto body = [](Communicator& world) {
    HostTensor<double> input({30'000 * world.size()}), out({30'000 * world.size()});
    std::vector<int64_t> send_rows(world.size(), 30'000), receive_rows = send_rows;
    if (world.rank() == 0) ++receive_rows[0], --receive_rows[1];
    world.all_to_all(out, receive_rows, input, send_rows);
    world.barrier();
  };
  for (int repetition = 0; repetition < 20; ++repetition)
    CHECK_THROWS_WITH(run_ranks(4, body), contains_text("sends 30000 rows, but rank 0 expects"));
}

TEST_CASE("ranks that call different collectives") {
  const auto call_of = [](Communicator& world, int variant) {
    HostTensor<float> four({4}), eight({8}), sixteen({16});
    HostTensor<double> four_f64({4});
    switch (variant) {
      case 0:
        return void(world.all_reduce_sum(four));
      case 1:
        return void(world.all_reduce_sum(eight));
      case 2:
        return void(world.all_reduce_sum(four_f64));
      case 3:
        return void(world.all_gather(eight, four));
      case 4:
        return void(world.reduce_scatter_sum(four, eight));
      case 5:
        return void(world.broadcast(four, 0));
      case 6:
        return void(world.broadcast(four, 1));
      case 7:
        return void(world.split(0, 0, "part"));
      default:
        return void(world.all_gather(sixteen, eight));
    }
  };
  const char* const names[] = {"all_reduce_sum of f32 (4)",        "all_reduce_sum of f32 (8)",
                               "all_reduce_sum of f64 (4)",        "all_gather of f32 (4, 4)",
                               "reduce_scatter_sum of f32 (4, 4)", "broadcast of f32 (4) from 0",
                               "broadcast of f32 (4) from 1",      "split",
                               "all_gather of f32 (8, 8)"};
  for (int first = 0; first < 9; ++first)
    for (int second = 0; second < 9; ++second) {
      const auto run = [&] {
        run_ranks(2,
                  [&](Communicator& world) { call_of(world, world.rank() == 0 ? first : second); });
      };
      if (first == second) {
        CHECK_NOTHROW(run());
      } else {
        CHECK_THROWS_WITH(run(), contains_text(names[first]) && contains_text(names[second]) &&
                                     contains_text("world: rank") && contains_text("but rank"));
      }
    }
}

TEST_CASE("messages of another size or type") {
  const auto body = [](int64_t length, bool as_integers) {
    return [=](Communicator& world) {
      HostTensor<float> sent({4}), floats({length});
      HostTensor<int32_t> integers({length});
      const Message sends[] = {{sent, 1}};
      const Message receives[] = {{as_integers ? integers.view() : floats.view(), 0}};
      world.rank() == 0 ? world.send_receive(sends, {}) : world.send_receive({}, receives);
    };
  };
  CHECK_NOTHROW(run_ranks(2, body(4, false)));
  CHECK_THROWS_WITH(
      run_ranks(2, body(5, false)),
      contains_text("rank 0 sends 16 bytes of f32, but rank 1 expects 20 bytes of f32"));
  CHECK_THROWS_WITH(run_ranks(2, body(4, true)), contains_text("expects 16 bytes of i32"));
}

TEST_CASE("a deadlock becomes an error that names who waits for whom") {
  const auto absent = [](Communicator& world) {
    if (world.rank() != 1) world.barrier();
  };
  CHECK_THROWS_WITH(run_ranks(3, absent, 0.1),
                    contains_text("waits in all_gather of i64 (1, 1, 1) for rank(s)") &&
                        contains_text("no rank has moved for 0.1 s: deadlock"));

  const auto crossed = [](Communicator& world) {
    HostTensor<float> x({1});
    const Message receives[] = {{x, 1 - world.rank()}};
    world.send_receive({}, receives);
  };
  CHECK_THROWS_WITH(run_ranks(2, crossed, 0.1), contains_text("waits for a message of rank"));
}

TEST_CASE("the deadline counts from the last move of any rank") {
  // Rank 2 waits for 0.6 s in all, but never for 0.4 s in which nothing else moves.
  const auto body = [](Communicator& world) {
    const auto pair = world.split(world.rank() < 2 ? 0 : 1, 0, "pair");
    for (int i = 0; i < 6 && world.rank() < 2; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      pair->barrier();
    }
    world.barrier();
  };
  CHECK_NOTHROW(run_ranks(3, body, 0.4));
}

TEST_CASE("a communicator refuses threads that did not make it, and says what they called") {
  const auto message_of = [](const std::function<void()>& call) {
    std::string message = "none";
    std::thread([&] {
      try {
        call();
      } catch (const Error& error) {
        message = error.what();
      }
    }).join();
    return message;
  };
  run_ranks(2, [&](Communicator& world) {
    HostTensor<float> x({4});
    const std::pair<const char*, std::function<void()>> calls[] = {
        {"all_reduce", [&] { world.all_reduce_sum(x); }},
        {"all_gather_host", [&] { world.barrier(); }},
        {"send_receive", [&] { world.send_receive({}, {}); }},
        {"split", [&] { world.split(0, 0, "part"); }}};
    for (const auto& [name, call] : calls)
      SY_CHECK(message_of(call).find(fmt::format("world (rank {} of 2): {} is called by a thread",
                                                 world.rank(), name)) != std::string::npos,
               "{}: {}", name, message_of(call));
    world.barrier();
  });
}
