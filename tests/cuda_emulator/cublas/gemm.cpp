#include "cublas/gemm.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "engine/engine.h"
#include "runtime/stream.h"

namespace cuda_emulator {
namespace {

constexpr int64_t kRows = 32, kColumns = 4;  // of C at a time
constexpr int64_t kPiece = 256;              // of a sum

float from_bits(uint32_t bits) {
  float x = 0;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

uint32_t bits_of(float x) {
  uint32_t bits = 0;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

// To nearest, ties to even.
uint16_t to_bf16(float x) {
  const uint32_t bits = bits_of(x);
  if (x != x) return 0x7FFF;
  return static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

float round_to_bf16(double x) {
  return from_bits(static_cast<uint32_t>(to_bf16(static_cast<float>(x))) << 16);
}

// To 10 bits of mantissa, ties away from zero.
float to_tf32(float x) {
  constexpr uint32_t kDropped = 13;
  if (x != x || x - x != 0) return x;
  return from_bits((bits_of(x) + (1U << (kDropped - 1))) & ~((1U << kDropped) - 1));
}

template <typename Real>
Real load(const void* values, int64_t i, cudaDataType type) {
  if (type == CUDA_R_64F) return static_cast<Real>(static_cast<const double*>(values)[i]);
  if (type == CUDA_R_32F) return static_cast<Real>(static_cast<const float*>(values)[i]);
  return static_cast<Real>(
      from_bits(static_cast<uint32_t>(static_cast<const uint16_t*>(values)[i]) << 16));
}

template <typename Real>
void store(void* values, int64_t i, cudaDataType type, Real x) {
  if (type == CUDA_R_64F)
    static_cast<double*>(values)[i] = static_cast<double>(x);
  else if (type == CUDA_R_32F)
    static_cast<float*>(values)[i] = static_cast<float>(x);
  else
    static_cast<uint16_t*>(values)[i] = to_bf16(static_cast<float>(x));
}

// Of every column what it holds; between columns there may be other things.
void note(void (*note_access)(const void*, size_t), const Matrix& matrix, const void* memory) {
  if (!under_thread_sanitizer()) return;
  const int64_t width = bytes_of(matrix.type);
  for (int64_t column = 0; column < matrix.columns; ++column)
    note_access(static_cast<const char*>(memory) + column * matrix.leading * width,
                static_cast<size_t>(matrix.rows * width));
}

int64_t padded(int64_t count, int64_t unit) { return (count + unit - 1) / unit * unit; }

// Element (i, p) of `count` by k at [i / kUnit][p][i % kUnit], zeros behind the last i.
template <typename Real, int64_t kUnit>
std::vector<Real> pack(const Matrix& matrix, const void* memory, bool i_is_column, int64_t count,
                       int64_t k, bool tf32) {
  std::vector<Real> packed(static_cast<size_t>(padded(count, kUnit) * k));
  for (int64_t i = 0; i < count; ++i) {
    Real* const target = &packed[static_cast<size_t>(i / kUnit * kUnit * k + i % kUnit)];
    for (int64_t p = 0; p < k; ++p) {
      const int64_t at = i_is_column ? i * matrix.leading + p : p * matrix.leading + i;
      const Real x = load<Real>(memory, at, matrix.type);
      target[p * kUnit] = tf32 ? static_cast<Real>(to_tf32(static_cast<float>(x))) : x;
    }
  }
  return packed;
}

// A tile of kColumns columns by kRows rows.
template <typename Real>
struct Tile {
  Real value[kColumns][kRows] = {};
};

template <typename Real>
Tile<Real> product(const Real* a, const Real* b, int64_t k, bool reduced) {
  Tile<Real> sum;
  for (int64_t begin = 0; begin < k; begin += kPiece) {
    Tile<Real> piece;
    for (int64_t p = begin; p < std::min(k, begin + kPiece); ++p)
      for (int64_t j = 0; j < kColumns; ++j)
        for (int64_t i = 0; i < kRows; ++i)
          piece.value[j][i] += a[p * kRows + i] * b[p * kColumns + j];
    for (int64_t j = 0; j < kColumns; ++j)
      for (int64_t i = 0; i < kRows; ++i) {
        sum.value[j][i] += piece.value[j][i];
        if (reduced) sum.value[j][i] = static_cast<Real>(round_to_bf16(sum.value[j][i]));
      }
  }
  return sum;
}

template <typename Real>
void write_tile(const Gemm& gemm, void* c, int64_t row, int64_t column, const Tile<Real>& tile) {
  const auto alpha = static_cast<Real>(gemm.alpha), beta = static_cast<Real>(gemm.beta);
  for (int64_t j = 0; j < std::min(kColumns, gemm.n - column); ++j)
    for (int64_t i = 0; i < std::min(kRows, gemm.m - row); ++i) {
      const int64_t at = (column + j) * gemm.c.leading + row + i;
      Real x = alpha * tile.value[j][i];
      if (beta != 0) x += beta * load<Real>(c, at, gemm.c.type);
      store(c, at, gemm.c.type, x);
    }
}

template <typename Real>
void multiply_in(const Gemm& gemm, const void* a, const void* b, void* c) {
  const auto packed_a = pack<Real, kRows>(gemm.a, a, gemm.transpose_a, gemm.m, gemm.k, gemm.tf32);
  const auto packed_b =
      pack<Real, kColumns>(gemm.b, b, !gemm.transpose_b, gemm.n, gemm.k, gemm.tf32);
  for (int64_t column = 0; column < gemm.n; column += kColumns)
    for (int64_t row = 0; row < gemm.m; row += kRows)
      write_tile(gemm, c, row, column,
                 product(packed_a.data() + row * gemm.k, packed_b.data() + column * gemm.k, gemm.k,
                         gemm.reduced));
}

}  // namespace

int bytes_of(cudaDataType type) {
  switch (type) {
    case CUDA_R_64F:
      return 8;
    case CUDA_R_32F:
      return 4;
    case CUDA_R_16BF:
      return 2;
    default:
      fail("cuBLAS: matrices of type %d are not emulated", type);
  }
}

size_t extent(const Matrix& matrix) {
  if (matrix.rows == 0 || matrix.columns == 0) return 0;
  return static_cast<size_t>(((matrix.columns - 1) * matrix.leading + matrix.rows) *
                             bytes_of(matrix.type));
}

void multiply(const Gemm& gemm, const void* a, const void* b, void* c) {
  note(note_read, gemm.a, a);
  note(note_read, gemm.b, b);
  note(note_write, gemm.c, c);
  const Unseen unseen;
  if (gemm.c.type == CUDA_R_64F)
    multiply_in<double>(gemm, a, b, c);
  else
    multiply_in<float>(gemm, a, b, c);
}

}  // namespace cuda_emulator
