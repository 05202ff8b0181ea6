#include "core/error.h"
#include "data/tokenizer.h"
#include "support/catch.h"

using namespace switchyard;
using namespace switchyard::test;

TEST_CASE("byte tokenizer: every byte is its own token, and comes back") {
  std::string text;
  for (int byte = 0; byte < 256; ++byte) text.push_back(static_cast<char>(byte));
  const ByteTokenizer tokenizer;
  const std::vector<int32_t> tokens = tokenizer.encode(text);
  REQUIRE(tokens.size() == 256);
  for (int32_t byte = 0; byte < 256; ++byte) CHECK(tokens[static_cast<size_t>(byte)] == byte);
  CHECK(tokenizer.decode(tokens) == text);
  CHECK(tokenizer.encode("").empty());
}

TEST_CASE("byte tokenizer: text of several bytes per character, ends of documents") {
  const ByteTokenizer tokenizer;
  CHECK(tokenizer.encode("\xc3\xa9") == std::vector<int32_t>{0xc3, 0xa9});
  CHECK(tokenizer.end_of_document() == 256);
  CHECK(tokenizer.vocab_size() == 257);
  CHECK(tokenizer.decode(std::vector<int32_t>{'a', 256, 'b', 256}) == "ab");
}

TEST_CASE("byte tokenizer: what is no token is refused") {
  const ByteTokenizer tokenizer;
  for (const int32_t token : {-1, 257, 1 << 20})
    CHECK_THROWS_WITH(tokenizer.decode(std::vector<int32_t>{65, token}),
                      contains_text(std::to_string(token) + " is no token"));
}
