#include "checkpoint/save_plan.h"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <numeric>
#include <utility>

#include "core/error.h"
#include "core/math.h"

namespace switchyard {
namespace {

// The regions that the same ranks hold, and how many bytes of them each of these ranks writes.
struct Pool {
  std::vector<int> ranks;
  std::vector<size_t> regions;
  int64_t bytes = 0;
  std::vector<int64_t> shares = {};  // by `ranks`
};

std::vector<Pool> pools_of(const std::vector<Region>& regions) {
  std::map<std::vector<int>, Pool> pools;
  for (size_t i = 0; i < regions.size(); ++i) {
    std::vector<int> ranks;
    for (const Region::Holder& holder : regions[i].holders) ranks.push_back(holder.rank);
    Pool& pool = pools[ranks];
    pool.ranks = ranks;
    pool.regions.push_back(i);
    pool.bytes += regions[i].tensor.bytes();
  }
  std::vector<Pool> list;
  for (auto& [ranks, pool] : pools) {
    pool.shares.assign(ranks.size(), 0);
    list.push_back(std::move(pool));
  }
  std::stable_sort(list.begin(), list.end(),
                   [](const Pool& a, const Pool& b) { return a.ranks.size() < b.ranks.size(); });
  return list;
}

// What each vessel receives of `amount` so that the fullest of those that receive anything is as
// empty as possible: water finds its level.
std::vector<int64_t> pour(int64_t amount, const std::vector<int64_t>& levels) {
  std::vector<size_t> order(levels.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return levels[a] < levels[b]; });
  size_t wet = 0;  // vessels that receive something
  int64_t below = 0, level = 0;
  while (wet < order.size() && (wet == 0 || levels[order[wet]] < level)) {
    below += levels[order[wet++]];
    level = div_up(amount + below, static_cast<int64_t>(wet));
  }
  std::vector<int64_t> shares(levels.size(), 0);
  int64_t rest = amount;
  for (size_t i = 0; i < wet; ++i) {
    shares[order[i]] = std::min(rest, level - levels[order[i]]);
    rest -= shares[order[i]];
  }
  SY_CHECK(rest == 0, "{} bytes of {} without a writer", rest, amount);
  return shares;
}

// Pours the pools out one by one, those with the fewest holders first, which saves rounds, and
// again and again: each pool then finds the levels that the others have left. Where pools overlap
// crosswise (what dp ranks hold alike, and what tp ranks do) one round is not enough. The sum of
// the squares of all loads falls with every round, to its only minimum, in which the largest load
// is smallest too.
void balance(std::vector<Pool>& pools, std::vector<int64_t>& loads) {
  constexpr int kMaxRounds = 1000;
  for (int round = 0; round < kMaxRounds; ++round) {
    int64_t largest_change = 0;
    for (Pool& pool : pools) {
      std::vector<int64_t> levels;
      for (size_t i = 0; i < pool.ranks.size(); ++i)
        levels.push_back(loads[static_cast<size_t>(pool.ranks[i])] - pool.shares[i]);
      const std::vector<int64_t> shares = pour(pool.bytes, levels);
      for (size_t i = 0; i < pool.ranks.size(); ++i) {
        loads[static_cast<size_t>(pool.ranks[i])] = levels[i] + shares[i];
        largest_change = std::max(largest_change, std::abs(shares[i] - pool.shares[i]));
      }
      pool.shares = shares;
    }
    const int64_t largest = *std::max_element(loads.begin(), loads.end());
    if (largest_change <= largest / 10'000) return;
  }
}

// Cuts the pool's regions, end to end, into the shares of its ranks; a share ends at a whole
// element.
void cut(const Pool& pool, SavePlan& plan) {
  size_t writer = 0;  // of `pool.ranks`
  int64_t share = pool.shares[0];
  for (const size_t r : pool.regions) {
    const Region& region = plan.regions[r];
    const auto item = static_cast<int64_t>(size_in_bytes(region.tensor.dtype));
    const int64_t numel = region.tensor.box.numel();
    for (int64_t begin = 0; begin < numel;) {
      const bool is_last = writer + 1 == pool.ranks.size();
      const int64_t count = is_last ? numel - begin : std::min(numel - begin, share / item);
      if (count == 0) {  // what is less than an element goes to the next
        share += pool.shares[++writer];
        continue;
      }
      const auto rank = static_cast<size_t>(pool.ranks[writer]);
      plan.pieces[rank].push_back(
          {.region = r, .held = region.holders[writer].held, .begin = begin, .count = count});
      plan.bytes[rank] += count * item;
      share -= count * item;
      begin += count;
    }
  }
}

}  // namespace

int64_t SavePlan::total_bytes() const {
  return std::accumulate(bytes.begin(), bytes.end(), int64_t{0});
}

double SavePlan::max_over_mean_bytes() const {
  const int64_t total = total_bytes();
  if (total == 0) return 1;
  return static_cast<double>(*std::max_element(bytes.begin(), bytes.end())) *
         static_cast<double>(bytes.size()) / static_cast<double>(total);
}

SavePlan plan_save(const std::vector<Declarations>& by_rank, int64_t max_file_bytes) {
  SavePlan plan{.max_file_bytes = max_file_bytes};
  plan.regions = regions_of(by_rank);
  plan.pieces.resize(by_rank.size());
  plan.bytes.assign(by_rank.size(), 0);
  std::vector<Pool> pools = pools_of(plan.regions);
  std::vector<int64_t> loads(by_rank.size(), 0);
  balance(pools, loads);
  for (const Pool& pool : pools) cut(pool, plan);
  for (std::vector<SavePiece>& pieces : plan.pieces)
    std::sort(pieces.begin(), pieces.end(),
              [](const SavePiece& a, const SavePiece& b) { return a.held < b.held; });
  return plan;
}

std::vector<Box> boxes_of(const SavePiece& piece, const Region& region) {
  const Box& box = region.tensor.box;
  std::vector<Box> boxes = contiguous_boxes(box.shape, piece.begin, piece.begin + piece.count);
  for (Box& part : boxes) part = placed_in(box, std::move(part));
  return boxes;
}

std::vector<FilePieces> files_of(const SavePlan& plan, int rank) {
  std::vector<ShardPiece> pieces;
  for (const SavePiece& piece : plan.pieces[static_cast<size_t>(rank)]) {
    const Region& region = plan.regions[piece.region];
    for (Box& box : boxes_of(piece, region))
      pieces.push_back({region.tensor.key, region.tensor.dtype, std::move(box)});
  }
  return cut_into_files(pieces, plan.max_file_bytes);
}

}  // namespace switchyard
