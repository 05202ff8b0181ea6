// mma, ldmatrix and cp.async against their definitions in the PTX manual.
#include <cmath>
#include <cstring>
#include <random>

#include "cuda_emulator/tests/device/device_kernels.h"
#include "cuda_emulator/tests/device/device_memory.h"
#include "support/catch.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

constexpr int kLanes = 32;
std::mt19937 generator(11);

// A number that bf16 represents.
float random_bf16() {
  std::normal_distribution<float> normal;
  const float x = normal(generator);
  uint32_t bits = 0;
  std::memcpy(&bits, &x, 4);
  bits &= 0xFFFF0000U;
  float rounded = 0;
  std::memcpy(&rounded, &bits, 4);
  return rounded;
}
uint32_t bf16_bits(float x) {
  uint32_t bits = 0;
  std::memcpy(&bits, &x, 4);
  return bits >> 16;
}

}  // namespace

TEST_CASE("mma.m16n8k16 multiplies the matrices of its fragments") {
  const Stream stream;
  for (int repetition = 0; repetition < 5; ++repetition) {
    float a[16][16], b[16][8], c[16][8];
    for (auto& row : a)
      for (float& x : row) x = random_bf16();
    for (auto& row : b)
      for (float& x : row) x = random_bf16();
    for (auto& row : c)
      for (float& x : row) x = random_bf16();

    // PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type", element by element.
    std::vector<uint32_t> a_bits(4 * kLanes), b_bits(2 * kLanes);
    std::vector<float> d_values(4 * kLanes);
    for (int lane = 0; lane < kLanes; ++lane) {
      const int group = lane >> 2, in_group = lane % 4;
      for (int i = 0; i < 8; ++i) {
        const int row = i < 2 || (4 <= i && i < 6) ? group : group + 8;
        const int column = i < 4 ? in_group * 2 + (i & 1) : in_group * 2 + (i & 1) + 8;
        a_bits[4 * lane + i / 2] |= bf16_bits(a[row][column]) << (i % 2 * 16);
      }
      for (int i = 0; i < 4; ++i) {
        const int row = i < 2 ? in_group * 2 + (i & 1) : in_group * 2 + (i & 1) + 8;
        b_bits[2 * lane + i / 2] |= bf16_bits(b[row][group]) << (i % 2 * 16);
        d_values[4 * lane + i] = c[i < 2 ? group : group + 8][in_group * 2 + (i & 1)];
      }
    }
    const DeviceArray<uint32_t> a_there(stream, a_bits), b_there(stream, b_bits);
    const DeviceArray<float> d_there(stream, d_values);
    multiply_fragments(stream, d_there.data(), a_there.data(), b_there.data());
    const auto d = d_there.fetch();

    for (int lane = 0; lane < kLanes; ++lane) {
      const int group = lane >> 2, in_group = lane % 4;
      for (int i = 0; i < 4; ++i) {
        const int row = i < 2 ? group : group + 8, column = in_group * 2 + (i & 1);
        double sum = c[row][column], size = std::abs(sum);
        for (int k = 0; k < 16; ++k) {
          const double product = static_cast<double>(a[row][k]) * b[k][column];
          sum += product;
          size += std::abs(product);
        }
        CHECK(std::abs(d[4 * lane + i] - sum) <= size * 1e-6);
      }
    }
  }
}

TEST_CASE("ldmatrix gives row i of a matrix to lanes 4 i ..., two elements each") {
  const Stream stream;
  std::vector<uint16_t> matrices(4 * 8 * 8);
  for (auto& x : matrices) x = static_cast<uint16_t>(generator());
  const DeviceArray<uint16_t> matrices_there(stream, matrices);
  const DeviceArray<uint32_t> out(stream, 4 * kLanes);
  for (const bool transpose : {false, true}) {
    load_matrices(stream, out.data(), matrices_there.data(), transpose);
    const auto r = out.fetch();
    for (int matrix = 0; matrix < 4; ++matrix) {
      for (int row = 0; row < 8; ++row) {
        for (int column = 0; column < 8; ++column) {
          const int lane = row * 4 + column / 2;
          const auto got = static_cast<uint16_t>(r[4 * lane + matrix] >> (column % 2 * 16));
          const int stored = transpose ? column * 8 + row : row * 8 + column;
          REQUIRE(got == matrices[64 * matrix + stored]);
        }
      }
    }
  }
}

TEST_CASE("cp.async brings 16 bytes, or zeros without reading") {
  const Stream stream;
  constexpr int kThreads = 64, kRows = 5;
  for (const int valid : {0, 1, 4, 5}) {
    std::vector<uint4> in(valid * kThreads + 1);  // nothing where nothing is to be read
    for (auto& x : in)
      x = {static_cast<unsigned>(generator()), static_cast<unsigned>(generator()),
           static_cast<unsigned>(generator()), static_cast<unsigned>(generator())};
    const DeviceArray<uint4> in_there(stream, in), out(stream, kRows * kThreads);
    copy_through_shared(stream, out.data(), in_there.data(), kRows, valid);
    const auto result = out.fetch();
    for (int i = 0; i < kRows * kThreads; ++i) {
      const uint4 expected = i < valid * kThreads ? in[i] : uint4{0, 0, 0, 0};
      REQUIRE(std::memcmp(&result[i], &expected, sizeof expected) == 0);
    }
  }
}
