// Kernels that do one thing each, for the tests of what CUDA C++ means.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace switchyard::test {

// ---- device_warp.cu: one warp; thread i reads in[i] and writes out[i] ------------------------

enum class ShuffleKind { kIndex, kUp, kDown, kXor };
template <typename T>  // int, float, double, long long
void shuffle(cudaStream_t stream, T* out, const T* in, ShuffleKind kind, int operand, int width);
// By the lanes of `mask` only; the others write nothing.
void shuffle_in_mask(cudaStream_t stream, int* out, const int* in, unsigned mask, int operand);

struct VoteResults {
  unsigned ballot;
  int any, all;
  unsigned match;
};
void vote(cudaStream_t stream, VoteResults* out, const int* in, unsigned mask);

struct ReduceResults {
  unsigned add, min, max, bit_and, bit_or, bit_xor;
  int signed_add, signed_min, signed_max;
};
void reduce(cudaStream_t stream, ReduceResults* out, const int* in, unsigned mask);

// Lanes pass a value on through shared memory, ordered by __syncwarp.
void rotate_in_warp(cudaStream_t stream, int* out, const int* in, int rounds);
// Odd lanes exit first.
void sum_of_even_lanes(cudaStream_t stream, int* out, const int* in);

// ---- device_block.cu -------------------------------------------------------------------------

struct BarrierResults {
  int count, any, all;
};
// `exiting` threads at the end of the block return before the barriers.
void vote_in_block(cudaStream_t stream, BarrierResults* out, const int* in, int threads,
                   int exiting);
// out[block * threads + i] = in[block * threads + threads - 1 - i], through static shared memory.
void reverse_in_block(cudaStream_t stream, int* out, const int* in, int blocks, int threads);
// Inclusive sums in each block, through `threads` ints of dynamic shared memory, two alternating
// halves.
void scan_in_block(cudaStream_t stream, int* out, const int* in, int blocks, int threads);
// Every thread writes its indices and sizes: threadIdx, blockIdx, blockDim, gridDim.
struct Indices {
  unsigned values[12];
};
void write_indices(cudaStream_t stream, Indices* out, dim3 grid, dim3 block);
// Addresses of three static arrays and of the dynamic memory, modulo 128.
void alignments(cudaStream_t stream, int* out);

// Every thread of every block performs every operation once, with its own value.
struct AtomicResults {
  int add, sub, min, max, exchange, compare, winners;
  unsigned bit_and, bit_or, bit_xor, inc, dec;
  unsigned long long wide_add;
  float float_add;
  double double_add;
};
void atomics(cudaStream_t stream, AtomicResults* results, unsigned* returned, int blocks,
             int threads);
// The block that comes last sums up what all have written: __threadfence and an atomic counter.
void sum_by_last_block(cudaStream_t stream, int* sum, int* partial, unsigned* counter,
                       const int* in, int blocks, int threads);

// ---- device_matrix.cu ------------------------------------------------------------------------

// One warp; lane i brings a[4 i ...], b[2 i ...], d[4 i ...] and writes its d back.
void multiply_fragments(cudaStream_t stream, float* d, const uint32_t* a, const uint32_t* b);
// Four 8x8 matrices of 16 bits, each by rows; lane i writes out[4 i ...].
void load_matrices(cudaStream_t stream, uint32_t* out, const uint16_t* matrices, bool transpose);
// By 64 threads: copies `rows` rows of 16 bytes for each, two in flight; rows from `valid` on
// become zeros and are not read.
void copy_through_shared(cudaStream_t stream, uint4* out, const uint4* in, int rows, int valid);

// ---- device_engine.cu ------------------------------------------------------------------------

// Every thread takes the next number before a barrier, and another one after it.
void take_numbers(cudaStream_t stream, int* before, int* after, int* counter, int blocks,
                  int threads);
// nothing_kernel<BFloat16, 3> on 2 blocks of 40, nothing_kernel<double, 4> on 6 blocks of 120.
void launch_templates(cudaStream_t stream);
// What 100 ints of static and 100 of dynamic shared memory hold when a block begins.
void read_new_shared_memory(cudaStream_t stream, int* out, int blocks);
void count_threads(cudaStream_t stream, int* count, dim3 grid, dim3 block);

}  // namespace switchyard::test
