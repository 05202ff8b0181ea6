#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <numeric>

#include "engine/machine.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace cuda_emulator {

Machine machine;

namespace {

// A number that looks like chance (the finaliser of SplitMix64).
uint64_t mix(uint64_t seed, uint64_t launch_number) {
  uint64_t x = seed * 0xD1342543DE82EF95ULL + launch_number * 0x9E3779B97F4A7C15ULL;
  x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ x >> 27) * 0x94D049BB133111EBULL;
  return x ^ x >> 31;
}

// A permutation of all blocks.
class BlockOrder {
 public:
  BlockOrder(uint64_t count, uint64_t seed) : count_(count) {
    if (schedule().order == Order::kReverse) {
      first_ = count - 1;
      step_ = count - 1;
    } else if (schedule().order == Order::kRandom) {
      first_ = (seed >> 32) % count;
      step_ = (seed & 0xFFFFFFFF) % count;
      while (std::gcd(step_, count) != 1) ++step_;
    }
  }
  uint64_t operator[](uint64_t i) const { return (first_ + i % count_ * step_) % count_; }

 private:
  uint64_t count_, first_ = 0, step_ = 1;
};

uint64_t count(const dim3& size) { return uint64_t{size.x} * size.y * size.z; }

uint3 index_of(uint64_t number, const dim3& size) {
  return {static_cast<unsigned>(number % size.x), static_cast<unsigned>(number / size.x % size.y),
          static_cast<unsigned>(number / size.x / size.y)};
}

unsigned lanes_of_warp(int warp) {
  const int lanes = std::min(machine.num_threads - warp * kLanes, kLanes);
  return lanes == kLanes ? ~0U : (1U << lanes) - 1;
}

void begin_grid(const Launch& launch) {
  machine.launch = &launch;
  machine.host = pthread_self();
  machine.num_threads = static_cast<int>(count(launch.block));
  const int num_warps = (machine.num_threads + kLanes - 1) / kLanes;
  machine.threads.resize(std::max<size_t>(machine.threads.size(), kMaxThreadsPerBlock));
  machine.warps.resize(num_warps);
  machine.barrier.waiting.reserve(kMaxThreadsPerBlock);
  for (int i = 0; i < machine.num_threads; ++i) {
    Thread& thread = machine.threads[i];
    thread.index = index_of(i, launch.block);
    thread.number = i;
    thread.lane = i % kLanes;
    thread.warp = i / kLanes;
  }
  blockDim = launch.block;
  gridDim = launch.grid;
}

void begin_block(uint64_t block) {
  blockIdx = index_of(block, gridDim);
  ++machine.block_number;
  machine.num_exited = 0;
  machine.barrier.arrived = machine.barrier.yes = 0;
  machine.barrier.waiting.clear();
  for (int i = 0; i < machine.num_threads; ++i) {
    Thread& thread = machine.threads[i];
    thread.started = false;
    thread.mask = 0;
    thread.place = {};
    thread.copies.clear();
    thread.copy_group = 0;
  }
  for (size_t i = 0; i < machine.warps.size(); ++i) {
    const unsigned lanes = lanes_of_warp(static_cast<int>(i));
    machine.warps[i] = {.unstarted = lanes, .ready = 0, .alive = lanes, .arrived = 0};
  }
  begin_shared_memory(machine.launch->shared_bytes);
}

void run_blocks(const Launch& launch) {
  static uint64_t num_launches;
  const uint64_t seed = mix(schedule().seed, ++num_launches);
  seed_scheduler(seed);
  const uint64_t num_blocks = count(launch.grid);
  const BlockOrder order(num_blocks, seed);
  for (uint64_t i = 0; i < num_blocks; ++i) {
    begin_block(order[i]);
    run_threads();
    machine.current = nullptr;
    check_shared_memory();
  }
}

void count_launch(const Launch& launch) {
  KernelCount& counted = kernel_counts()[kernel_name(launch.kernel->function)];
  ++counted.launches;
  counted.blocks += static_cast<int64_t>(count(launch.grid));
  counted.threads += static_cast<int64_t>(count(launch.grid) * count(launch.block));
}

Schedule schedule_of_environment() {
  Schedule result;
  const char* order = std::getenv("SWITCHYARD_CUDA_ORDER");
  if (order == nullptr || std::strcmp(order, "forward") == 0) return result;
  if (std::strcmp(order, "reverse") == 0)
    result.order = Order::kReverse;
  else if (std::strcmp(order, "random") == 0)
    result.order = Order::kRandom;
  else
    fail("SWITCHYARD_CUDA_ORDER=%s: it is forward, reverse or random", order);
  return result;
}

}  // namespace

void run_grid(const Launch& launch) {
  if (machine.launch != nullptr) fail("a grid is launched while another one runs");
  static Tokens* tokens;
  {
    const Unseen unseen;
    // Tokens that are freed forget.
    if (under_thread_sanitizer() || tokens == nullptr) tokens = new Tokens;
    machine.tokens = tokens;
  }
  happens_before(&tokens->launch);
  {
    const Unseen unseen;
    begin_grid(launch);
    run_blocks(launch);
    count_launch(launch);
    machine.launch = nullptr;
  }
  happens_after(&tokens->done);
  const Unseen unseen;
  if (under_thread_sanitizer()) delete tokens;
}

bool in_kernel() {
  return machine.launch != nullptr && pthread_equal(machine.host, pthread_self()) != 0;
}

Schedule& schedule() {
  static Schedule chosen = schedule_of_environment();
  return chosen;
}

std::map<std::string, KernelCount>& kernel_counts() {
  static std::map<std::string, KernelCount> counts;
  return counts;
}

}  // namespace cuda_emulator
