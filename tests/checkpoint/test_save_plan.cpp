// Who writes what: every element once, by one that holds it, as evenly as possible.
#include <algorithm>
#include <bit>
#include <map>
#include <random>

#include "checkpoint/save_plan.h"
#include "checkpoint/tensor_digests.h"
#include "comm/thread_communicator.h"
#include "support/catch.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

Declaration declare(const std::string& key, const std::vector<int64_t>& shape, Box box,
                    DType dtype = DType::kF32) {
  return {.key = key,
          .role = TensorRole::kParam,
          .dtype = dtype,
          .shape = shape,
          .box = std::move(box)};
}

Declaration whole(const std::string& key, const std::vector<int64_t>& shape,
                  DType dtype = DType::kF32) {
  return declare(key, shape, whole_box(shape), dtype);
}

// The largest load of the best possible plan: some set of ranks must write all that nobody else
// holds, and Hall's theorem says that nothing else stands in the way.
double best_max_bytes(const SavePlan& plan) {
  const size_t ranks = plan.bytes.size();
  double best = 0;
  for (unsigned set = 1; set < 1u << ranks; ++set) {
    int64_t bytes = 0;
    for (const Region& region : plan.regions)
      if (std::all_of(region.holders.begin(), region.holders.end(),
                      [&](const Region::Holder& holder) { return set >> holder.rank & 1u; }))
        bytes += region.tensor.bytes();
    best = std::max(best, static_cast<double>(bytes) / std::popcount(set));
  }
  return best;
}

void check_plan(const SavePlan& plan, const std::vector<Declarations>& by_rank) {
  // Every element once, by one that holds it; bytes add up.
  std::map<std::string, std::vector<int>> times_written;
  for (size_t rank = 0; rank < by_rank.size(); ++rank) {
    int64_t bytes = 0;
    for (const SavePiece& piece : plan.pieces[rank]) {
      const Declaration& held = by_rank[rank].at(piece.held);
      REQUIRE(held == plan.regions[piece.region].tensor);
      std::vector<int>& times = times_written[held.key];
      times.resize(static_cast<size_t>(numel_of(held.shape)));
      int64_t count = 0;
      for (const Box& box : boxes_of(piece, plan.regions[piece.region]))
        for_each_run(held.shape, box, [&](const Run& run) {
          count += run.count;
          for (int64_t i = 0; i < run.count; ++i) ++times[static_cast<size_t>(run.whole + i)];
        });
      REQUIRE(count == piece.count);
      bytes += count * static_cast<int64_t>(size_in_bytes(held.dtype));
    }
    REQUIRE(bytes == plan.bytes[rank]);
  }
  for (const Declarations& declarations : by_rank)
    for (const Declaration& held : declarations) {
      const std::vector<int>& times = times_written[held.key];
      REQUIRE(std::count(times.begin(), times.end(), 1) == numel_of(held.shape));
    }
  const auto max = static_cast<double>(*std::max_element(plan.bytes.begin(), plan.bytes.end()));
  // 8 bytes for each share: what rounding to elements may cost where there are few of them.
  CHECK(max <= 1.10 * best_max_bytes(plan) + 8.0 * static_cast<double>(by_rank.size()));
  CHECK(plan.max_over_mean_bytes() == Approx(max * static_cast<double>(by_rank.size()) /
                                             static_cast<double>(plan.total_bytes())));
}

