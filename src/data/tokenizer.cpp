#include "data/tokenizer.h"

#include "core/error.h"

namespace switchyard {

std::vector<int32_t> ByteTokenizer::encode(std::string_view text) const {
  std::vector<int32_t> tokens;
  tokens.reserve(text.size());
  for (const char c : text) tokens.push_back(static_cast<uint8_t>(c));
  return tokens;
}

std::string ByteTokenizer::decode(std::span<const int32_t> tokens) const {
  std::string text;
  for (const int32_t token : tokens) {
    if (token == kEndOfDocument) continue;
    SY_REQUIRE(kData, token >= 0 && token < 256, "{} is no token of the byte tokenizer", token);
    text.push_back(static_cast<char>(token));
  }
  return text;
}

}  // namespace switchyard
