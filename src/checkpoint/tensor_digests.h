// Digests of whole tensors from those of what each rank holds, and the comparison of what several
// ranks hold.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "checkpoint/declarations.h"
#include "comm/communicator.h"

namespace switchyard {

using DigestsByRank = std::vector<std::vector<uint64_t>>;  // of each rank's held tensors

// Every rank's digests_of() (digest.h), on every rank. Collective.
DigestsByRank exchange_digests(const std::vector<uint64_t>& mine, Communicator& world);

// A region of which ranks hold different elements.
struct ReplicaDifference {
  std::string key = {};
  Box box = {};
  std::vector<std::vector<int>> ranks = {};  // those that agree together; most first, ties by rank
};
std::vector<ReplicaDifference> differing_replicas(const std::vector<Region>& regions,
                                                  const DigestsByRank& digests);
// "\"exp_avg/model.norm.weight\" [0:16]: ranks 0, 1, 3 agree, rank 2 differs"
std::string describe(const ReplicaDifference& difference);
// The first five, and how many more.
std::string describe(const std::vector<ReplicaDifference>& differences);

// By key; of a region that several ranks hold, what the first holds counts.
std::map<std::string, uint64_t> tensor_digests(const std::vector<Region>& regions,
                                               const DigestsByRank& digests);

}  // namespace switchyard
