// Streams as queues of operations, and when these run.
//
// A Marker is a point of a stream: reached when the operation that carries it is done. Events,
// waits between streams, and the edges of graphs are markers. All functions expect the lock
// (lock.h), and give it up while they wait for another process or run a host function.
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "runtime/lock.h"
#include "runtime/stream.h"

namespace cuda_emulator {

struct Capture;
struct Stream;

struct Marker {
  std::weak_ptr<Stream> stream;
  bool reached = false;
  bool polled = false;      // somebody asked too early
  double milliseconds = 0;  // when it was reached
};

struct Stream : std::enable_shared_from_this<Stream> {
  struct Entry {
    Operation operation;
    std::vector<std::shared_ptr<Marker>> after;
    std::shared_ptr<Marker> marker;
    uint64_t turn = 0;  // among the operations that are in issue order; 0: not one of them
  };

  int number = 0;  // the n-th stream of this process
  int device = 0;
  std::deque<std::unique_ptr<Entry>> queue;
  bool running = false;  // the first entry is at work, on some thread
  bool destroyed = false;
  uint64_t issued = 0;  // entries so far
  uint64_t polled = 0;  // of them, those in the queue when cudaStreamQuery counted a wait
  Context* context = nullptr;

  Stream() = default;
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream() {
    retire_context(context);
    retire_stream(number);
  }

  // While the stream is captured: the graph, and the nodes that what comes next depends on.
  std::shared_ptr<Capture> capture;
  std::vector<size_t> frontier;
};

std::shared_ptr<Stream> create_stream(int device);
// The number of the stream whose operation runs.
int running_stream();
// The handle is invalid from now on; work that is queued still runs.
void destroy_stream(Stream& stream);
// Null: no valid handle. Stops the test where it is the default stream.
Stream* find_stream(cudaStream_t handle);

// Queues `operation` after what is in the queue and after all of `after`. `marker` (may be null) is
// reached when it is done.
void issue(Stream& stream, Operation operation, std::vector<std::shared_ptr<Marker>> after = {},
           std::shared_ptr<Marker> marker = nullptr);
// A marker at the present end of the queue.
std::shared_ptr<Marker> mark(Stream& stream);

// Returns when `marker` is reached; meanwhile runs what the mode says.
void wait_for(Marker& marker);
// Whether it is reached; where it is not, the device goes on a little. A wait of `asker` (a
// function of CUDA) is counted if it is the first question too early.
bool poll(Marker& marker, const char* asker);
bool poll(Stream& stream, const char* asker);
void wait_for_device(int device);

// What every call of CUDA begins with: takes the lock, and lets the device do what it may.
class ApiCall {
 public:
  explicit ApiCall(const char* name);

 private:
  Locked locked_;
};

}  // namespace cuda_emulator
