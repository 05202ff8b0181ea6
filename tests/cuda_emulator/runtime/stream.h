// The seam between the emulated runtime and what puts work on its streams: kernels, copies, cuBLAS,
// NCCL.
//
// An operation joins the queue of its stream at the call and runs later, when the mode allows it
// (settings.h): on the host thread that waits for it or that happens to call, one operation at a
// time in the whole process. Device memory can be touched from within a running operation only. A
// stream that is being captured records its operations; each launch of the graph queues them anew.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <functional>

#include "engine/engine.h"

namespace cuda_emulator {

// What `counters.h` tells of an operation; counted when it joins a real queue (for a captured one,
// at each launch of the graph).
struct Cost {
  enum class Kind { kNone, kKernel, kCopy, kBlas, kCollective };
  Kind kind = Kind::kNone;
  uint64_t amount = 0;  // kernels: 1 per block; copies and collectives: bytes; cuBLAS: FLOPs
};

// Pinned host memory that an operation touches, as far as the emulator knows.
struct PinnedUse {
  char* first = nullptr;
  size_t bytes = 0;
  bool unknown = false;  // it may be any (kernels with such a pointer, host functions)
  bool written = false;  // all of it, nothing read
};

struct Operation {
  const char* what = "";  // for messages and counters; outlives the process
  // True: done. False: it waits for another rank and has to be called again; it must not block,
  // since other streams and other threads go on meanwhile. The call after a true one begins afresh
  // (a graph that is replayed). Called on the stream's own stack and ThreadSanitizer fiber.
  std::function<bool()> work = {};
  // Among the operations of this process that have it set, one starts only when those queued before
  // it are done: kernels of NCCL, which may occupy the device while they wait for each other.
  bool in_issue_order = false;
  // A host function: no device memory, and no lock of the emulator is held meanwhile.
  bool on_host = false;
  Cost cost = {};
  PinnedUse pinned = {};
};

// Everything a CUDA call may answer: an invalid handle, a capture that is no longer valid. Stops
// the test where `stream` is the default stream, which the project never uses.
cudaError_t enqueue(cudaStream_t stream, Operation operation);

// Runs what can run on any stream at this moment, waits for nothing; whether anything ran. For
// whatever waits outside CUDA (NCCL's rendezvous, MPI, sockets): a GPU would go on meanwhile.
bool make_progress();

// Whether all of [p, p + bytes) lies in one live allocation of the device; of pinned host memory.
bool is_device(const void* p, size_t bytes);
bool is_pinned(const void* p, size_t bytes);
// Stops the test unless is_device(); `what` names the argument. Zero bytes are always there.
void need_device(const void* p, size_t bytes, const char* what);

// For code that ThreadSanitizer does not see (the emulator's): an access of the running operation.
void note_read(const void* p, size_t bytes);
void note_write(const void* p, size_t bytes);
// memcpy with both noted.
void copy_noted(void* to, const void* from, size_t bytes);

}  // namespace cuda_emulator
