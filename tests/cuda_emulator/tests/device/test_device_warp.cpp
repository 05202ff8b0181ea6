// Shuffles, votes and __syncwarp against their definitions in the PTX manual.
#include <limits>
#include <random>

#include "cuda_emulator/tests/device/device_kernels.h"
#include "cuda_emulator/tests/device/device_memory.h"
#include "support/catch.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

constexpr int kLanes = 32;

// PTX ISA, "shfl.sync", word for word; with b and c as CUDA C++ makes them of operand and width.
int source_of_shuffle(ShuffleKind kind, int lane, int operand, int width) {
  const int bval = operand & 31;
  const int cval = kind == ShuffleKind::kUp ? 0 : 31;
  const int segmask = (32 - width) & 31;
  const int max_lane = (lane & segmask) | (cval & ~segmask);
  const int min_lane = lane & segmask;
  int j = 0;
  bool pval = false;
  switch (kind) {
    case ShuffleKind::kUp:
      j = lane - bval;
      pval = j >= max_lane;
      break;
    case ShuffleKind::kDown:
      j = lane + bval;
      pval = j <= max_lane;
      break;
    case ShuffleKind::kXor:
      j = lane ^ bval;
      pval = j <= max_lane;
      break;
    case ShuffleKind::kIndex:
      j = min_lane | (bval & ~segmask);
      pval = j <= max_lane;
      break;
  }
  return pval ? j : lane;
}

template <typename T>
void check_shuffles(T step) {
  const Stream stream;
  std::vector<T> in(kLanes);
  for (int i = 0; i < kLanes; ++i) in[i] = static_cast<T>(i + 1) * step;
  const DeviceArray<T> in_there(stream, in), out(stream, kLanes);
  for (const auto kind :
       {ShuffleKind::kIndex, ShuffleKind::kUp, ShuffleKind::kDown, ShuffleKind::kXor}) {
    for (int width = 1; width <= kLanes; width *= 2) {
      for (const int operand : {0, 1, 2, 3, 7, 8, 13, 16, 17, 30, 31, 33, -1}) {
        shuffle(stream, out.data(), in_there.data(), kind, operand, width);
        const auto result = out.fetch();
        for (int lane = 0; lane < kLanes; ++lane) {
          INFO("kind " << static_cast<int>(kind) << " width " << width << " operand " << operand
                       << " lane " << lane);
          REQUIRE(result[lane] == in[source_of_shuffle(kind, lane, operand, width)]);
        }
      }
    }
  }
}

std::vector<int> random_values(int count, int low, int high) {
  static std::mt19937 generator(7);
  std::uniform_int_distribution<int> value(low, high);
  std::vector<int> values(count);
  for (int& x : values) x = value(generator);
  return values;
}

constexpr unsigned kMasks[] = {0xFFFFFFFF, 0x0000FFFF, 0xFFFF0000,
                               0x55555555, 0x80000001, 0x00000100};

bool in_mask(unsigned mask, int lane) { return (mask >> lane & 1) != 0; }

}  // namespace

TEST_CASE("shuffles move values as shfl.sync says, for every variant, width and type") {
  check_shuffles<int>(-1000001);
  check_shuffles<float>(0.37F);
  check_shuffles<double>(-1e-300);
  check_shuffles<long long>(0x123456789ABLL);
}

TEST_CASE("a shuffle within a mask reaches the lanes of the mask; others do not take part") {
  const Stream stream;
  const auto in = random_values(kLanes, -99, 99);
  const DeviceArray<int> in_there(stream, in);
  for (const unsigned mask : kMasks) {
    const int source = __builtin_ctz(mask);
    const DeviceArray<int> out(stream, std::vector<int>(kLanes, 12345));
    shuffle_in_mask(stream, out.data(), in_there.data(), mask, source);
    const auto result = out.fetch();
    for (int lane = 0; lane < kLanes; ++lane)
      CHECK(result[lane] == (in_mask(mask, lane) ? in[source] : 12345));
  }
}