// Ranks of a grid of dp x tp: slices that dp ranks share, norms that all share, moments in slices
// that are each on one rank, moments of norms on the tp ranks of a dp rank.
std::vector<Declarations> grid_declarations(int dp, int tp, int64_t rows, int64_t columns) {
  std::vector<Declarations> by_rank;
  for (int d = 0; d < dp; ++d)
    for (int t = 0; t < tp; ++t) {
      Declarations& mine = by_rank.emplace_back();
      const auto range = [](int64_t n, int parts, int i) {
        return std::pair(n * i / parts, n * (i + 1) / parts);
      };
      const auto [first, last] = range(columns, tp, t);
      const Box slice = {{0, first}, {rows, last - first}};
      if (last == first) continue;
      mine.push_back(declare("matrix", {rows, columns}, slice, DType::kBF16));
      mine.push_back(whole("norm", {rows}, DType::kBF16));
      const auto [begin, end] = range(slice.numel(), dp, d);
      for (const Box& box : contiguous_boxes(slice.shape, begin, end))
        mine.push_back(declare("exp_avg/matrix", {rows, columns}, placed_in(slice, box)));
      const auto [norm_begin, norm_end] = range(rows, dp, d);
      if (norm_end > norm_begin)
        mine.push_back(declare("exp_avg/norm", {rows}, {{norm_begin}, {norm_end - norm_begin}}));
    }
  return by_rank;
}

}  // namespace

TEST_CASE("plans of grids: every element once, evenly") {
  for (const auto& [dp, tp] : {std::pair(1, 1), {2, 1}, {1, 2}, {2, 2}, {4, 2}, {2, 4}, {3, 2}})
    for (const auto& [rows, columns] :
         {std::pair<int64_t, int64_t>(64, 64), {37, 41}, {13, 7}, {1, 5}, {101, 3}}) {
      CAPTURE(dp, tp, rows, columns);
      const std::vector<Declarations> by_rank = grid_declarations(dp, tp, rows, columns);
      check_plan(plan_save(by_rank), by_rank);
    }
}

TEST_CASE("plans of random holders: within ten percent of the best there is") {
  std::mt19937_64 random(5);
  const auto between = [&](int64_t first, int64_t last) {
    return std::uniform_int_distribution<int64_t>(first, last)(random);
  };
  for (int i = 0; i < 500; ++i) {
    const auto ranks = static_cast<size_t>(between(1, 8));
    std::vector<Declarations> by_rank(ranks);
    for (int64_t tensor = between(1, 12); tensor > 0; --tensor) {
      const std::vector<int64_t> shape = {between(1, 40), between(1, 100)};
      const auto holders = static_cast<unsigned>(between(1, (1 << ranks) - 1));
      const DType dtype = tensor % 3 == 0 ? DType::kBF16 : DType::kF32;
      for (size_t rank = 0; rank < ranks; ++rank)
        if (holders >> rank & 1u)
          by_rank[rank].push_back(whole("t" + std::to_string(tensor), shape, dtype));
    }
    CAPTURE(i);
    check_plan(plan_save(by_rank), by_rank);
  }
}

// What two dp ranks hold alike crosses what two tp ranks do; filling up in any one order leaves the
// ranks uneven.
TEST_CASE("pools that overlap crosswise are balanced") {
  const std::vector<Declarations> by_rank = {
      {whole("a", {100}), whole("b", {90}), whole("own", {20})},
      {whole("a", {100}), whole("c", {20})},
      {whole("b", {90}), whole("d", {50})},
      {whole("c", {20}), whole("d", {50})}};
  const SavePlan plan = plan_save(by_rank);
  check_plan(plan, by_rank);
  CHECK(plan.max_over_mean_bytes() < 1.01);
}

TEST_CASE("a plan is the same on every rank and follows from what travels") {
  const std::vector<Declarations> by_rank = grid_declarations(2, 2, 37, 41);
  for (const Declarations& declarations : by_rank)
    CHECK(declarations_from_text(to_text(declarations)) == declarations);
  run_ranks(4, [&](Communicator& world) {
    const auto mine = by_rank[static_cast<size_t>(world.rank())];
    SY_CHECK(exchange_declarations(mine, world) == by_rank, "other declarations");
    const std::vector<uint64_t> digests(static_cast<size_t>(world.rank()),
                                        uint64_t{1} << (60 + world.rank()));
    const DigestsByRank all = exchange_digests(digests, world);
    for (size_t rank = 0; rank < 4; ++rank)
      SY_CHECK(all[rank] == std::vector<uint64_t>(rank, uint64_t{1} << (60 + rank)),
               "other digests");
  });
  const SavePlan a = plan_save(by_rank), b = plan_save(by_rank);
  CHECK(a.bytes == b.bytes);
  for (size_t rank = 0; rank < 4; ++rank) {
    REQUIRE(a.pieces[rank].size() == b.pieces[rank].size());
    for (size_t i = 0; i < a.pieces[rank].size(); ++i) {
      CHECK(a.pieces[rank][i].held == b.pieces[rank][i].held);
      CHECK(a.pieces[rank][i].begin == b.pieces[rank][i].begin);
      if (i > 0) CHECK(a.pieces[rank][i - 1].held < a.pieces[rank][i].held);
    }
  }
}

