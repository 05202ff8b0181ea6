// The check of the order of collectives over all ranks, on lists made by hand.
#include "deferred/collective_order.h"
#include "support/catch.h"

using namespace switchyard::test;

namespace {

IssuedCollective on(const std::string& communicator, std::vector<int> members) {
  return {.communicator = communicator, .call = "all_reduce_sum", .members = std::move(members)};
}

IssuedCollective messages(std::vector<int> sends_to, std::vector<int> receives_from) {
  return {.communicator = "pp",
          .call = "send_receive",
          .sends_to = std::move(sends_to),
          .receives_from = std::move(receives_from)};
}

}  // namespace

TEST_CASE("one order on all ranks comes to its end") {
  const IssuedCollective tp01 = on("tp", {0, 1}), dp12 = on("dp", {1, 2}),
                         all = on("world", {0, 1, 2});
  CHECK(find_standstill({{tp01, all, tp01}, {dp12, tp01, all, tp01}, {dp12, all}}) == "");
  CHECK(find_standstill({{}, {}}) == "");
}

TEST_CASE("two communicators in opposite order stand still, and both sides are named") {
  const IssuedCollective tp = on("tp", {0, 1}), dp = on("dp", {0, 1});
  CHECK(find_standstill({{tp, dp}, {dp, tp}}) ==
        "rank 0 is in all_reduce_sum of tp, waiting for rank 1\n"
        "rank 1 is in all_reduce_sum of dp, waiting for rank 0\n");
}

TEST_CASE("a circle of three ranks stands still, though no two share two communicators") {
  const IssuedCollective a = on("a", {0, 1}), b = on("b", {1, 2}), c = on("c", {0, 2});
  CHECK(find_standstill({{a, c}, {b, a}, {c, b}}) != "");
  CHECK(find_standstill({{a, c}, {a, b}, {b, c}}) == "");
}

TEST_CASE("a collective that a rank leaves out stands still") {
  const IssuedCollective tp = on("tp", {0, 1});
  CHECK(find_standstill({{tp, tp}, {tp}}) ==
        "rank 0 is in all_reduce_sum of tp, waiting for rank 1\n");
}

TEST_CASE("messages meet in the order of their lists, whatever their groups") {
  // Rank 0 sends and receives at once, rank 1 one after the other.
  CHECK(find_standstill({{messages({1}, {1})}, {messages({}, {0}), messages({0}, {})}}) == "");
  // Both send before they receive: without buffers nobody gets on.
  CHECK(find_standstill({{messages({1}, {}), messages({}, {1})},
                         {messages({0}, {}), messages({}, {0})}}) != "");
  // A collective in between.
  const IssuedCollective tp = on("tp", {0, 1});
  CHECK(find_standstill({{messages({1}, {}), tp}, {messages({}, {0}), tp}}) == "");
  CHECK(find_standstill({{messages({1}, {}), tp}, {tp, messages({}, {0})}}) != "");
}
