// CRC-32C (Castagnoli, RFC 3720): finds every change of up to 32 neighbouring bits, and all but one
// in 2^32 of any others.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace switchyard {

// Of bytes that follow others whose checksum is `before`.
uint32_t crc32c(std::span<const std::byte> bytes, uint32_t before = 0);

}  // namespace switchyard
