// Which faults happen at the points of core/fault.h, in executables linked with them.
//
//   SWITCHYARD_FAULT="rank=2,point=checkpoint.shard.sync,nth=3,action=kill"
//
// Rules are separated by ';'. rank: every rank unless given. point: the name of a point, or a
// prefix ending in '*'. nth: the first pass unless given; "3+" means the third and all that follow.
// action: kill (SIGKILL), kill:SECONDS (this thread does nothing more, and so much later the
// process is killed: a rank dies, and the launcher ends the others), stop (SIGSTOP), raise:SIGNAL
// (a number), exit (status 1, nothing else), hang, sleep:SECONDS, eio, enospc, short, flip, nan,
// drop.
#pragma once

#include <string>
#include <vector>

namespace switchyard {

// Replaces the rules, counts from anew and forgets which points were passed. Error (kConfig) for
// what is not a rule.
void set_faults(const std::string& rules);

// The names of the points passed since set_faults(), in order, each time: by all ranks, or by one.
std::vector<std::string> fault_points_passed();
std::vector<std::string> fault_points_passed(int rank);

}  // namespace switchyard
