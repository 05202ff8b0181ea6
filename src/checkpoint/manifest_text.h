// What the writer and the parser of manifests have in common: a manifest ends in the checksum of
// its bytes, taken as if that checksum were zero.
#pragma once

#include <cstdint>
#include <string>

namespace switchyard {

constexpr const char* kManifestFormat = "switchyard-checkpoint/";
constexpr int kOldestManifestVersion = 1, kManifestVersion = 2;
constexpr const char* kManifestCrcKey = "manifest_crc32c";

// `text` lacks its last line.
std::string with_checksum(std::string text);
// The last line, from the comma before it to the line feed behind it. As long for every checksum.
std::string checksum_ending(uint32_t crc);

}  // namespace switchyard
