// Whether the communication of a whole job can come to an end: every rank's operations in the order
// in which its one host thread launches them, and a search for ranks that wait for each other.
//
// The strictest reading: an operation blocks its rank until it is complete, whatever communicator
// it is on. That is what blocking MPI calls do, and what NCCL may do (ranks that share two
// communicators must launch on them in one consistent order, because a kernel that waits for its
// peers can keep the next one from running). What ends under this reading ends under any.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "comm/process_grid.h"
#include "pipeline/schedule.h"

namespace switchyard {

struct RankMessage {
  int peer = 0;       // rank
  std::string label;  // the same at both ends
};

// A collective, complete when all of its group have come to it; or a group of messages, each
// complete when both ends have posted it. Between two ranks messages match in their order.
struct Operation {
  std::string communicator;     // "tp"; for messages "pp"
  std::string label;            // of the step it belongs to, the same on all ranks of a collective
  std::vector<int> group = {};  // of a collective: its ranks, ascending
  std::vector<RankMessage> sends = {}, receives = {};
};

using RankProgram = std::vector<Operation>;  // of one rank, in the order of launches

// What a training step launches on each rank of the world: the messages of plan_messages(), in each
// step every collective a layer may call on it, and at the end one over the world. A group of one
// talks to nobody and is left out.
std::vector<RankProgram> make_programs(const ScheduleSpec& spec, const GridSizes& sizes);

// Why the programs never end ("rank 0 ... waits for rank 1, rank 1 ... waits for rank 0"), or which
// two operations meet that do not belong together. Nothing when they end.
std::optional<std::string> check_order(const std::vector<RankProgram>& programs);

}  // namespace switchyard
