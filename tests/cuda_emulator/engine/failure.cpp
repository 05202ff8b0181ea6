#include <ucontext.h>
#include <unistd.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>

#include "engine/machine.h"
#include "engine/source_line.h"

namespace cuda_emulator {
namespace {

// Printed piece by piece with write(): for signal handlers too.
[[gnu::format(printf, 1, 2)]] void print(const char* format, ...) {
  char text[2048];
  va_list values;
  va_start(values, format);
  const int length = std::vsnprintf(text, sizeof text, format, values);
  va_end(values);
  const size_t bytes = std::min(sizeof text - 1, static_cast<size_t>(std::max(length, 0)));
  if (write(STDERR_FILENO, text, bytes) < 0) return;
}

void print_position() {
  if (!in_kernel()) return;
  print("  in kernel %s, block (%u, %u, %u) of (%u, %u, %u)",
        kernel_name(machine.launch->kernel->function), blockIdx.x, blockIdx.y, blockIdx.z,
        gridDim.x, gridDim.y, gridDim.z);
  if (const Thread* thread = machine.current) {
    print(", thread (%u, %u, %u) of (%u, %u, %u)", threadIdx.x, threadIdx.y, threadIdx.z,
          blockDim.x, blockDim.y, blockDim.z);
    if (thread->place.file != nullptr)
      print("\n  in or after %s at %s:%d", thread->place.operation, thread->place.file,
            thread->place.line);
  }
  print("\n");
}

std::string activity(const Thread& thread) {
  if (!thread.started) return "not started";
  if ((machine.warps[thread.warp].alive & lane_bit(thread)) == 0) return "exited";
  if (thread.place.file == nullptr) return "running";
  const bool running = &thread == machine.current;
  return std::string(running ? "running, last " : "") + thread.place.operation + " at " +
         thread.place.file + ":" + std::to_string(thread.place.line);
}

void print_threads() {
  std::map<std::string, std::pair<int, std::string>> groups;  // how many, and which
  for (int i = 0; i < machine.num_threads; ++i) {
    auto& [count, numbers] = groups[activity(machine.threads[i])];
    if (++count <= 4) numbers += (count == 1 ? "" : ", ") + std::to_string(i);
    if (count == 5) numbers += ", ...";
  }
  for (const auto& [what, group] : groups)
    print("  %d thread(s), %s: %s\n", group.first, group.second.c_str(), what.c_str());
}

[[noreturn]] void end() {
  std::fflush(nullptr);
  std::_Exit(kFailureExit);
}

const char* explain_fault(int signal, const siginfo_t* info) {
  const void* address = info->si_addr;
  static char text[256];
  if (signal == SIGFPE) return "division by zero, or of the least integer by -1";
  if (signal == SIGILL)
    return "a check by the compiler failed: misaligned address, or index out of an array's bounds";
  // Addresses that no program may have, and 16-byte accesses that are not aligned.
  if (info->si_code == SI_KERNEL)
    return "misaligned address of a vector access, or an address that cannot be";
  if (const char* shared = explain_shared(address); *shared != '\0') return shared;
  if (below_a_stack(address)) return "stack overflow of a CUDA thread";
  std::snprintf(text, sizeof text, "access to address %p, where there is no memory", address);
  return text;
}

}  // namespace

void fail(const char* format, ...) {
  char message[1024];
  va_list values;
  va_start(values, format);
  std::vsnprintf(message, sizeof message, format, values);
  va_end(values);
  print("CUDA emulator: %s\n", message);
  print_position();
  end();
}

void fail_with_threads(const char* format, ...) {
  char message[1024];
  va_list values;
  va_start(values, format);
  std::vsnprintf(message, sizeof message, format, values);
  va_end(values);
  print("CUDA emulator: %s\n", message);
  print_position();
  print_threads();
  end();
}

void fail_at_fault(int signal, const siginfo_t* info, const void* context, const char* message) {
  const auto* registers = static_cast<const ucontext_t*>(context);
  const auto* code = reinterpret_cast<const void*>(registers->uc_mcontext.gregs[REG_RIP]);
  print("CUDA emulator: %s\n", message != nullptr ? message : explain_fault(signal, info));
  print_position();
  char line[1024];
  find_source_line(code, line, sizeof line);
  if (line[0] != '\0') print("  at %s\n", line);
  std::_Exit(kFailureExit);
}

}  // namespace cuda_emulator
