// The engine: in which orders it runs blocks and threads, what it counts, what it calls kernels.
#include <algorithm>
#include <numeric>
#include <set>

#include "cuda_emulator/engine/engine.h"
#include "cuda_emulator/tests/device/device_kernels.h"
#include "cuda_emulator/tests/device/device_memory.h"
#include "support/catch.h"

using namespace cuda_emulator;
using namespace switchyard::test;

namespace {

constexpr int kBlocks = 7, kThreads = 70, kTotal = kBlocks * kThreads;

struct Numbers {
  std::vector<int> before, after;
};

Numbers take_numbers_in(Order order, uint64_t seed) {
  const Schedule usual = schedule();
  schedule() = {order, seed};
  const Stream stream;
  const DeviceArray<int> before(stream, kTotal), after(stream, kTotal);
  const DeviceArray<int> counter(stream, std::vector<int>{0});
  take_numbers(stream, before.data(), after.data(), counter.data(), kBlocks, kThreads);
  Numbers numbers{before.fetch(), after.fetch()};
  schedule() = usual;
  return numbers;
}

// The blocks in the order in which they ran.
std::vector<int> order_of_blocks(const Numbers& numbers) {
  std::vector<int> blocks(kBlocks);
  std::iota(blocks.begin(), blocks.end(), 0);
  std::sort(blocks.begin(), blocks.end(), [&](int a, int b) {
    return numbers.before[a * kThreads] < numbers.before[b * kThreads];
  });
  return blocks;
}

}  // namespace

TEST_CASE("every thread runs once before and once after the barrier, block by block") {
  for (const Order order : {Order::kForward, Order::kReverse, Order::kRandom}) {
    const Numbers numbers = take_numbers_in(order, 5);
    std::set<int> all(numbers.before.begin(), numbers.before.end());
    all.insert(numbers.after.begin(), numbers.after.end());
    CHECK(all.size() == 2 * kTotal);
    for (int block = 0; block < kBlocks; ++block) {
      const auto begin = block * kThreads;
      const auto last =
          *std::max_element(&numbers.before[begin], &numbers.before[begin] + kThreads);
      const auto first = *std::min_element(&numbers.after[begin], &numbers.after[begin] + kThreads);
      CHECK(last + 1 == first);
    }
  }
}

TEST_CASE("forward and reverse are what they say") {
  const Numbers forward = take_numbers_in(Order::kForward, 1);
  const Numbers reverse = take_numbers_in(Order::kReverse, 1);
  for (int block = 0; block < kBlocks; ++block) {
    for (int i = 0; i < kThreads; ++i) {
      CHECK(forward.before[block * kThreads + i] == 2 * kThreads * block + i);
      CHECK(reverse.before[block * kThreads + i] ==
            2 * kThreads * (kBlocks - 1 - block) + kThreads - 1 - i);
    }
  }
}

TEST_CASE("random orders differ from launch to launch and from seed to seed") {
  std::set<std::vector<int>> of_threads, of_blocks;
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    for (int launch = 0; launch < 2; ++launch) {
      const Numbers numbers = take_numbers_in(Order::kRandom, seed);
      of_threads.insert(numbers.before);
      of_blocks.insert(order_of_blocks(numbers));
    }
  }
  CHECK(of_threads.size() == 10);
  // Warps take turns too.
  CHECK(std::any_of(of_threads.begin(), of_threads.end(), [](const std::vector<int>& numbers) {
    return std::any_of(&numbers[32], &numbers[64], [&](int of_second_warp) {
      return of_second_warp < *std::max_element(&numbers[0], &numbers[32]);
    });
  }));
  CHECK(of_blocks.size() > 5);
}

TEST_CASE("launches are counted by the names of kernels in the source") {
  kernel_counts().clear();
  const Stream stream;
  launch_templates(stream);
  launch_templates(stream);
  CUDA_CHECK(cudaStreamSynchronize(stream));
  REQUIRE(kernel_counts().size() == 2);
  const KernelCount& small = kernel_counts().at("nothing_kernel<BFloat16, 3>");
  CHECK(small.launches == 2);
  CHECK(small.blocks == 4);
  CHECK(small.threads == 160);
  const KernelCount& large = kernel_counts().at("nothing_kernel<double, 4>");
  CHECK(large.launches == 2);
  CHECK(large.blocks == 12);
  CHECK(large.threads == 1440);
}

TEST_CASE("every block finds shared memory that nobody has written") {
  const Stream stream;
  const DeviceArray<int> out(stream, 600);
  read_new_shared_memory(stream, out.data(), 3);
  CHECK(out.fetch() == std::vector<int>(600, -1));
}

TEST_CASE("large grids and blocks") {
  const Stream stream;
  for (const auto& [grid, block] :
       {std::pair{dim3(3000), dim3(1)}, {dim3(5, 300, 2), dim3(33)}, {dim3(2), dim3(32, 8, 4)}}) {
    const DeviceArray<int> count(stream, std::vector<int>{0});
    count_threads(stream, count.data(), grid, block);
    CHECK(count.fetch()[0] ==
          static_cast<int>(grid.x * grid.y * grid.z * block.x * block.y * block.z));
  }
}

TEST_CASE("streams that have ended leave their threads to others") {
  for (int i = 0; i < 40; ++i) {
    const Stream stream;
    const DeviceArray<int> count(stream, std::vector<int>{0});
    count_threads(stream, count.data(), dim3(2), dim3(256));
    CHECK(count.fetch()[0] == 512);
  }
}
