#include "checkpoint/checksum.h"

#include <isa-l/crc.h>

#include <algorithm>

namespace switchyard {

// The library leaves the inversion before and after to its callers, and counts bytes in an int.
uint32_t crc32c(std::span<const std::byte> bytes, uint32_t before) {
  constexpr size_t kMaxBytes = size_t{1} << 30;
  uint32_t crc = ~before;
  while (!bytes.empty()) {
    const auto part = bytes.first(std::min(bytes.size(), kMaxBytes));
    // It only reads; its signature is older than that was worth saying.
    auto* data = const_cast<unsigned char*>(reinterpret_cast<const unsigned char*>(part.data()));
    crc = crc32_iscsi(data, static_cast<int>(part.size()), crc);
    bytes = bytes.subspan(part.size());
  }
  return ~crc;
}

}  // namespace switchyard
