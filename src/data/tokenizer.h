// ByteTokenizer: one token per byte, and one that ends a document. Needs no file, loses nothing.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace switchyard {

class ByteTokenizer {
 public:
  static constexpr int32_t kEndOfDocument = 256;
  static constexpr int64_t kVocabSize = 257;

  int64_t vocab_size() const { return kVocabSize; }
  int32_t end_of_document() const { return kEndOfDocument; }

  std::vector<int32_t> encode(std::string_view text) const;
  // End-of-document tokens become nothing.
  std::string decode(std::span<const int32_t> tokens) const;
};

}  // namespace switchyard
