// Which process waits for which, and in what: a page of shared memory for each process, in which it
// says so, and a search for processes that wait for each other. In NCCL they would hang.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "nccl/shared_memory.h"

namespace cuda_emulator::nccl {

// The page of this process, for others.
SharedMemoryName my_page();
bool is_alive(SharedMemoryName page);  // the process that it belongs to

// This process waits, with the operation `what`, until each of `others` has done something; each of
// them is told that it is waited for. Called again and again for as long as it waits. Returns, once
// it is certain that it waits for ever, what every process of the circle waits in.
std::optional<std::string> report_waiting(const std::string& what,
                                          std::span<const SharedMemoryName> others);
void report_moving();
// What that process waits in at this moment.
std::string describe_process(SharedMemoryName page);

// Whether anybody has waited for this process since it was last asked.
bool take_is_waited_for();

}  // namespace cuda_emulator::nccl
