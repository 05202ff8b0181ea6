// The hazard of NCCL: a rank launches its collectives in one order, over all its communicators, and
// each may hold up those behind it until its partners come. Ranks that share two communicators must
// therefore use them in one order, and longer circles must not be either. Checked on what each rank
// has asked for, without running it.
#pragma once

#include <span>
#include <string>
#include <vector>

namespace switchyard::test {

// What one rank asked a communicator to do.
struct IssuedCollective {
  std::string communicator;  // unique in the job
  std::string call;
  std::vector<int> members = {};  // ranks of the world that take part; of messages: none
  std::vector<int> sends_to = {}, receives_from = {};  // of messages: ranks of the world, in order
};
using IssuedByRank = std::vector<std::vector<IssuedCollective>>;

// What the ranks wait for when none can go on, or "" when all come to their end.
std::string find_standstill(const IssuedByRank& ranks);

}  // namespace switchyard::test
