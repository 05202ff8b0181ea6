// The fault points (core/fault.h) of what ranks call together.
#pragma once

#include "core/progress_page.h"

namespace switchyard {

struct CallFaults {
  const char* call;     // "collective.all_reduce": before the call is marked
  const char* message;  // "message.all_reduce": kDrop loses a message of such a call
};
CallFaults fault_points_of(CallKind kind);

}  // namespace switchyard
