// Token files, byte by byte: what the writer makes is compared with a second writer, below, made
// from the description of Megatron's format; and what the reader refuses, field by field.
#include <filesystem>
#include <fstream>
#include <initializer_list>

#include "data/data_files.h"
#include "data/token_file.h"
#include "support/catch.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

void append_little_endian(std::string& bytes, uint64_t value, int width) {
  for (int i = 0; i < width; ++i) bytes.push_back(static_cast<char>(value >> (8 * i) & 0xff));
}

// The fields of an index file in their order. Those of the default: documents of 3, 0 and 2 u16
// tokens.
struct IndexFields {
  std::string magic = std::string("MMIDIDX\0\0", 9);
  uint64_t version = 1;
  uint8_t dtype_code = 8;
  uint64_t num_sequences = 3, num_document_indices = 4;
  std::vector<int32_t> lengths = {3, 0, 2};
  std::vector<int64_t> pointers = {0, 6, 6};
  std::vector<int64_t> document_indices = {0, 1, 2, 3};

  std::string bytes() const {
    std::string bytes = magic;
    append_little_endian(bytes, version, 8);
    append_little_endian(bytes, dtype_code, 1);
    append_little_endian(bytes, num_sequences, 8);
    append_little_endian(bytes, num_document_indices, 8);
    for (const int32_t length : lengths)
      append_little_endian(bytes, static_cast<uint64_t>(length), 4);
    for (const int64_t pointer : pointers)
      append_little_endian(bytes, static_cast<uint64_t>(pointer), 8);
    for (const int64_t index : document_indices)
      append_little_endian(bytes, static_cast<uint64_t>(index), 8);
    return bytes;
  }
};

std::string token_bytes(const std::vector<int64_t>& tokens, int width) {
  std::string bytes;
  for (const int64_t token : tokens)
    append_little_endian(bytes, static_cast<uint64_t>(token), width);
  return bytes;
}

// A pair on disk.
struct Pair {
  TemporaryDirectory directory;
  std::string prefix = directory.file("tokens");

  Pair(const std::string& index, const std::string& tokens) {
    write_bytes(prefix + ".idx", index);
    write_bytes(prefix + ".bin", tokens);
  }
};

const std::string kFiveTokens = token_bytes({10, 11, 12, 13, 14}, 2);

// The reader refuses the pair with a message that names the file and holds all `texts`.
void check_refused(const std::string& index, const std::string& tokens, const char* extension,
                   std::initializer_list<const char*> texts) {
  const Pair pair(index, tokens);
  const Error error = error_of([&] { TokenFile file(pair.prefix); });
  CHECK(error.code() == ExitCode::kData);
  CHECK_THAT(error.what(), contains_text(pair.prefix + extension));
  for (const char* text : texts) CHECK_THAT(error.what(), contains_text(text));
}

void check_refused(const IndexFields& fields, std::initializer_list<const char*> texts) {
  check_refused(fields.bytes(), kFiveTokens, ".idx", texts);
}

}  // namespace

