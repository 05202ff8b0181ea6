#include "cuda_emulator/tensor_core.h"

#include <cstring>

#include "engine/machine.h"
#include "engine/warp_operation.h"

namespace cuda_emulator {
namespace {

constexpr unsigned kAllLanes = ~0U;

struct Fragments {
  float* d;
  const uint32_t* a;
  const uint32_t* b;
};

// Two bf16 in a word, the low half first.
void unpack(uint32_t word, float& low, float& high) {
  low = __builtin_bit_cast(float, word << 16);
  high = __builtin_bit_cast(float, word & 0xFFFF0000U);
}

// PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type": with group = lane / 4 and
// pair = 2 (lane % 4), word i of `a` holds columns pair, pair + 1 (+ 8 for i >= 2) of row group (+
// 8 for odd i); word i of `b` holds rows pair, pair + 1 (+ 8 for i = 1) of column group.
void multiply(void* const* of_lane, unsigned) {
  float a[16][16], b[16][8], product[16][8] = {};
  for (int lane = 0; lane < kLanes; ++lane) {
    const auto& mine = *static_cast<const Fragments*>(of_lane[lane]);
    const int group = lane / 4, pair = lane % 4 * 2;
    for (int i = 0; i < 4; ++i) {
      float* target = &a[group + i % 2 * 8][pair + i / 2 * 8];
      unpack(mine.a[i], target[0], target[1]);
    }
    for (int i = 0; i < 2; ++i)
      unpack(mine.b[i], b[pair + i * 8][group], b[pair + i * 8 + 1][group]);
  }
  for (int row = 0; row < 16; ++row)
    for (int k = 0; k < 16; ++k)
      for (int column = 0; column < 8; ++column) product[row][column] += a[row][k] * b[k][column];
  for (int lane = 0; lane < kLanes; ++lane) {
    float* d = static_cast<const Fragments*>(of_lane[lane])->d;
    const int group = lane / 4, pair = lane % 4 * 2;
    for (int i = 0; i < 4; ++i) d[i] += product[group + i / 2 * 8][pair + i % 2];
  }
}

struct Matrices {
  uint32_t* r;
  uint16_t row[8];
};

// Element (row, column) of matrix i, of which lane 8 i + row has brought the row.
uint32_t element(void* const* of_lane, int i, int row, int column) {
  return static_cast<const Matrices*>(of_lane[8 * i + row])->row[column];
}

// Lane 4 row + column / 2 gets elements (row, column) and (row, column + 1), or their mirror
// images.
template <bool kTranspose>
void distribute(void* const* of_lane, unsigned) {
  for (int lane = 0; lane < kLanes; ++lane) {
    const int row = lane / 4, column = lane % 4 * 2;
    for (int i = 0; i < 4; ++i) {
      const uint32_t low =
          kTranspose ? element(of_lane, i, column, row) : element(of_lane, i, row, column);
      const uint32_t high =
          kTranspose ? element(of_lane, i, column + 1, row) : element(of_lane, i, row, column + 1);
      static_cast<const Matrices*>(of_lane[lane])->r[i] = low | high << 16;
    }
  }
}

}  // namespace

void mma_m16n8k16(float* d, const uint32_t* a, const uint32_t* b, const Place& place) {
  Fragments mine{d, a, b};
  warp_operation(kAllLanes, &mine, multiply, place);
}

void check_matrix_row(const void* row, const Place& place) {
  machine.current->place = place;
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0)
    fail("%s: the address %p of a row is not aligned to 16 bytes", place.operation, row);
  if (!is_shared(row, 16))
    fail("%s: %p is not in the shared memory of the block", place.operation, row);
}

void distribute_matrices(uint32_t* r, const MatrixRow& row, bool transpose, const Place& place) {
  Matrices mine{r, {}};
  std::memcpy(mine.row, row.words, sizeof mine.row);
  warp_operation(kAllLanes, &mine, transpose ? distribute<true> : distribute<false>, place);
}

}  // namespace cuda_emulator
