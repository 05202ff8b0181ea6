#include "data/token_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <limits>
#include <utility>

#include "core/error.h"

namespace switchyard {
namespace {

constexpr char kMagic[9] = {'M', 'M', 'I', 'D', 'I', 'D', 'X', '\0', '\0'};
constexpr int64_t kHeaderBytes = 34;
constexpr int64_t kNarrowVocabulary = 65500;

template <typename T>
T read_unaligned(const std::byte* data) {
  T value;
  std::memcpy(&value, data, sizeof(T));
  return value;
}

int64_t bytes_of_code(uint8_t code) {
  switch (code) {
    case 1:
    case 2:
      return 1;
    case 3:
    case 8:
      return 2;
    case 4:
      return 4;
    case 5:
      return 8;
    default:
      return 0;
  }
}

}  // namespace

MappedFile::MappedFile(const std::string& path) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  SY_REQUIRE(kData, descriptor >= 0, "{}: cannot open: {} (switchyard prepare makes token files)",
             path, std::strerror(errno));
  struct stat status = {};
  const bool known = fstat(descriptor, &status) == 0;
  bytes_ = known ? status.st_size : 0;
  void* memory =
      bytes_ > 0 ? mmap(nullptr, static_cast<size_t>(bytes_), PROT_READ, MAP_SHARED, descriptor, 0)
                 : nullptr;
  close(descriptor);
  SY_REQUIRE(kData, known && memory != MAP_FAILED, "{}: cannot map: {}", path,
             std::strerror(errno));
  data_ = static_cast<const std::byte*>(memory);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_) {}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<std::byte*>(data_), static_cast<size_t>(bytes_));
}

TokenFileWriter::TokenFileWriter(std::string prefix, int64_t vocab_size)
    : prefix_(std::move(prefix)), vocab_size_(vocab_size), narrow_(vocab_size < kNarrowVocabulary) {
  const std::filesystem::path directory = std::filesystem::path(prefix_).parent_path();
  std::error_code failure;
  if (!directory.empty()) std::filesystem::create_directories(directory, failure);
  tokens_file_.reset(std::fopen(temporary(".bin").c_str(), "wb"));
  SY_REQUIRE(kStorage, tokens_file_ != nullptr, "{}: cannot create: {}", temporary(".bin"),
             std::strerror(errno));
}

TokenFileWriter::~TokenFileWriter() {
  if (finished_) return;
  tokens_file_.reset();
  std::remove(temporary(".bin").c_str());
  std::remove(temporary(".idx").c_str());
}

void TokenFileWriter::add_document(std::span<const int32_t> tokens) {
  add_tokens(tokens);
  end_document();
}

void TokenFileWriter::add_tokens(std::span<const int32_t> tokens) {
  std::vector<uint16_t> narrow;
  for (const int32_t token : tokens) {
    SY_CHECK(token >= 0 && token < vocab_size_, "token {} outside a vocabulary of {}", token,
             vocab_size_);
    if (narrow_) narrow.push_back(static_cast<uint16_t>(token));
  }
  if (narrow_)
    write(tokens_file_.get(), narrow.data(), narrow.size() * sizeof(uint16_t));
  else
    write(tokens_file_.get(), tokens.data(), tokens.size_bytes());
  document_tokens_ += static_cast<int64_t>(tokens.size());
}

void TokenFileWriter::end_document() {
  SY_REQUIRE(kData, document_tokens_ <= std::numeric_limits<int32_t>::max(),
             "document {} has {} tokens; the format allows {}: split the input into several files",
             lengths_.size(), document_tokens_, std::numeric_limits<int32_t>::max());
  lengths_.push_back(static_cast<int32_t>(document_tokens_));
  num_tokens_ += std::exchange(document_tokens_, 0);
}