TEST_CASE("token file: the bytes are Megatron's, u16 below a vocabulary of 65500") {
  const TemporaryDirectory directory;
  const std::string prefix = directory.file("narrow");
  write_token_file(prefix, {{10, 11, 12}, {}, {13, 65'498}}, 65'499);
  CHECK(read_bytes(prefix + ".idx") == IndexFields{}.bytes());
  CHECK(read_bytes(prefix + ".bin") == token_bytes({10, 11, 12, 13, 65'498}, 2));
}

TEST_CASE("token file: the bytes are Megatron's, i32 from a vocabulary of 65500") {
  const TemporaryDirectory directory;
  const std::string prefix = directory.file("wide");
  write_token_file(prefix, {{10, 11, 12}, {}, {13, 65'499}}, 65'500);
  IndexFields fields;
  fields.dtype_code = 4;
  fields.pointers = {0, 12, 12};
  CHECK(read_bytes(prefix + ".idx") == fields.bytes());
  CHECK(read_bytes(prefix + ".bin") == token_bytes({10, 11, 12, 13, 65'499}, 4));
}

TEST_CASE("token file: round trip") {
  const TemporaryDirectory directory;
  for (const int64_t vocab_size : {300, 100'000}) {
    Documents documents;
    for (int32_t i = 0; i < 50; ++i) {
      documents.emplace_back();
      for (int32_t j = 0; j < i * i % 17; ++j) documents.back().push_back((i * 31 + j) % 300);
    }
    if (vocab_size > 65'536) documents[7][0] = 99'999;
    const std::string prefix = directory.file("new/folder/tokens" + std::to_string(vocab_size));
    write_token_file(prefix, documents, vocab_size);
    const TokenFile file(prefix);
    const std::vector<int32_t> stream = concatenated(documents);
    REQUIRE(file.num_tokens() == static_cast<int64_t>(stream.size()));
    CHECK(file.num_documents() == 50);
    for (size_t i = 0; i < stream.size(); ++i)
      REQUIRE(file.token(static_cast<int64_t>(i)) == stream[i]);
    CHECK_NOTHROW(file.check_vocabulary(vocab_size));
  }
}

TEST_CASE("token file: a document in pieces, and no document at all") {
  const TemporaryDirectory directory;
  TokenFileWriter writer(directory.file("pieces"), 100);
  writer.add_tokens(std::vector<int32_t>{1, 2});
  writer.add_tokens(std::vector<int32_t>{});
  writer.add_tokens(std::vector<int32_t>{3});
  writer.end_document();
  writer.finish();
  CHECK(writer.num_documents() == 1);
  CHECK(writer.num_tokens() == 3);
  CHECK(TokenFile(directory.file("pieces")).token(2) == 3);

  write_token_file(directory.file("empty"), {}, 100);
  const TokenFile empty(directory.file("empty"));
  CHECK(empty.num_documents() == 0);
  CHECK(empty.num_tokens() == 0);
}

TEST_CASE("token file: all integer types that the format knows") {
  struct Case {
    uint8_t code;
    int width;
    int64_t token;
  };
  for (const Case c : {Case{1, 1, 200}, Case{2, 1, 100}, Case{3, 2, 30'000}, Case{8, 2, 60'000},
                       Case{4, 4, 2'000'000'000}, Case{5, 8, 2'000'000'000}}) {
    IndexFields fields;
    fields.dtype_code = c.code;
    fields.pointers = {0, 3 * c.width, 3 * c.width};
    const Pair pair(fields.bytes(), token_bytes({1, c.token, 2, 3, 4}, c.width));
    const TokenFile file(pair.prefix);
    CAPTURE(static_cast<int>(c.code));
    CHECK(file.num_tokens() == 5);
    CHECK(file.token(1) == c.token);
    CHECK(file.token(4) == 4);
  }
}

TEST_CASE("token file: documents of several sequences, as other tools write them") {
  IndexFields fields;
  fields.num_document_indices = 3;
  fields.document_indices = {0, 2, 3};
  const Pair pair(fields.bytes(), kFiveTokens);
  CHECK(TokenFile(pair.prefix).num_documents() == 2);
}

TEST_CASE("token file: every corrupt header field is named, with what was found and expected") {
  IndexFields fields;
  SECTION("magic") {
    fields.magic[8] = 'X';
    check_refused(fields, {"00 58", "expected 4d 4d 49 44 49 44 58 00 00", "MMIDIDX"});
  }
  SECTION("version") {
    fields.version = 2;
    check_refused(fields, {"version 2", "expected 1"});
  }
  SECTION("dtype code") {
    for (const int code : {0, 6, 7, 9, 255}) {
      fields.dtype_code = static_cast<uint8_t>(code);
      const std::string found = "dtype code " + std::to_string(code);
      check_refused(fields, {found.c_str(), "expected 1-5 or 8"});
    }
  }
  SECTION("number of sequences") {
    // The last but one multiplies to the right size in 64 bits, were it not refused before.
    for (const uint64_t count : {uint64_t{2}, uint64_t{4}, (uint64_t{1} << 62) + 3, ~uint64_t{0}}) {
      fields.num_sequences = count;
      const std::string found = std::to_string(count) + " sequences";
      check_refused(fields, {"102 bytes", found.c_str(), "4 document indices"});
    }
  }
  SECTION("number of document indices") {
    for (const uint64_t count : {uint64_t{3}, uint64_t{5}, (uint64_t{1} << 61) + 4, ~uint64_t{0}}) {
      fields.num_document_indices = count;
      const std::string found = std::to_string(count) + " document indices";
      check_refused(fields, {"102 bytes", "3 sequences", found.c_str()});
    }
  }
  SECTION("no document index") {
    fields.num_document_indices = 0;
    fields.document_indices = {};
    check_refused(fields, {"0 document indices", "expected one more than documents"});
  }
}

TEST_CASE("token file: every corrupt array is named, with what was found and expected") {
  IndexFields fields;
  SECTION("negative length") {
    fields.lengths = {3, -1, 3};
    check_refused(fields, {"sequence 1 has length -1", "expected 0 or more"});
  }
  SECTION("pointer") {
    fields.pointers[2] = 8;
    check_refused(fields, {"sequence 2 starts at byte 8", "expected 6"});
    fields.pointers[2] = -6;
    check_refused(fields, {"sequence 2 starts at byte -6", "expected 6"});
  }
  SECTION("first document index") {
    fields.document_indices[0] = 1;
    check_refused(fields, {"document index 0 is 1", "expected 0"});
  }
  SECTION("document indices that fall") {
    fields.document_indices = {0, 2, 1, 3};
    check_refused(fields, {"document index 2 is 1", "expected 2 or more"});
  }
  SECTION("last document index") {
    for (const int64_t last : {2, 4}) {
      fields.document_indices[3] = last;
      const std::string found = "last document index is " + std::to_string(last);
      check_refused(fields, {found.c_str(), "expected 3"});
    }
  }
}

TEST_CASE("token file: lengths that do not describe the tokens") {
  IndexFields fields;
  fields.lengths[2] = 3;
  check_refused(fields.bytes(), kFiveTokens, ".bin", {"10 bytes", "expected 12"});
  fields.lengths[2] = 2'000'000'000;
  check_refused(fields.bytes(), kFiveTokens, ".bin", {"10 bytes", "expected 4000000006"});
}

TEST_CASE("token file: truncated, extended and missing files") {
  const std::string index = IndexFields{}.bytes();
  for (size_t bytes = 0; bytes < 34; ++bytes) {
    const std::string found = std::to_string(bytes) + " bytes";
    check_refused(index.substr(0, bytes), kFiveTokens, ".idx", {found.c_str(), "34"});
  }
  for (size_t bytes = 34; bytes < index.size(); ++bytes)
    check_refused(index.substr(0, bytes), kFiveTokens, ".idx", {"truncated"});
  check_refused(index + "m", kFiveTokens, ".idx", {"103 bytes", "sequence modes"});

  for (const size_t bytes : {0, 2, 8})
    check_refused(index, kFiveTokens.substr(0, bytes), ".bin", {"expected 10"});
  check_refused(index, kFiveTokens.substr(0, 9), ".bin", {"9 bytes", "2-byte tokens"});
  check_refused(index, kFiveTokens + "xy", ".bin", {"12 bytes", "expected 10"});

  for (const char* missing : {".idx", ".bin"}) {
    const Pair pair(index, kFiveTokens);
    std::filesystem::remove(pair.prefix + missing);
    const Error error = error_of([&] { TokenFile file(pair.prefix); });
    CHECK(error.code() == ExitCode::kData);
    CHECK_THAT(error.what(), contains_text(pair.prefix + missing) && contains_text("cannot open"));
  }
}

TEST_CASE("token file: ids outside the vocabulary are refused with their place") {
  const auto error_with = [](uint8_t code, int width, int64_t id, int64_t vocab_size) {
    IndexFields fields;
    fields.dtype_code = static_cast<uint8_t>(code);
    fields.pointers = {0, 3 * width, 3 * width};
    const Pair pair(fields.bytes(), token_bytes({1, 2, 3, id, 4}, width));
    return error_of([&] { TokenFile(pair.prefix).check_vocabulary(vocab_size); });
  };
  const Error error = error_with(8, 2, 257, 257);
  CHECK(error.code() == ExitCode::kData);
  CHECK_THAT(error.what(), contains_text("tokens.bin: token 3 has id 257") &&
                               contains_text("model.vocab_size is 257"));
  CHECK(error_with(8, 2, 256, 257).code() == ExitCode::kOk);
  CHECK_THAT(error_with(4, 4, -1, 257).what(), contains_text("token 3 has id -1"));
  // 2^32 + 5 must not be taken for 5.
  CHECK(error_with(5, 8, (int64_t{1} << 32) + 5, 257).code() == ExitCode::kData);
}

TEST_CASE("token file writer: without finish() there is no file, and an older pair stays") {
  const TemporaryDirectory directory;
  const std::string prefix = directory.file("tokens");
  const auto abandon = [&] {
    TokenFileWriter writer(prefix, 100);
    writer.add_document(std::vector<int32_t>{1, 2, 3});
  };
  abandon();
  CHECK(std::filesystem::is_empty(std::filesystem::path(prefix).parent_path()));

  write_token_file(prefix, {{7, 8}}, 100);
  abandon();
  CHECK(TokenFile(prefix).token(1) == 8);
  write_token_file(prefix, {{9}}, 100);
  CHECK(TokenFile(prefix).num_tokens() == 1);
  CHECK_FALSE(std::filesystem::exists(prefix + ".bin.tmp"));
  CHECK_FALSE(std::filesystem::exists(prefix + ".idx.tmp"));
}

TEST_CASE("token file writer: misuse and a full disk") {
  const TemporaryDirectory directory;
  const std::string prefix = directory.file("tokens");
  SECTION("a token outside the vocabulary") {
    TokenFileWriter writer(prefix, 100);
    CHECK_THROWS_WITH(writer.add_tokens(std::vector<int32_t>{100}),
                      contains_text("token 100 outside a vocabulary of 100"));
  }
  SECTION("a document that was not ended") {
    TokenFileWriter writer(prefix, 100);
    writer.add_tokens(std::vector<int32_t>{1});
    CHECK_THROWS_WITH(writer.finish(), contains_text("not ended"));
  }
  SECTION("no place to write") {
    write_bytes(directory.file("file"), "");
    const Error error = error_of([&] { TokenFileWriter writer(directory.file("file/x"), 100); });
    CHECK(error.code() == ExitCode::kStorage);
    CHECK_THAT(error.what(), contains_text(directory.file("file/x.bin.tmp")));
  }
  SECTION("full disk") {
    for (const char* full : {".bin.tmp", ".idx.tmp"}) {
      std::filesystem::create_symlink("/dev/full", prefix + full);
      const Error error = error_of([&] { write_token_file(prefix, {{1, 2, 3}}, 100); });
      CHECK(error.code() == ExitCode::kStorage);
      CHECK_THAT(error.what(), contains_text(prefix) && contains_text("No space left"));
      CHECK(std::filesystem::is_empty(std::filesystem::path(prefix).parent_path()));
    }
  }
}
