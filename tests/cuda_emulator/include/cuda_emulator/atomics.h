// Atomic operations. Blocks and threads take turns on one host thread, but pinned memory is shared
// with the host, and ThreadSanitizer must see that these accesses are atomic: relaxed, as on a GPU,
// so that they order nothing else.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda_emulator/warp.h"

namespace cuda_emulator {

template <typename T>
using BitsOf = std::conditional_t<sizeof(T) == 8, uint64_t,
                                  std::conditional_t<sizeof(T) == 4, uint32_t, uint16_t>>;

// *address = change(*address); returns what was there before.
template <typename T, typename Change>
T atomically(T* address, const Change& change) {
  static_assert(sizeof(T) == 8 || sizeof(T) == 4 || sizeof(T) == 2);
  auto* bits = reinterpret_cast<BitsOf<T>*>(address);
  BitsOf<T> old_bits = __atomic_load_n(bits, __ATOMIC_RELAXED);
  for (;;) {
    const T old_value = from_bits<T>(old_bits);
    const auto new_bits = static_cast<BitsOf<T>>(to_bits(static_cast<T>(change(old_value))));
    if (__atomic_compare_exchange_n(bits, &old_bits, new_bits, false, __ATOMIC_RELAXED,
                                    __ATOMIC_RELAXED))
      return old_value;
  }
}

}  // namespace cuda_emulator

template <typename T>
inline T atomicAdd(T* address, std::type_identity_t<T> value) {
  return ::cuda_emulator::atomically(address, [=](T old) { return old + value; });
}
template <typename T>
inline T atomicSub(T* address, std::type_identity_t<T> value) {
  return ::cuda_emulator::atomically(address, [=](T old) { return old - value; });
}
template <typename T>
inline T atomicMin(T* address, std::type_identity_t<T> value) {
  return ::cuda_emulator::atomically(address, [=](T old) { return value < old ? value : old; });
}
template <typename T>
inline T atomicMax(T* address, std::type_identity_t<T> value) {
  return ::cuda_emulator::atomically(address, [=](T old) { return old < value ? value : old; });
}
template <typename T>
inline T atomicAnd(T* address, std::type_identity_t<T> value) {
  return ::cuda_emulator::atomically(address, [=](T old) { return old & value; });
}
template <typename T>
inline T atomicOr(T* address, std::type_identity_t<T> value) {
  return ::cuda_emulator::atomically(address, [=](T old) { return old | value; });
}
template <typename T>
inline T atomicXor(T* address, std::type_identity_t<T> value) {
  return ::cuda_emulator::atomically(address, [=](T old) { return old ^ value; });
}
template <typename T>
inline T atomicExch(T* address, std::type_identity_t<T> value) {
  return ::cuda_emulator::atomically(address, [=](T) { return value; });
}
template <typename T>
inline T atomicCAS(T* address, std::type_identity_t<T> compare, std::type_identity_t<T> value) {
  return ::cuda_emulator::atomically(address, [=](T old) { return old == compare ? value : old; });
}
// Counts up to `last`, then starts again at zero; and down from it.
inline unsigned atomicInc(unsigned* address, unsigned last) {
  return ::cuda_emulator::atomically(address,
                                     [=](unsigned old) { return old >= last ? 0 : old + 1; });
}
inline unsigned atomicDec(unsigned* address, unsigned last) {
  return ::cuda_emulator::atomically(
      address, [=](unsigned old) { return old == 0 || old > last ? last : old - 1; });
}
