// The fault points of the `switchyard` command: there are none.
#include "core/fault.h"

namespace switchyard {

Fault fault_point(const char*) { return Fault::kNone; }
void set_fault_rank(int) {}
void spoil(Fault, std::span<std::byte>) {}
int errno_of(Fault) { return 0; }

}  // namespace switchyard
