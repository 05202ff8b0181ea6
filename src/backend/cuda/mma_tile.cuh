// Tiles of bf16 matrices in shared memory, and the fragments in them that mma.m16n8k16 multiplies
// (PTX ISA, "Matrix fragments for mma.m16n8k16" and "ldmatrix").
//
// A product sums over terms. An operand lies in memory with consecutive terms either in a row or in
// a column; ldmatrix transposes the second kind on the way to registers. Of a fragment, lane l
// holds rows l / 4 and columns 2 (l % 4), + 1 of each 8x8 matrix.
#pragma once

#include "backend/cuda/device.cuh"
#include "backend/cuda/reduce.cuh"
#include "backend/cuda/storage.cuh"

namespace switchyard::cuda {

enum class Terms { kInRow, kInColumn };

// Rows are padded by 16 bytes: the eight rows that ldmatrix reads at once start in different banks.
template <int kRowsOf, int kColumnsOf>
struct Tile {
  static constexpr int kRows = kRowsOf, kColumns = kColumnsOf;
  static constexpr int kStride = kColumns + 8;
  static constexpr int kBytes = kRows * kStride * 2;
  static_assert(kColumns % 16 == 0 && kBytes % 16 == 0);

  BFloat16* data;

  __device__ explicit Tile(unsigned char* memory) : data(reinterpret_cast<BFloat16*>(memory)) {}
  __device__ BFloat16* at(int row, int column) const { return data + row * kStride + column; }
};

// Starts copying `rows` rows of `columns` elements, a multiple of 8, that are `stride` elements
// apart and aligned to 16 bytes; what is beyond them in the tile becomes zero. The kThreads threads
// of the block call together.
template <int kThreads, typename TileType>
__device__ __forceinline__ void copy_tile(const TileType& tile, const BFloat16* source,
                                          int64_t stride, int rows, int columns) {
  constexpr int kPackets = TileType::kColumns / 8, kRowsAtOnce = kThreads / kPackets;
  static_assert(kThreads % kPackets == 0 && TileType::kRows % kRowsAtOnce == 0);
  const int thread = static_cast<int>(threadIdx.x);
  const int column = thread % kPackets * 8, first_row = thread / kPackets;
  const BFloat16* next = source + first_row * stride + column;
#pragma unroll
  for (int row = first_row; row < first_row + TileType::kRows; row += kRowsAtOnce) {
    const bool valid = row < rows && column < columns;
    cp_async_16(tile.at(row, column), valid ? next : source, valid);
    next += kRowsAtOnce * stride;
  }
}

// Operand a: outputs [output, output + 16) by terms [term, term + 16).
template <Terms kTerms, typename TileType>
__device__ __forceinline__ void load_a(uint32_t (&a)[4], const TileType& tile, int output,
                                       int term) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  if constexpr (kTerms == Terms::kInRow)
    ldmatrix_x4<false>(a, tile.at(output + lane % 16, term + lane / 16 * 8));
  else
    ldmatrix_x4<true>(a, tile.at(term + lane / 16 * 8 + lane % 8, output + lane / 8 % 2 * 8));
}

// Operand b: terms [term, term + 16) by outputs [output, output + 16), as two fragments of 8.
template <Terms kTerms, typename TileType>
__device__ __forceinline__ void load_b(uint32_t (&b)[2][2], const TileType& tile, int term,
                                       int output) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  uint32_t r[4];
  if constexpr (kTerms == Terms::kInRow)
    ldmatrix_x4<false>(r, tile.at(output + lane / 16 * 8 + lane % 8, term + lane / 8 % 2 * 8));
  else
    ldmatrix_x4<true>(r, tile.at(term + lane % 16, output + lane / 16 * 8));
  b[0][0] = r[0];
  b[0][1] = r[1];
  b[1][0] = r[2];
  b[1][1] = r[3];
}

}  // namespace switchyard::cuda
