// Faults on purpose, for tests. Code that can fail passes named points; what happens there is
// decided by which of two sources an executable is linked with: no_fault.cpp (the `switchyard`
// command: nothing, ever) or fault_injection.cpp (tests, `switchyard_with_faults`: what
// SWITCHYARD_FAULT says).
#pragma once

#include <cstddef>
#include <span>

namespace switchyard {

// What the caller has to do. Ending, stopping, sleeping and hanging happen in fault_point().
enum class Fault {
  kNone,
  kEio,     // fail as if the medium had failed
  kEnospc,  // fail as if the disk were full
  kShort,   // write only a part
  kFlip,    // spoil(): one bit
  kNan,     // spoil(): a NaN
  kDrop,    // send nothing, and say nothing
};

// `name`: "checkpoint.shard.sync", say. A caller ignores what makes no sense where it stands.
Fault fault_point(const char* name);

// The rank of this thread's points, where ranks are threads. Processes know theirs from mpirun.
void set_fault_rank(int rank);

// kFlip: turns over a bit in the middle of `bytes`. kNan: makes the first eight bytes all ones, a
// NaN in every floating-point format. Otherwise nothing.
void spoil(Fault fault, std::span<std::byte> bytes);

// The errno of kEio and kEnospc; 0 of others.
int errno_of(Fault fault);

}  // namespace switchyard
