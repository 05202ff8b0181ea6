// From an address of machine code to its line in the source.
#pragma once

#include <cstddef>

namespace cuda_emulator {

// "file:line", with " inlined in file:line" if it was; empty where there is no debug information or
// no addr2line. For signal handlers: allocates nothing.
void find_source_line(const void* code, char* text, size_t size);

}  // namespace cuda_emulator