void TokenFileWriter::finish() {
  SY_CHECK(document_tokens_ == 0, "{}: the last document was not ended", prefix_);
  write_index();
  sync_and_close(tokens_file_, ".bin");
  // Without an index nobody takes the new tokens for those that an older index describes.
  const std::string index = prefix_ + ".idx";
  SY_REQUIRE(kStorage, unlink(index.c_str()) == 0 || errno == ENOENT, "{}: cannot replace: {}",
             index, std::strerror(errno));
  for (const char* extension : {".bin", ".idx"}) {
    const std::string path = prefix_ + extension;
    SY_REQUIRE(kStorage, std::rename(temporary(extension).c_str(), path.c_str()) == 0,
               "{}: cannot rename to {}: {}", temporary(extension), path, std::strerror(errno));
  }
  finished_ = true;
}

void TokenFileWriter::write(std::FILE* file, const void* data, size_t bytes) const {
  SY_REQUIRE(kStorage, bytes == 0 || std::fwrite(data, 1, bytes, file) == bytes,
             "{}: writing failed: {}", prefix_, std::strerror(errno));
}

void TokenFileWriter::write_index() {
  FilePointer file(std::fopen(temporary(".idx").c_str(), "wb"));
  SY_REQUIRE(kStorage, file != nullptr, "{}: cannot create: {}", temporary(".idx"),
             std::strerror(errno));
  const auto put = [&](auto value) { write(file.get(), &value, sizeof(value)); };
  write(file.get(), kMagic, sizeof(kMagic));
  put(uint64_t{1});
  put(static_cast<uint8_t>(narrow_ ? 8 : 4));
  put(static_cast<uint64_t>(lengths_.size()));
  put(static_cast<uint64_t>(lengths_.size() + 1));
  write(file.get(), lengths_.data(), lengths_.size() * sizeof(int32_t));
  int64_t pointer = 0;
  for (const int32_t length : lengths_) {
    put(pointer);
    pointer += int64_t{length} * (narrow_ ? 2 : 4);
  }
  for (size_t document = 0; document <= lengths_.size(); ++document)
    put(static_cast<int64_t>(document));
  sync_and_close(file, ".idx");
}

void TokenFileWriter::sync_and_close(FilePointer& file, const char* extension) const {
  const bool written = std::fflush(file.get()) == 0 && fsync(fileno(file.get())) == 0;
  SY_REQUIRE(kStorage, written && std::fclose(file.release()) == 0, "{}: writing failed: {}",
             temporary(extension), std::strerror(errno));
}

TokenFile::TokenFile(const std::string& prefix)
    : prefix_(prefix), index_(prefix + ".idx"), tokens_(prefix + ".bin") {
  const std::string path = prefix + ".idx";
  check_header(path);
  check_sequences(path);
  check_documents(path);
}

void TokenFile::check_header(const std::string& path) {
  SY_REQUIRE(kData, index_.bytes() >= kHeaderBytes, "{}: {} bytes, shorter than a header of {}",
             path, index_.bytes(), kHeaderBytes);
  const std::byte* header = index_.data();
  const auto magic = read_unaligned<std::array<uint8_t, sizeof(kMagic)>>(header);
  SY_REQUIRE(
      kData, std::memcmp(magic.data(), kMagic, sizeof(kMagic)) == 0,
      "{}: starts with bytes {:02x}, expected {:02x} (\"MMIDIDX\"): not a Megatron index file",
      path, fmt::join(magic, " "), fmt::join(kMagic, " "));
  const auto version = read_unaligned<uint64_t>(header + 9);
  SY_REQUIRE(kData, version == 1, "{}: version {}, expected 1", path, version);
  dtype_code_ = read_unaligned<uint8_t>(header + 17);
  token_bytes_ = bytes_of_code(dtype_code_);
  SY_REQUIRE(kData, token_bytes_ > 0, "{}: dtype code {} holds no token ids, expected 1-5 or 8",
             path, dtype_code_);
  const auto sequences = read_unaligned<uint64_t>(header + 18);
  const auto documents = read_unaligned<uint64_t>(header + 26);
  // Counts are checked before they are multiplied, so that nothing can overflow.
  const auto bytes = static_cast<uint64_t>(index_.bytes());
  SY_REQUIRE(kData,
             sequences < bytes && documents < bytes &&
                 kHeaderBytes + 12 * sequences + 8 * documents == bytes,
             "{}: {} bytes, but {} sequences and {} document indices need {} + 12 * {} + 8 * {}: "
             "truncated, or written with sequence modes, which are not supported",
             path, bytes, sequences, documents, kHeaderBytes, sequences, documents);
  SY_REQUIRE(kData, documents >= 1, "{}: 0 document indices, expected one more than documents",
             path);
  num_sequences_ = static_cast<int64_t>(sequences);
  num_documents_ = static_cast<int64_t>(documents) - 1;
  SY_REQUIRE(kData, tokens_.bytes() % token_bytes_ == 0,
             "{}.bin: {} bytes are no whole number of {}-byte tokens", prefix_, tokens_.bytes(),
             token_bytes_);
  num_tokens_ = tokens_.bytes() / token_bytes_;
}

