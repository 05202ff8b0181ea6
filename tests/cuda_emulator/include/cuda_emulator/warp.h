// Operations of a warp: the lanes named by a mask wait for each other and exchange bits. Every
// caller must be in its own mask, all must come with the same mask to the same operation, and no
// lane of the mask may have exited.
#pragma once

#include <cstdint>
#include <cstring>

#include "cuda_emulator/place.h"

constexpr int warpSize = 32;

namespace cuda_emulator {

// The bits of lane `source`; all ones (NaN, -1) if it is not in the mask, where CUDA says nothing.
uint64_t shuffle(unsigned mask, uint64_t bits, int source, const Place& place);
int lane();
unsigned ballot(unsigned mask, bool predicate, const Place& place);
// The lanes that came with the same bits.
unsigned match(unsigned mask, uint64_t bits, const Place& place);
// Also orders accesses to memory.
void synchronize_warp(unsigned mask, const Place& place);

enum class Reduction { kAdd, kMin, kMax, kAnd, kOr, kXor };
unsigned reduce(unsigned mask, unsigned value, Reduction reduction, bool is_signed,
                const Place& place);

template <typename T>
uint64_t to_bits(const T& value) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  return bits;
}
template <typename T>
T from_bits(uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

template <typename T>
T shuffle_from(unsigned mask, const T& value, int source, const Place& place) {
  return from_bits<T>(shuffle(mask, to_bits(value), source, place));
}

}  // namespace cuda_emulator

// CUDA C++ Programming Guide, "Warp Shuffle Functions", and PTX ISA, "shfl.sync": a warp is cut
// into segments of `width` lanes; who would read beyond its segment gets its own value (except that
// __shfl_xor_sync may read earlier segments). Of operands the low five bits count.
template <typename T>
inline T __shfl_sync(unsigned mask, T value, int source, int width = warpSize,
                     CUDA_EMULATOR_CALLER) {
  const int segment = ::cuda_emulator::lane() & -width;
  return ::cuda_emulator::shuffle_from(mask, value, segment + (source & (width - 1)),
                                       {"__shfl_sync", file, line});
}
template <typename T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = warpSize,
                        CUDA_EMULATOR_CALLER) {
  const int lane = ::cuda_emulator::lane(), source = lane - static_cast<int>(delta % warpSize);
  return ::cuda_emulator::shuffle_from(mask, value, source < (lane & -width) ? lane : source,
                                       {"__shfl_up_sync", file, line});
}
template <typename T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = warpSize,
                          CUDA_EMULATOR_CALLER) {
  const int lane = ::cuda_emulator::lane(), source = lane + static_cast<int>(delta % warpSize);
  return ::cuda_emulator::shuffle_from(mask, value,
                                       source >= (lane & -width) + width ? lane : source,
                                       {"__shfl_down_sync", file, line});
}
template <typename T>
inline T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = warpSize,
                         CUDA_EMULATOR_CALLER) {
  const int lane = ::cuda_emulator::lane(), source = lane ^ (lane_mask & (warpSize - 1));
  return ::cuda_emulator::shuffle_from(mask, value,
                                       source >= (lane & -width) + width ? lane : source,
                                       {"__shfl_xor_sync", file, line});
}

inline unsigned __ballot_sync(unsigned mask, int predicate, CUDA_EMULATOR_CALLER) {
  return ::cuda_emulator::ballot(mask, predicate != 0, {"__ballot_sync", file, line});
}
inline int __any_sync(unsigned mask, int predicate, CUDA_EMULATOR_CALLER) {
  return ::cuda_emulator::ballot(mask, predicate != 0, {"__any_sync", file, line}) != 0;
}
inline int __all_sync(unsigned mask, int predicate, CUDA_EMULATOR_CALLER) {
  return ::cuda_emulator::ballot(mask, predicate != 0, {"__all_sync", file, line}) == mask;
}
template <typename T>
inline unsigned __match_any_sync(unsigned mask, T value, CUDA_EMULATOR_CALLER) {
  return ::cuda_emulator::match(mask, ::cuda_emulator::to_bits(value),
                                {"__match_any_sync", file, line});
}

inline void __syncwarp(unsigned mask = 0xFFFFFFFFu, CUDA_EMULATOR_CALLER) {
  ::cuda_emulator::synchronize_warp(mask, {"__syncwarp", file, line});
}

#define CUDA_EMULATOR_REDUCE(function, reduction)                                                \
  inline unsigned function(unsigned mask, unsigned value, CUDA_EMULATOR_CALLER) {                \
    return ::cuda_emulator::reduce(mask, value, ::cuda_emulator::Reduction::reduction, false,    \
                                   {#function, file, line});                                     \
  }                                                                                              \
  inline int function(unsigned mask, int value, CUDA_EMULATOR_CALLER) {                          \
    return static_cast<int>(::cuda_emulator::reduce(mask, static_cast<unsigned>(value),          \
                                                    ::cuda_emulator::Reduction::reduction, true, \
                                                    {#function, file, line}));                   \
  }
CUDA_EMULATOR_REDUCE(__reduce_add_sync, kAdd)
CUDA_EMULATOR_REDUCE(__reduce_min_sync, kMin)
CUDA_EMULATOR_REDUCE(__reduce_max_sync, kMax)
CUDA_EMULATOR_REDUCE(__reduce_and_sync, kAnd)
CUDA_EMULATOR_REDUCE(__reduce_or_sync, kOr)
CUDA_EMULATOR_REDUCE(__reduce_xor_sync, kXor)
#undef CUDA_EMULATOR_REDUCE