TEST_CASE("votes and matches see the lanes of the mask") {
  const Stream stream;
  for (const unsigned mask : kMasks) {
    for (const int high : {0, 1, 3}) {
      const auto in = random_values(kLanes, high == 3 ? 1 : 0, high);
      const DeviceArray<int> in_there(stream, in);
      const DeviceArray<VoteResults> out(stream, kLanes);
      vote(stream, out.data(), in_there.data(), mask);
      const auto result = out.fetch();
      unsigned ballot = 0;
      for (int lane = 0; lane < kLanes; ++lane)
        if (in_mask(mask, lane) && in[lane] != 0) ballot |= 1U << lane;
      for (int lane = 0; lane < kLanes; ++lane) {
        if (!in_mask(mask, lane)) continue;
        unsigned match = 0;
        for (int other = 0; other < kLanes; ++other)
          if (in_mask(mask, other) && in[other] == in[lane]) match |= 1U << other;
        CHECK(result[lane].ballot == ballot);
        CHECK((result[lane].any != 0) == (ballot != 0));
        CHECK((result[lane].all != 0) == (ballot == mask));
        CHECK(result[lane].match == match);
      }
    }
  }
}

TEST_CASE("reductions of a warp") {
  const Stream stream;
  for (const unsigned mask : kMasks) {
    const auto in = random_values(kLanes, std::numeric_limits<int>::min() / 40,
                                  std::numeric_limits<int>::max() / 40);
    ReduceResults expected{
        0, ~0U, 0, ~0U, 0, 0, 0, std::numeric_limits<int>::max(), std::numeric_limits<int>::min()};
    for (int lane = 0; lane < kLanes; ++lane) {
      if (!in_mask(mask, lane)) continue;
      const auto bits = static_cast<unsigned>(in[lane]);
      expected.add += bits;
      expected.min = std::min(expected.min, bits);
      expected.max = std::max(expected.max, bits);
      expected.bit_and &= bits;
      expected.bit_or |= bits;
      expected.bit_xor ^= bits;
      expected.signed_add += in[lane];
      expected.signed_min = std::min(expected.signed_min, in[lane]);
      expected.signed_max = std::max(expected.signed_max, in[lane]);
    }
    const DeviceArray<int> in_there(stream, in);
    const DeviceArray<ReduceResults> out(stream, kLanes);
    reduce(stream, out.data(), in_there.data(), mask);
    const auto result = out.fetch();
    for (int lane = 0; lane < kLanes; ++lane) {
      if (!in_mask(mask, lane)) continue;
      CHECK(result[lane].add == expected.add);
      CHECK(result[lane].min == expected.min);
      CHECK(result[lane].max == expected.max);
      CHECK(result[lane].bit_and == expected.bit_and);
      CHECK(result[lane].bit_or == expected.bit_or);
      CHECK(result[lane].bit_xor == expected.bit_xor);
      CHECK(result[lane].signed_add == expected.signed_add);
      CHECK(result[lane].signed_min == expected.signed_min);
      CHECK(result[lane].signed_max == expected.signed_max);
    }
  }
}

TEST_CASE("__syncwarp orders what the lanes write to shared memory") {
  const Stream stream;
  const auto in = random_values(kLanes, -99, 99);
  const DeviceArray<int> in_there(stream, in), out(stream, kLanes);
  rotate_in_warp(stream, out.data(), in_there.data(), 5);
  const auto result = out.fetch();
  for (int lane = 0; lane < kLanes; ++lane) CHECK(result[lane] == in[(lane + 5) % kLanes]);
}

TEST_CASE("lanes that have exited are missed by nobody whose mask does not name them") {
  const Stream stream;
  const auto in = random_values(kLanes, -99, 99);
  const DeviceArray<int> in_there(stream, in), out(stream, std::vector<int>(kLanes, 7));
  sum_of_even_lanes(stream, out.data(), in_there.data());
  int sum = 0;
  for (int lane = 0; lane < kLanes; lane += 2) sum += in[lane];
  const auto result = out.fetch();
  for (int lane = 0; lane < kLanes; ++lane) CHECK(result[lane] == (lane % 2 == 0 ? sum : 7));
}
