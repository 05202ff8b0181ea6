// Token files in Megatron's format: PREFIX.bin holds the tokens of all documents end to end,
// PREFIX.idx their lengths and places. Little-endian, no padding:
//
//   idx:  "MMIDIDX\0\0"  u64 version = 1  u8 dtype code  u64 sequences N  u64 document indices D
//         i32 lengths[N] (tokens)  i64 pointers[N] (bytes into .bin)  i64 document_indices[D]
//   dtype codes: 1 u8  2 i8  3 i16  4 i32  5 i64  8 u16  (6 f64 and 7 f32 hold no tokens)
//
// document_indices starts with 0 and has one more entry than there are documents; arrays start at
// byte 34 and are unaligned.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace switchyard {

// A file mapped into memory, read-only.
class MappedFile {
 public:
  explicit MappedFile(const std::string& path);  // kData when it cannot be opened
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&&) = delete;
  ~MappedFile();

  const std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  const std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
};

// Writes a pair, one document at a time. Both files get their names in finish() only, the index
// last, so that a run that is killed leaves no pair that is half-written, or half an older one.
// Tokens are u16 when the vocabulary is below 65500, else i32 (as Megatron writes). Errors:
// kStorage.
class TokenFileWriter {
 public:
  TokenFileWriter(std::string prefix, int64_t vocab_size);
  ~TokenFileWriter();
  TokenFileWriter(const TokenFileWriter&) = delete;
  TokenFileWriter& operator=(const TokenFileWriter&) = delete;

  void add_document(std::span<const int32_t> tokens);
  // A long document in pieces: add_tokens() any number of times, then end_document().
  void add_tokens(std::span<const int32_t> tokens);
  void end_document();
  void finish();

  int64_t num_documents() const { return static_cast<int64_t>(lengths_.size()); }
  int64_t num_tokens() const { return num_tokens_; }

 private:
  struct CloseFile {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  using FilePointer = std::unique_ptr<std::FILE, CloseFile>;

  std::string temporary(const char* extension) const { return prefix_ + extension + ".tmp"; }
  void write(std::FILE* file, const void* data, size_t bytes) const;
  void write_index();
  void sync_and_close(FilePointer& file, const char* extension) const;

  std::string prefix_;
  int64_t vocab_size_;
  bool narrow_;  // u16 instead of i32
  FilePointer tokens_file_;
  std::vector<int32_t> lengths_;
  int64_t document_tokens_ = 0, num_tokens_ = 0;
  bool finished_ = false;
};

// Reads a pair. The constructor checks every field of the index against every other and against the
// sizes of both files. Errors (kData) say which file, what was found and what was expected.
class TokenFile {
 public:
  explicit TokenFile(const std::string& prefix);

  int64_t num_tokens() const { return num_tokens_; }
  int64_t num_documents() const { return num_documents_; }
  int32_t token(int64_t index) const;

  // Scans all tokens: the largest must lie in the vocabulary.
  void check_vocabulary(int64_t vocab_size) const;

 private:
  void check_header(const std::string& path);
  void check_sequences(const std::string& path) const;
  void check_documents(const std::string& path) const;

  std::string prefix_;
  MappedFile index_, tokens_;
  uint8_t dtype_code_ = 0;
  int64_t token_bytes_ = 0;
  int64_t num_sequences_ = 0, num_documents_ = 0, num_tokens_ = 0;
};

}  // namespace switchyard
