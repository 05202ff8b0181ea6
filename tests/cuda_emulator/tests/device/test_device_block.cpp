// Barriers, shared memory, indices and atomics.
#include <algorithm>
#include <numeric>

#include "cuda_emulator/tests/device/device_kernels.h"
#include "cuda_emulator/tests/device/device_memory.h"
#include "support/catch.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

std::vector<int> numbers(int count) {
  std::vector<int> values(count);
  for (int i = 0; i < count; ++i) values[i] = i * 7919 % 1009 - 500;
  return values;
}

}  // namespace

TEST_CASE("barriers count the votes of the threads that have not exited") {
  const Stream stream;
  for (const int threads : {1, 31, 32, 33, 96, 100}) {
    for (const int exiting : {0, 1, 31}) {
      if (exiting >= threads) continue;
      const int voting = threads - exiting;
      for (const int yes : {0, 1, voting / 2, voting}) {
        if (yes > voting) continue;
        std::vector<int> in(threads, 5);  // who exits would vote yes
        for (int i = 0; i < voting; ++i) in[i] = (i * 17 + 3) % voting < yes ? -1 : 0;
        const auto expected = static_cast<int>(
            std::count_if(in.begin(), in.begin() + voting, [](int x) { return x != 0; }));
        const DeviceArray<int> in_there(stream, in);
        const DeviceArray<BarrierResults> out(stream, threads);
        vote_in_block(stream, out.data(), in_there.data(), threads, exiting);
        const auto result = out.fetch();
        for (int i = 0; i < voting; ++i) {
          CHECK(result[i].count == expected);
          CHECK((result[i].any != 0) == (expected > 0));
          CHECK((result[i].all != 0) == (expected == voting));
        }
      }
    }
  }
}

TEST_CASE("static shared memory carries values across a barrier") {
  const Stream stream;
  for (const int threads : {1, 32, 50, 1024}) {
    constexpr int kBlocks = 5;
    const auto in = numbers(kBlocks * threads);
    const DeviceArray<int> in_there(stream, in), out(stream, in.size());
    reverse_in_block(stream, out.data(), in_there.data(), kBlocks, threads);
    const auto result = out.fetch();
    for (int block = 0; block < kBlocks; ++block)
      for (int i = 0; i < threads; ++i)
        REQUIRE(result[block * threads + i] == in[block * threads + threads - 1 - i]);
  }
}

TEST_CASE("dynamic shared memory: a scan in two alternating halves") {
  const Stream stream;
  for (const int threads : {1, 33, 256}) {
    constexpr int kBlocks = 3;
    const auto in = numbers(kBlocks * threads);
    const DeviceArray<int> in_there(stream, in), out(stream, in.size());
    scan_in_block(stream, out.data(), in_there.data(), kBlocks, threads);
    const auto result = out.fetch();
    for (int block = 0; block < kBlocks; ++block) {
      const int* first = &in[block * threads];
      for (int i = 0; i < threads; ++i)
        REQUIRE(result[block * threads + i] == std::accumulate(first, first + i + 1, 0));
    }
  }
}

TEST_CASE("every thread of every block runs once and knows who it is") {
  const Stream stream;
  const dim3 grid(3, 2, 4), block(5, 3, 2);
  const unsigned threads = 30, blocks = 24;
  const DeviceArray<Indices> out(stream, size_t{threads} * blocks);
  write_indices(stream, out.data(), grid, block);
  const auto result = out.fetch();
  for (unsigned b = 0; b < blocks; ++b) {
    for (unsigned t = 0; t < threads; ++t) {
      const unsigned expected[12] = {t % 5, t / 5 % 3, t / 15, b % 3, b / 3 % 2, b / 6,
                                     5,     3,         2,      3,     2,         4};
      CHECK(std::equal(expected, expected + 12, result[b * threads + t].values));
    }
  }
}

TEST_CASE("shared memory is aligned as device.cuh promises") {
  const Stream stream;
  const DeviceArray<int> out(stream, 4);
  alignments(stream, out.data());
  CHECK(out.fetch() == std::vector<int>{0, 0, 0, 0});
}

TEST_CASE("atomic operations") {
  const Stream stream;
  constexpr int kBlocks = 3, kThreads = 50, n = kBlocks * kThreads;
  AtomicResults initial{};
  initial.bit_and = ~0U;
  initial.dec = 3;
  const DeviceArray<AtomicResults> results(stream, std::vector<AtomicResults>{initial});
  const DeviceArray<unsigned> returned(stream, n);
  atomics(stream, results.data(), returned.data(), kBlocks, kThreads);
  const AtomicResults result = results.fetch()[0];
  CHECK(result.add == n);
  CHECK(result.sub == -n * (n - 1) / 2);
  CHECK(result.min == -5);
  CHECK(result.max == n - 6);
  CHECK((result.exchange >= 0 && result.exchange < n));
  CHECK((result.compare >= 1 && result.compare <= n));
  CHECK(result.winners == 1);
  CHECK(result.bit_and == 0);
  CHECK(result.bit_or == ~0U);
  unsigned bit_xor = 0;
  for (int i = 0; i < n; ++i) bit_xor ^= static_cast<unsigned>(i);
  CHECK(result.bit_xor == bit_xor);
  CHECK(result.inc == n % 7);
  CHECK(result.dec == (3 + 7 * n - n) % 7);
  CHECK(result.wide_add == static_cast<unsigned long long>(n) << 32);
  CHECK(result.float_add == 0.5F * n);
  CHECK(result.double_add == 0.25 * n);
  // Everybody got another number.
  auto numbers_returned = returned.fetch();
  std::sort(numbers_returned.begin(), numbers_returned.end());
  for (unsigned i = 0; i < n; ++i) REQUIRE(numbers_returned[i] == i);
}

TEST_CASE("the last block sees what the others wrote before their fences") {
  const Stream stream;
  constexpr int kBlocks = 20, kThreads = 64;
  const auto in = numbers(kBlocks * kThreads);
  const DeviceArray<int> in_there(stream, in), partial(stream, kBlocks), sum(stream, 1);
  const DeviceArray<unsigned> counter(stream, std::vector<unsigned>{0});
  for (int repetition = 0; repetition < 2; ++repetition) {
    sum_by_last_block(stream, sum.data(), partial.data(), counter.data(), in_there.data(), kBlocks,
                      kThreads);
    CHECK(sum.fetch()[0] == std::accumulate(in.begin(), in.end(), 0));
    CHECK(counter.fetch()[0] == 0);
  }
}
