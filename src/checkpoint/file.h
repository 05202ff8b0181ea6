// File: an open file that is read and written at given offsets, with errors (kStorage) that say
// which file, where and why.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace switchyard {

class File {
 public:
  static File open_to_read(const std::string& path);
  static File create(const std::string& path);  // empty, whatever was there before

  ~File();
  File(File&& other) noexcept;
  File& operator=(File&&) = delete;

  int64_t size() const;
  // All of `bytes`.
  void read_at(int64_t offset, std::span<std::byte> bytes) const;
  void write_at(int64_t offset, std::span<const std::byte> bytes);

  // Waits until everything written has reached the disk; then gives the file its name `path`, which
  // may replace an older file, and waits until the name has reached the disk too.
  void commit_as(const std::string& path);

 private:
  File(std::string path, int flags, const char* verb);

  std::string path_;
  int descriptor_;
};

}  // namespace switchyard