void TokenFile::check_sequences(const std::string& path) const {
  const std::byte* lengths = index_.data() + kHeaderBytes;
  const std::byte* pointers = lengths + 4 * num_sequences_;
  int64_t expected = 0;
  for (int64_t i = 0; i < num_sequences_; ++i) {
    const auto length = read_unaligned<int32_t>(lengths + 4 * i);
    const auto pointer = read_unaligned<int64_t>(pointers + 8 * i);
    SY_REQUIRE(kData, length >= 0, "{}: sequence {} has length {}, expected 0 or more", path, i,
               length);
    SY_REQUIRE(kData, pointer == expected, "{}: sequence {} starts at byte {}, expected {}", path,
               i, pointer, expected);
    expected += length * token_bytes_;
  }
  SY_REQUIRE(kData, expected == tokens_.bytes(), "{}.bin: {} bytes, expected {} as the index says",
             prefix_, tokens_.bytes(), expected);
}

void TokenFile::check_documents(const std::string& path) const {
  const std::byte* indices = index_.data() + kHeaderBytes + 12 * num_sequences_;
  int64_t previous = 0;
  for (int64_t i = 0; i <= num_documents_; ++i) {
    const auto index = read_unaligned<int64_t>(indices + 8 * i);
    SY_REQUIRE(kData, i == 0 ? index == 0 : index >= previous,
               "{}: document index {} is {}, expected {}", path, i, index,
               i == 0 ? "0" : fmt::format("{} or more, as the one before it", previous));
    previous = index;
  }
  SY_REQUIRE(kData, previous == num_sequences_,
             "{}: the last document index is {}, expected {}, the number of sequences", path,
             previous, num_sequences_);
}

int32_t TokenFile::token(int64_t index) const {
  const std::byte* at = tokens_.data() + index * token_bytes_;
  switch (dtype_code_) {
    case 1:
      return read_unaligned<uint8_t>(at);
    case 2:
      return read_unaligned<int8_t>(at);
    case 3:
      return read_unaligned<int16_t>(at);
    case 8:
      return read_unaligned<uint16_t>(at);
    case 4:
      return read_unaligned<int32_t>(at);
    default: {
      const auto wide = read_unaligned<int64_t>(at);  // what does not fit is no token id
      return wide == static_cast<int32_t>(wide) ? static_cast<int32_t>(wide) : -1;
    }
  }
}

void TokenFile::check_vocabulary(int64_t vocab_size) const {
  for (int64_t i = 0; i < num_tokens_; ++i) {
    const int32_t id = token(i);
    SY_REQUIRE(
        kData, id >= 0 && id < vocab_size,
        "{}.bin: token {} has id {}, but model.vocab_size is {}: raise vocab_size, or prepare "
        "the data with the model's tokenizer",
        prefix_, i, id, vocab_size);
  }
}

}  // namespace switchyard
