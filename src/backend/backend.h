// Backend: a device - its memory, its queues and events, and its mathematics (ops.h).
//
// Made once by the subcommand (cli/), passed down by reference. The three memory classes below are
// used everywhere:
//   Tensor (core/tensor.h)  a view; owns nothing
//   Buffer                  owns one allocation for as long as it lives (weights, moments)
//   Arena                   owns blocks that scopes hand out and take back (activations, scratch)
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/progress.h"
#include "core/tensor.h"

namespace switchyard {

class Ops;
class Backend;

// In-order work of a device: a CUDA stream; on the CPU, work is done when the call returns.
struct Queue {
  int id = 0;
};

// A point in a queue's work, or the end of a PendingWork. A default Event is always complete.
struct Event {
  int queue = -1;
  int64_t ticket = 0;
};

// Work under way outside any queue: messages between ranks, say, which move only when asked.
class PendingWork {
 public:
  virtual ~PendingWork() = default;
  // Does what can be done at once; never waits for anybody. True when all is done; not called again
  // then. An error is thrown to whoever let the work advance, and is the end of the job.
  virtual bool advance() = 0;
  // For the marks of progress: parts that have arrived so far, in any unit, and the rank of the
  // group without which nothing more can; -1: not known.
  virtual int64_t num_arrived() const { return 0; }
  virtual int missing_peer() const { return -1; }
};

// Memory of the host that copies from the device reach without a detour. Any thread may give it
// back, also when the backend is gone.
using HostMemory = std::unique_ptr<std::byte[], void (*)(std::byte*)>;

// What a backend has handed out.
struct MemoryReport {
  int64_t bytes_in_use = 0;
  int64_t peak_bytes = 0;
  int64_t allocations = 0;  // calls that reached the device; constant once a run has warmed up
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string description() const = 0;  // "cpu, 2 threads, avx512"
  virtual Ops& ops() = 0;
  // FLOP/s at which `real` arithmetic could run at best: measured on the CPU, theoretical on a GPU.
  virtual double peak_flops(DType real) = 0;

  // The queue of the model's mathematics.
  virtual Queue compute_queue() = 0;
  // A queue for long copies to the host. Like every other, it waits only for what it is told to.
  virtual Queue copy_queue() { return compute_queue(); }
  // An event that completes when the work now in `queue` has.
  virtual Event record(Queue queue) = 0;
  // Later work of `queue` starts after `event`. Never blocks the host.
  virtual void wait(Queue queue, Event event) = 0;
  // Blocks the host: the only call of the project that does. It never sleeps in a driver or in MPI
  // but polls, so that pending work advances meanwhile; that it waits, and for what, is marked, and
  // for how long is the watchdog's affair (train/watchdog.h).
  virtual void host_wait(Event event) = 0;

  // Takes over `work`, which first advances when `after` has completed, at once if it has. Returns
  // the event that completes when the work is done. Work of which nobody waits for the event must
  // not outlive what it refers to.
  virtual Event start(std::unique_ptr<PendingWork> work, Event after = {}) = 0;
  // Lets all pending work advance. Called now and then during long computations, so that messages
  // move beside them.
  virtual void progress() = 0;
  virtual bool is_complete(Event event) = 0;  // never blocks, and advances nothing

  // Copies between host and device memory. The host memory of an upload may be reused when the call
  // returns; what is downloaded is there when the host has waited (host_wait) for an event that
  // comes after it, and its host memory must live until then.
  virtual void upload(Queue queue, Tensor device, const void* host) = 0;
  virtual void download(Queue queue, void* host, Tensor device) = 0;
  // The same, to memory of allocate_host(), which is undefined at first.
  virtual HostMemory allocate_host(int64_t bytes);
  virtual void download_direct(Queue queue, std::byte* host, Tensor device) {
    download(queue, host, device);
  }

  // A scope of an arena has given memory back: what `queue` is asked to do from now on may use it
  // for something else. A backend that looks for mistakes listens; the others have nothing to do.
  virtual void released(Queue /*queue*/, std::byte* /*memory*/, int64_t /*bytes*/) {}

  const MemoryReport& memory() const { return memory_; }
  // Where this rank leaves marks of what it does. Written by the thread that drives the backend.
  Progress& marks() { return marks_; }

 protected:
  virtual std::byte* do_allocate(int64_t bytes) = 0;  // 64-byte aligned
  virtual void do_free(std::byte* memory, int64_t bytes) = 0;

 private:
  friend class Buffer;
  std::byte* allocate(int64_t bytes);
  void free(std::byte* memory, int64_t bytes);
  MemoryReport memory_;
  Progress marks_;
};

// Owns one allocation of a backend. Movable, not copyable. Contents are undefined at first.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Backend& backend, int64_t bytes);
  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept;
  ~Buffer();

  std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  // A view of the first elements of the buffer.
  Tensor tensor(DType dtype, std::initializer_list<int64_t> shape) const;

 private:
  Backend* backend_ = nullptr;
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
};

// Memory in stack order. Tensors live until the Scope in which they were made closes; the blocks
// stay, so that a step of a size already seen allocates nothing. Contents are undefined at first.
// It belongs to the compute queue: the order of its scopes is the order of that queue's work, and
// what another queue does with a tensor is waited for there before the scope closes.
class Arena {
 public:
  explicit Arena(Backend& backend) : backend_(&backend) {}

  Tensor allocate(DType dtype, std::span<const int64_t> shape);
  Tensor allocate(DType dtype, std::initializer_list<int64_t> shape) {
    return allocate(dtype, std::span<const int64_t>(shape.begin(), shape.size()));
  }
  Tensor allocate_like(Tensor other) { return allocate(other.dtype(), other.shape()); }

  int64_t capacity_bytes() const;
  int64_t growths() const { return growths_; }  // blocks ever added

  // Gives back, when it closes, everything allocated from the arena since it was opened.
  class Scope {
   public:
    explicit Scope(Arena& arena);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Arena& arena_;
    size_t block_;
    int64_t used_;
  };

 private:
  void give_back(size_t first_block, int64_t first_byte);

  Backend* backend_;
  std::vector<Buffer> blocks_;
  size_t block_ = 0;  // the block being filled
  int64_t used_ = 0;  // bytes used in it
  int64_t growths_ = 0;
};

}  // namespace switchyard
