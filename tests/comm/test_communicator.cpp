// What every communicator does before its transport is asked: checks and counting. And agree().
#include "comm/collective_error.h"
#include "comm/self_communicator.h"
#include "comm/thread_communicator.h"
#include "support/catch.h"
#include "support/host_tensor.h"

using namespace switchyard;
using namespace switchyard::test;

TEST_CASE("arguments that do not fit") {
  SelfCommunicator group("ep");
  HostTensor<float> four({4}), five({5}), rows({4, 3}), wide_rows({4, 5});
  HostTensor<double> four_f64({4});
  HostTensor<uint8_t> bytes({4});
  const Message to_stranger[] = {{four, 1}}, no_tensor[] = {{{}, 0}};
  const std::vector<int64_t> three = {3}, four_rows = {4}, two_counts = {2, 2};

  CHECK_THROWS_WITH(
      group.all_gather(five, four),
      contains_text("ep (rank 0 of 1): all_gather of f32 (4)") && contains_text("into f32 (5)"));
  CHECK_THROWS_WITH(group.all_gather(four_f64, four), contains_text("into f64 (4)"));
  CHECK_THROWS_WITH(group.reduce_scatter_sum(five, four), contains_text("slices of f32 (5)"));
  CHECK_THROWS_WITH(group.reduce_scatter_sum(bytes, bytes), contains_text("of u8 (4)"));
  CHECK_THROWS_WITH(group.all_reduce_sum(bytes), contains_text("all_reduce_sum of u8 (4)"));
  CHECK_THROWS_WITH(group.all_reduce_sum({}), contains_text("no tensor"));
  CHECK_THROWS_WITH(group.all_to_all(rows, four_rows, rows, two_counts),
                    contains_text("1 receive and 2 send counts"));
  CHECK_THROWS_WITH(group.all_to_all(rows, four_rows, wide_rows, four_rows),
                    contains_text("rows of f32 (4, 5) into rows of f32 (4, 3)"));
  CHECK_THROWS_WITH(group.all_to_all(rows, four_rows, rows, three),
                    contains_text("sends (3) rows of f32 (4, 3) and receives (4)"));
  CHECK_THROWS_WITH(group.broadcast(four, 1), contains_text("broadcast from rank 1"));
  CHECK_THROWS_WITH(group.send_receive(to_stranger, {}), contains_text("a message with rank 1"));
  CHECK_THROWS_WITH(group.send_receive(no_tensor, {}), contains_text("without a tensor"));
  CHECK_THROWS_WITH(group.split(-1, 0, "part"), contains_text("color -1"));
  std::string text;
  CHECK_THROWS_WITH(group.broadcast_host(text, -1), contains_text("rank -1"));
  CHECK_THROWS_WITH(group.gather_host(text, 1), contains_text("rank 1"));
}

TEST_CASE("messages to myself must match") {
  SelfCommunicator group("pp");
  HostTensor<float> four({4}), five({5});
  const Message sends[] = {{four, 0}}, receives[] = {{five, 0}};
  CHECK_THROWS_WITH(group.send_receive(sends, {}), contains_text("1 messages sent to myself, 0"));
  CHECK_THROWS_WITH(group.send_receive(sends, receives), contains_text("received as f32 (5)"));
}

TEST_CASE("traffic counts the bytes for other ranks") {
  constexpr int kRanks = 4;
  std::vector<TrafficReport> reports(kRanks);
  run_ranks(kRanks, [&](Communicator& world) {
    HostTensor<float> eight({8}), thirty_two({32});
    world.all_reduce_sum(eight);                  // 2 * 32 bytes * 3/4 = 48
    world.all_gather(thirty_two, eight);          // 3 * 32 = 96
    world.reduce_scatter_sum(eight, thirty_two);  // 3 * 32 = 96
    world.broadcast(eight, 1);                    // rank 1: 3 * 32 = 96
    const int me = world.rank();
    const Message sends[] = {{eight, me}, {eight, (me + 1) % kRanks}};  // 32
    const Message receives[] = {{eight, me}, {eight, (me + 3) % kRanks}};
    world.send_receive(sends, receives);

    // Each rank sends r + 1 rows of two f64 to every rank r: ten rows, r + 1 of them to itself.
    HostTensor<double> sent({10, 2}), received({kRanks * (me + 1), 2});
    const std::vector<int64_t> send_rows = {1, 2, 3, 4}, receive_rows(kRanks, me + 1);
    world.all_to_all(received, receive_rows, sent, send_rows);
    world.all_to_all_host(send_rows);
    world.barrier();
    reports[me] = world.traffic();
  });
  for (int rank = 0; rank < kRanks; ++rank) {
    CHECK(reports[rank].all_to_all_bytes == (10 - (rank + 1)) * 16);
    CHECK(reports[rank].other_bytes == 48 + 96 + 96 + 32 + (rank == 1 ? 96 : 0));
  }
}

TEST_CASE("agree: an error anywhere becomes the same error everywhere") {
  std::vector<std::string> messages(4);
  run_ranks(4, [&](Communicator& world) {
    agree(world, [] {});
    try {
      agree(world, [&] {
        SY_REQUIRE(kStorage, world.rank() != 3, "disk of rank 3");
        SY_REQUIRE(kData, world.rank() != 1, "file of rank 1");
      });
    } catch (const CollectiveError& error) {
      messages[world.rank()] = fmt::format("{} {}", static_cast<int>(error.code()), error.what());
    }
    world.barrier();  // nobody is left behind
  });
  CHECK(messages == std::vector<std::string>(4, "65 file of rank 1"));
}
