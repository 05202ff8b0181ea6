// The device engine: executes grids of kernels on the host, block by block, each CUDA thread on a
// stack of its own (a fiber) wherever it has to wait for others. This is what the emulated runtime
// (memory, streams, events, graphs) calls; the engine calls nothing of the runtime.
//
// One grid runs at a time in a process, on the host thread that called run_grid(): the runtime
// serialises. Everything here is compiled without sanitizers and talks to them by their fiber
// interfaces, so that they see the accesses of kernels and not those of the emulation. (Whoever
// locks a mutex here tells ThreadSanitizer of an order that a GPU does not have: see Unseen.)
#pragma once

#include <signal.h>
#include <vector_types.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

#include "cuda_emulator/kernel.h"

namespace cuda_emulator {

// ---- Grids ---------------------------------------------------------------------------------

// What holds for every architecture that the project compiles for (sm_80 has the least).
inline constexpr size_t kMaxThreadsPerBlock = 1024;
inline constexpr size_t kMaxStaticSharedBytes = 48 * 1024;  // and with dynamic, by itself
inline constexpr size_t kMaxSharedBytes = 163 * 1024;       // static and dynamic, after opting in

struct Launch {
  const Kernel* kernel = nullptr;
  void* const* arguments = nullptr;  // copies, which outlive run_grid()
  dim3 grid, block;
  size_t shared_bytes = 0;  // dynamic
  bool opted_in = false;    // to more shared memory than kernels have by themselves
  int stream = 0;           // grids of different streams are unordered for ThreadSanitizer
};
// Executes the whole grid; device memory must be open to the calling thread.
void run_grid(const Launch& launch);
bool in_kernel();  // this host thread

// The order in which blocks, warps and threads run where the program leaves it open; random orders
// depend on `seed` (set by runtime/settings.cpp) and on the number of launches so far. The order is
// at first what the environment says: SWITCHYARD_CUDA_ORDER=forward (default)|reverse|random.
enum class Order { kForward, kReverse, kRandom };
struct Schedule {
  Order order = Order::kForward;
  uint64_t seed = 1;
};
Schedule& schedule();

struct KernelCount {
  int64_t launches = 0, blocks = 0, threads = 0;
};
// Of all grids run so far, by kernel_name().
std::map<std::string, KernelCount>& kernel_counts();

// ---- Failures ------------------------------------------------------------------------------

inline constexpr int kFailureExit = 86;

// Prints "CUDA emulator: <message>" and, within a kernel, its name, block, thread and source line;
// ends the process with kFailureExit.
[[noreturn]] [[gnu::format(printf, 1, 2)]] void fail(const char* format, ...);

// For the runtime's handler of SIGSEGV, SIGBUS, SIGILL and SIGFPE, once it has found that the fault
// is an error: prints `message`, or if it is null what the engine knows of the address (overrun of
// a shared array or of a stack, misaligned access, ...), with kernel, block, thread and the source
// line of the instruction; ends the process with kFailureExit.
[[noreturn]] void fail_at_fault(int signal, const siginfo_t* info, const void* context,
                                const char* message);

// ---- Sanitizers ----------------------------------------------------------------------------

bool under_thread_sanitizer();
bool under_address_sanitizer();

// Order for ThreadSanitizer: what came before happens_before(token) precedes what comes after a
// later happens_after(token). Nothing else orders streams and kernels. A token is any address from
// malloc; it forgets when it is freed.
void happens_before(void* token);
void happens_after(void* token);

// Within its scope ThreadSanitizer sees neither the memory accesses nor the synchronisation (locks)
// of this host thread, and memory that is allocated counts as new to everybody.
class Unseen {
 public:
  Unseen();
  ~Unseen();
  Unseen(const Unseen&) = delete;
  Unseen& operator=(const Unseen&) = delete;
};

// A stream as ThreadSanitizer sees it: a thread of its own, with its own stack. Without
// ThreadSanitizer create_context() gives null and run_in_context() simply calls.
struct Context;
Context* create_context();
void run_in_context(Context* context, void (*function)(void*), void* argument);
// Nothing more will run there. What it takes is kept for the next one.
void retire_context(Context* context);
void retire_stream(int stream);  // of Launch

}  // namespace cuda_emulator