TEST_CASE("ranks that hold no consistent state are found out") {
  const std::vector<int64_t> shape = {4, 6};
  const auto rows = [&](int64_t first, int64_t count) {
    return declare("t", shape, {{first, 0}, {count, 6}});
  };
  const auto columns = [&](int64_t first, int64_t count) {
    return declare("t", shape, {{0, first}, {4, count}});
  };
  const auto message = [](const std::vector<Declarations>& by_rank) {
    try {
      plan_save(by_rank);
    } catch (const Error& error) {
      CHECK(error.code() == ExitCode::kInternal);
      return std::string(error.what());
    }
    return std::string();
  };
  CHECK(message({{rows(0, 2)}, {rows(2, 2)}}).empty());
  CHECK(message({{}, {rows(0, 2), rows(2, 2)}}).empty());
  CHECK_THAT(message({{rows(0, 2)}, {rows(1, 3)}}),
             contains_text("\"t\": rank 0 holds [0:2, 0:6] and rank 1 [1:4, 0:6], which overlap"));
  CHECK_THAT(message({{columns(0, 3), rows(0, 2)}}), contains_text("which overlap"));
  CHECK_THAT(message({{columns(0, 3)}, {columns(2, 4)}}), contains_text("which overlap"));
  CHECK_THAT(message({{rows(0, 2)}, {rows(3, 1)}}),
             contains_text("the ranks hold 18 of the 24 elements of \"t\""));
  CHECK_THAT(message({{rows(0, 4), rows(0, 4)}}),
             contains_text("rank 0 holds [0:4, 0:6] of \"t\" twice"));
  CHECK_THAT(message({{rows(0, 5)}}), contains_text("rank 0 holds [0:5, 0:6] of \"t\" (4, 6)"));
  CHECK_THAT(message({{whole("t", {4})}, {whole("t", {5})}}),
             contains_text("\"t\" is f32 (4) on rank 0 and f32 (5) on rank 1"));
  CHECK_THAT(message({{whole("t", {4})}, {whole("t", {4}, DType::kF64)}}),
             contains_text("f64 (4) on rank 1"));
}

TEST_CASE("copies that differ are named, with the ranks") {
  const std::vector<Declarations> by_rank = {{whole("a", {3}), whole("own", {1})},
                                             {whole("a", {3})},
                                             {whole("a", {3})},
                                             {whole("a", {3})}};
  const std::vector<Region> regions = regions_of(by_rank);
  CHECK(differing_replicas(regions, {{5, 1}, {5}, {5}, {5}}).empty());
  CHECK(tensor_digests(regions, {{5, 1}, {5}, {5}, {5}}) ==
        std::map<std::string, uint64_t>{{"a", 5}, {"own", 1}});
  const auto text = [&](const DigestsByRank& digests) {
    const std::vector<ReplicaDifference> differences = differing_replicas(regions, digests);
    REQUIRE(differences.size() == 1);
    return describe(differences[0]);
  };
  CHECK(text({{5, 1}, {5}, {4}, {5}}) == "\"a\" [0:3]: ranks 0, 1, 3 agree, rank 2 differs");
  CHECK(text({{4, 1}, {5}, {4}, {5}}) == "\"a\" [0:3]: ranks 0, 2 agree, ranks 1, 3 differ");
  CHECK(text({{4, 1}, {5}, {6}, {5}}) ==
        "\"a\" [0:3]: ranks 1, 3 agree, rank 0 differs, rank 2 differs");
}
