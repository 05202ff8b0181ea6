// The debug mode: programs that are right pass as they are; every kind of mistake is named on both
// sides, before anything hangs.
#include <functional>
#include <numeric>

#include "backend/cpu/cpu_backend.h"
#include "comm/checked_communicator.h"
#include "comm/collective_checks.h"
#include "comm/thread_communicator.h"
#include "support/catch.h"
#include "support/host_tensor.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

// The groups of four ranks in a square, and what a step of them calls.
struct Groups {
  Communicator& world;
  Communicator& row;     // ranks 0 1 and 2 3
  Communicator& column;  // ranks 0 2 and 1 3
  Communicator& half;    // the ranks of `row` once more
};
using Call = std::function<void(const Groups&)>;

void all_reduce(Communicator& group, int64_t n) {
  HostTensor<float> x({n});
  group.all_reduce_sum(x);
}

void all_gather(Communicator& group, int64_t n) {
  HostTensor<float> x({n}), all({n * group.size()});
  group.all_gather(all, x);
}

void reduce_scatter(Communicator& group, int64_t n) {
  HostTensor<float> x({n}), all({n * group.size()});
  group.reduce_scatter_sum(x, all);
}

void broadcast(Communicator& group, int64_t n, int root) {
  HostTensor<float> x({n});
  group.broadcast(x, root);
}

// Sends `send` rows to every rank and receives `receive` of each.
void all_to_all(Communicator& group, int64_t send, int64_t receive) {
  const auto size = static_cast<size_t>(group.size());
  HostTensor<float> in({send * group.size(), 2}), out({receive * group.size(), 2});
  group.all_to_all(out, std::vector<int64_t>(size, receive), in, std::vector<int64_t>(size, send));
}

void gather_rows(Communicator& group, std::vector<int64_t> rows) {
  HostTensor<float> all({rows[0] + rows[1]}), mine({rows[static_cast<size_t>(group.rank())]});
  group.all_gather_rows(all, mine, rows);
}

// Between the two ranks of a group: one message each way.
void swap(Communicator& group, int64_t sent, int64_t received) {
  HostTensor<float> out({sent}), in({received});
  const Message sends[] = {{out, 1 - group.rank()}}, receives[] = {{in, 1 - group.rank()}};
  group.send_receive(sends, receives);
}

struct Mistake {
  std::string name;
  Call right, wrong;                 // of ranks 0, 2 and 3, and of rank 1
  std::vector<std::string> message;  // parts of it
};

void two(const Call& first, const Call& second, const Groups& groups) {
  first(groups);
  second(groups);
}

std::vector<Mistake> mistakes() {
  const Call reduce_row = [](const Groups& g) { all_reduce(g.row, 8); };
  const Call reduce_column = [](const Groups& g) { all_reduce(g.column, 8); };
  const Call reduce_half = [](const Groups& g) { all_reduce(g.half, 8); };
  const Call reduce_world = [](const Groups& g) { all_reduce(g.world, 8); };
  const Call gather_row = [](const Groups& g) { all_gather(g.row, 8); };
  const Call to_all_row = [](const Groups& g) { all_to_all(g.row, 2, 2); };
  const auto then = [](const Call& a, const Call& b) {
    return [=](const Groups& g) { two(a, b, g); };
  };
  const auto host = [](Communicator& g) { g.all_gather_host(1); };
  return {
      {"order of two kinds",
       then(reduce_row, gather_row),
       then(gather_row, reduce_row),
       {"the calls differ", "all_reduce_sum of f32, call 1 of group row", "all_gather of f32"}},
      {"order of sum and exchange",
       then(reduce_row, to_all_row),
       then(to_all_row, reduce_row),
       {"the calls differ", "all_to_all", "all_reduce_sum"}},
      {"order of two groups",
       then(reduce_row, reduce_half),
       then(reduce_half, reduce_row),
       {"the groups differ", "group row", "group half"}},
      {"order of world and a part",
       then(reduce_row, reduce_world),
       then(reduce_world, reduce_row),
       {"the groups differ", "group row", "group world"}},
      {"another group altogether",
       reduce_row,
       reduce_half,
       {"the groups differ", "group row", "group half"}},
      {"gather instead of sum", reduce_row, gather_row, {"the calls differ"}},
      {"broadcast instead of sum",
       reduce_row,
       [](const Groups& g) { broadcast(g.row, 8, 0); },
       {"the calls differ", "broadcast", "all_reduce_sum"}},
      {"scatter instead of gather",
       gather_row,
       [](const Groups& g) { reduce_scatter(g.row, 8); },
       {"the calls differ", "reduce_scatter_sum", "all_gather"}},
      {"a vote instead of a sum",
       reduce_row,
       [=](const Groups& g) { host(g.row); },
       {"the calls differ", "all_gather of i64", "all_reduce_sum"}},
      {"a call left out",
       then(reduce_row, gather_row),
       gather_row,
       {"the calls differ", "call 1 of group row"}},
      {"a call too many", gather_row, then(reduce_row, gather_row), {"the calls differ"}},
      {"a call of the world left out",
       then(reduce_world, reduce_row),
       reduce_row,
       {"the groups differ", "group world", "group row"}},
      {"size of a sum",
       reduce_row,
       [](const Groups& g) { all_reduce(g.row, 9); },
       {"the sizes differ", "8 elements", "9 elements"}},
      {"size of a gather",
       gather_row,
       [](const Groups& g) { all_gather(g.row, 4); },
       {"the sizes differ", "16 elements", "8 elements"}},
      {"size of a scatter",
       [](const Groups& g) { reduce_scatter(g.row, 8); },
       [](const Groups& g) { reduce_scatter(g.row, 3); },
       {"the sizes differ", "16 elements", "6 elements"}},
      {"size of a broadcast",
       [](const Groups& g) { broadcast(g.row, 8, 0); },
       [](const Groups& g) { broadcast(g.row, 7, 0); },
       {"the sizes differ", "7 elements"}},
      {"size of a sum over the world",
       reduce_world,
       [](const Groups& g) { all_reduce(g.world, 1); },
       {"the sizes differ", "1 elements"}},
      {"one slice for another",
       [](const Groups& g) {
         gather_rows(g.row, {3, 5});
       },
       [](const Groups& g) {
         gather_rows(g.row, {5, 3});
       },
       {"the slices differ"}},
      {"type of a sum",
       reduce_row,
       [](const Groups& g) {
         HostTensor<double> x({8});
         g.row.all_reduce_sum(x);
       },
       {"the types differ", "of f32", "of f64"}},
      {"type of a broadcast",
       [](const Groups& g) { broadcast(g.row, 8, 0); },
       [](const Groups& g) {
         HostTensor<int32_t> x({8});
         g.row.broadcast(x, 0);
       },
       {"the types differ", "of f32", "of i32"}},
      {"root of a broadcast",
       [](const Groups& g) { broadcast(g.row, 8, 0); },
       [](const Groups& g) { broadcast(g.row, 8, 1); },
       {"the roots differ", "from rank 0", "from rank 1"}},
      {"rows sent", to_all_row, [](const Groups& g) { all_to_all(g.row, 3, 2); }, {"24 ", "16 "}},
      {"rows expected",
       to_all_row,
       [](const Groups& g) { all_to_all(g.row, 2, 1); },
       {" 8 ", "16 "}},
      {"length of a message",
       [](const Groups& g) { swap(g.row, 4, 4); },
       [](const Groups& g) { swap(g.row, 5, 4); },
       {"the sizes differ", "send_receive of f32", "4 elements", "5 elements"}},
  };
}

