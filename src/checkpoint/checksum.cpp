#include "checkpoint/checksum.h"

#include <fmt/format.h>
#include <isa-l/crc.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <string_view>

#include "core/error.h"

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

std::string sha256(std::string_view text) {
  constexpr size_t kBytes = 32;
  std::array<unsigned char, kBytes> digest = {};
  unsigned int length = 0;
  // Without this, its first use reads the file that OPENSSL_CONF names, or the machine's.
  SY_CHECK(OPENSSL_init_crypto(OPENSSL_INIT_NO_LOAD_CONFIG, nullptr) == 1 &&
               EVP_Digest(text.data(), text.size(), digest.data(), &length, EVP_sha256(),
                          nullptr) == 1 &&
               length == kBytes,
           "libcrypto computes no SHA-256");
  std::string hex;
  for (const unsigned char byte : digest) hex += fmt::format("{:02x}", byte);
  return hex;
}

bool is_sha256(std::string_view text) {
  constexpr size_t kDigits = 64;
  return text.size() == kDigits && text.find_first_not_of("0123456789abcdef") == text.npos;
}

}  // namespace switchyard
