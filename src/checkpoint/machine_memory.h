// Memory of the machine that a rank runs on.
#pragma once

#include <cstdint>

#include "comm/communicator.h"

namespace switchyard {

// Bytes that can be had without pushing anything out: MemAvailable of /proc/meminfo, and what the
// limit of this process's cgroup leaves. Where nobody says, as many as there are numbers.
int64_t available_host_memory();

// Sum of `value` over the ranks of `world` on my host. Collective.
int64_t sum_over_host(Communicator& world, int64_t value);

}  // namespace switchyard