// Runs a call on four ranks; the row and column groups of `world`, checked.
void run_calls(Communicator& world, const Call& call) {
  CheckedCommunicator checked(world);
  const int rank = checked.rank();
  const auto row = checked.split(rank / 2, rank, "row"),
             column = checked.split(rank % 2, rank, "column");
  const auto half = checked.split(rank / 2, rank, "half");
  call({checked, *row, *column, *half});
}

std::string message_of(const Mistake& mistake) {
  try {
    run_ranks(
        4,
        [&](Communicator& world) {
          run_calls(world, world.rank() == 1 ? mistake.wrong : mistake.right);
        },
        5);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("calls that agree pass, with the results that they have unchecked") {
  const auto body = [](Communicator& world) {
    CpuBackend backend(1);
    CheckedCommunicator checked(world);
    check_collectives(checked, backend);
    check_collectives_of_subgroups(checked, backend);
    checked.use(backend);
    check_collectives(checked, backend);
    check_collectives_of_subgroups(checked, backend);
  };
  for (const int ranks : {1, 2, 5}) CHECK_NOTHROW(run_ranks(ranks, body));
}

TEST_CASE("messages match in their order, however calls group them") {
  const auto body = [](Communicator& world) {
    CheckedCommunicator checked(world);
    HostTensor<float> a({1}), b({2});
    const Message messages[] = {{a, 1 - world.rank()}, {b, 1 - world.rank()}};
    if (world.rank() == 0) {
      checked.send_receive({messages, 1}, {});
      checked.send_receive({messages + 1, 1}, {});
    } else {
      checked.send_receive({}, messages);
    }
  };
  CHECK_NOTHROW(run_ranks(2, body, 5));
}

TEST_CASE("what a call sends is not held up by what it receives") {
  const auto body = [](Communicator& world) {
    CheckedCommunicator checked(world);
    HostTensor<float> a({1}), b({1});
    const Message out[] = {{a, 1 - world.rank()}}, in[] = {{b, 1 - world.rank()}};
    if (world.rank() == 0) {
      checked.send_receive(out, in);
    } else {  // needs the message before it has one to send
      checked.send_receive({}, in);
      checked.send_receive(out, {});
    }
  };
  CHECK_NOTHROW(run_ranks(2, body, 5));
}

TEST_CASE("every mistake is named on both sides") {
  const std::vector<Mistake> all = mistakes();
  CHECK(all.size() >= 20);
  for (const Mistake& mistake : all) {
    INFO(mistake.name);
    const std::string message = message_of(mistake);
    CHECK_THAT(message, contains_text("ranks call different things"));
    CHECK_THAT(message, contains_text("this rank calls"));
    CHECK_THAT(message, contains_text("; rank "));
    for (const std::string& part : mistake.message) CHECK_THAT(message, contains_text(part));
  }
}

TEST_CASE("without the mistake nothing is said") {
  for (const Mistake& mistake : mistakes()) {
    INFO(mistake.name);
    CHECK_NOTHROW(run_ranks(
        4, [&](Communicator& world) { run_calls(world, mistake.right); }, 5));
  }
}
