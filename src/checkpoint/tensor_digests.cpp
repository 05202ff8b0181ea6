#include "checkpoint/tensor_digests.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"

namespace switchyard {
namespace {

constexpr size_t kMostDescribed = 5;

uint64_t digest_at(const DigestsByRank& digests, const Region::Holder& holder) {
  return digests.at(static_cast<size_t>(holder.rank)).at(holder.held);
}

std::string ranks_text(const std::vector<int>& ranks) {
  return fmt::format("{} {}", ranks.size() == 1 ? "rank" : "ranks", fmt::join(ranks, ", "));
}

}  // namespace

DigestsByRank exchange_digests(const std::vector<uint64_t>& mine, Communicator& world) {
  const std::vector<int64_t> counts = world.all_gather_host(static_cast<int64_t>(mine.size()));
  std::string bytes;
  for (const uint64_t digest : mine)
    bytes.append(reinterpret_cast<const char*>(&digest), sizeof(digest));
  std::string all;
  for (const std::string& part : world.gather_host(bytes, 0)) all += part;
  world.broadcast_host(all, 0);
  DigestsByRank digests;
  size_t at = 0;
  for (const int64_t count : counts) {
    for (uint64_t& digest : digests.emplace_back(static_cast<size_t>(count))) {
      SY_CHECK(at + sizeof(digest) <= all.size(), "digests of {} bytes are cut off", all.size());
      std::memcpy(&digest, all.data() + at, sizeof(digest));
      at += sizeof(digest);
    }
  }
  return digests;
}

std::vector<ReplicaDifference> differing_replicas(const std::vector<Region>& regions,
                                                  const DigestsByRank& digests) {
  std::vector<ReplicaDifference> differences;
  for (const Region& region : regions) {
    std::map<uint64_t, std::vector<int>> ranks_of_digest;
    for (const Region::Holder& holder : region.holders)
      ranks_of_digest[digest_at(digests, holder)].push_back(holder.rank);
    if (ranks_of_digest.size() == 1) continue;
    ReplicaDifference& difference = differences.emplace_back();
    difference.key = region.tensor.key;
    difference.box = region.tensor.box;
    for (const auto& [digest, ranks] : ranks_of_digest) difference.ranks.push_back(ranks);
    std::sort(difference.ranks.begin(), difference.ranks.end(), [](const auto& a, const auto& b) {
      return a.size() != b.size() ? a.size() > b.size() : a < b;
    });
  }
  return differences;
}

std::string describe(const ReplicaDifference& difference) {
  std::string text = fmt::format("\"{}\" {}: {}", difference.key, box_text(difference.box),
                                 ranks_text(difference.ranks[0]));
  text += difference.ranks[0].size() == 1 ? " has one value" : " agree";
  for (size_t i = 1; i < difference.ranks.size(); ++i)
    text += fmt::format(", {} {}", ranks_text(difference.ranks[i]),
                        difference.ranks[i].size() == 1 ? "differs" : "differ");
  return text;
}

std::string describe(const std::vector<ReplicaDifference>& differences) {
  std::vector<std::string> parts;
  for (size_t i = 0; i < std::min(differences.size(), kMostDescribed); ++i)
    parts.push_back(describe(differences[i]));
  if (differences.size() > kMostDescribed)
    parts.push_back(fmt::format("and {} more", differences.size() - kMostDescribed));
  return fmt::format("{}", fmt::join(parts, "; "));
}

std::map<std::string, uint64_t> tensor_digests(const std::vector<Region>& regions,
                                               const DigestsByRank& digests) {
  std::map<std::string, uint64_t> sums;
  for (const Region& region : regions)
    sums[region.tensor.key] += digest_at(digests, region.holders[0]);
  return sums;
}

}  // namespace switchyard
