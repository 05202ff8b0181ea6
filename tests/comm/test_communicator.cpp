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
  const std::vector<int64_t> negative = {-4};
  CHECK_THROWS_WITH(group.all_gather_rows(rows, rows, two_counts),
                    contains_text("all_gather_rows with 2 counts of rows"));
  CHECK_THROWS_WITH(group.all_gather_rows(rows, wide_rows, four_rows),
                    contains_text("f32 (4, 3) and f32 (4, 5) (mine), whose rows differ"));
  CHECK_THROWS_WITH(group.reduce_scatter_rows(rows, rows, three),
                    contains_text("reduce_scatter_rows of (3) rows in f32 (4, 3)"));
  CHECK_THROWS_WITH(group.reduce_scatter_rows(rows, rows, negative), contains_text("of (-4) rows"));
  CHECK_THROWS_WITH(group.reduce_scatter_rows(bytes, bytes, four_rows), contains_text("of u8 (4)"));
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

TEST_CASE("traffic counts what is handed over for other ranks, and for itself") {
  constexpr int kRanks = 4;
  std::vector<TrafficReport> reports(kRanks), before(kRanks);
  run_ranks(kRanks, [&](Communicator& world) {
    const int me = world.rank();
    HostTensor<float> eight({8}), thirty_two({32}), mine({me, 2}), all({6, 2});
    HostTensor<BFloat16> six({6});
    world.all_reduce_sum(eight);
    before[me] = world.traffic();
    world.all_reduce_sum(six);  // slices of 1, 2, 1, 2
    world.all_gather(thirty_two, eight);
    world.reduce_scatter_sum(eight, thirty_two);
    const std::vector<int64_t> rows = {0, 1, 2, 3};
    world.all_gather_rows(all, mine, rows);
    world.reduce_scatter_rows(mine, all, rows);
    world.broadcast(eight, 1);
    const Message sends[] = {{six, me}, {eight, (me + 1) % kRanks}};
    const Message receives[] = {{six, me}, {eight, (me + 3) % kRanks}};
    world.send_receive(sends, receives);

    // Each rank sends r + 1 rows of two f64 to every rank r: ten rows, r + 1 of them to itself.
    HostTensor<double> sent({10, 2}), received({kRanks * (me + 1), 2});
    const std::vector<int64_t> send_rows = {1, 2, 3, 4}, receive_rows(kRanks, me + 1);
    world.all_to_all(received, receive_rows, sent, send_rows);
    world.all_to_all_host(send_rows);
    world.barrier();
    reports[me] = world.traffic();
  });
  const auto f32 = [](int64_t elements) { return Payload{elements, 4 * elements}; };
  const auto bf16 = [](int64_t elements) { return Payload{elements, 2 * elements}; };
  const auto f64 = [](int64_t elements) { return Payload{elements, 8 * elements}; };
  for (int rank = 0; rank < kRanks; ++rank) {
    const TrafficReport report = reports[rank] - before[rank];
    const int slice = rank % 2 + 1;
    CHECK(before[rank].all_reduce == Traffic{f32(6 + 3 * 2), f32(2 * 2)});
    CHECK(report.all_reduce == Traffic{bf16(6 - slice + 3 * slice), bf16(2 * slice)});
    CHECK(report.all_gather == Traffic{f32(3 * (8 + 2 * rank)), f32(8 + 2 * rank)});
    CHECK(report.reduce_scatter == Traffic{f32(24 + 2 * (6 - rank)), f32(8 + 2 * rank)});
    CHECK(report.broadcast == (rank == 1 ? Traffic{f32(3 * 8), f32(8)} : Traffic{}));
    CHECK(report.point_to_point == Traffic{f32(8), bf16(6)});
    CHECK(report.all_to_all == Traffic{f64(2 * (10 - (rank + 1))), f64(2 * (rank + 1))});
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
