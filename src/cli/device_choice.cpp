#include "cli/device_choice.h"

#include <algorithm>
#include <map>

#include "core/error.h"

namespace switchyard {
namespace {

bool sees_none(const GpusOfRank& rank) { return rank.num_visible == 0; }

}  // namespace

Device choose_device(std::optional<Device> asked, bool is_built_with_cuda,
                     const std::vector<GpusOfRank>& ranks) {
  if (asked == Device::kCpu || (!asked && !is_built_with_cuda)) return Device::kCpu;
  SY_REQUIRE(kConfig, is_built_with_cuda,
             "/device: found \"cuda\", but this build has no CUDA backend: build with `cmake "
             "--preset cuda`, or set \"device\": \"cpu\"");
  const auto blind = std::ranges::find_if(ranks, sees_none);
  if (blind == ranks.end()) return Device::kCuda;
  if (!asked && std::ranges::all_of(ranks, sees_none)) return Device::kCpu;
  SY_REQUIRE(kConfig, false,
             "/device: rank {} on {} sees no GPU ({}){}: look at nvidia-smi and "
             "CUDA_VISIBLE_DEVICES there, or set \"device\": \"cpu\"",
             blind - ranks.begin(), blind->host, blind->why_none, asked ? "" : ", other ranks do");
}

int choose_gpu(int rank, const std::vector<GpusOfRank>& ranks) {
  const GpusOfRank& mine = ranks[static_cast<size_t>(rank)];
  if (mine.num_visible == 1) return 0;
  const auto place = static_cast<int>(
      std::count_if(ranks.begin(), ranks.begin() + rank,
                    [&](const GpusOfRank& other) { return other.host == mine.host; }));
  SY_REQUIRE(kConfig, place < mine.num_visible,
             "rank {} is number {} of the ranks on {}, where it sees {} GPUs: start as many ranks "
             "on a host as it has GPUs",
             rank, place + 1, mine.host, mine.num_visible);
  return place;
}

void refuse_shared_gpus(const std::vector<GpusOfRank>& ranks,
                        const std::vector<std::string>& uuids) {
  std::map<std::string, size_t> owner;
  for (size_t rank = 0; rank < uuids.size(); ++rank) {
    const auto [other, is_first] = owner.emplace(uuids[rank], rank);
    SY_REQUIRE(kConfig, is_first,
               "ranks {} and {} on {} have the same GPU, {}: start as many ranks on a host as it "
               "has GPUs, and give each its own (CUDA_VISIBLE_DEVICES), or all of them to every "
               "rank",
               other->second, rank, ranks[rank].host, uuids[rank]);
  }
}

}  // namespace switchyard
