#include "comm/call_faults.h"

#include <array>

namespace switchyard {

CallFaults fault_points_of(CallKind kind) {
  constexpr std::array<CallFaults, 11> kPoints = {
      {{"collective.none", "message.none"},
       {"collective.all_reduce", "message.all_reduce"},
       {"collective.reduce_scatter", "message.reduce_scatter"},
       {"collective.all_gather", "message.all_gather"},
       {"collective.all_to_all", "message.all_to_all"},
       {"collective.broadcast", "message.broadcast"},
       {"collective.send_receive", "message.send_receive"},
       {"collective.split", "message.split"},
       {"collective.all_gather_host", "message.all_gather_host"},
       {"collective.all_to_all_host", "message.all_to_all_host"},
       {"collective.broadcast_host", "message.broadcast_host"}}};
  return kPoints[static_cast<size_t>(kind)];
}

}  // namespace switchyard
