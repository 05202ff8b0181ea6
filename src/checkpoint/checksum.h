// CRC-32C (Castagnoli, RFC 3720): finds every change of up to 32 neighbouring bits, and all but one
// in 2^32 of any others. SHA-256 (FIPS 180-4): tells texts apart for good, but is slower; it is for
// manifests and configurations.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace switchyard {

// Of bytes that follow others whose checksum is `before`.
uint32_t crc32c(std::span<const std::byte> bytes, uint32_t before = 0);

// 64 lower-case hexadecimal digits, as sha256sum prints them.
std::string sha256(std::string_view text);
bool is_sha256(std::string_view text);  // by its looks

}  // namespace switchyard
