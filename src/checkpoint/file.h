// File: an open file that is read, or changed in place, at given offsets. Files that must be there
// as a whole or not at all are written through Storage (storage.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace switchyard {

class File {
 public:
  // Any file that the user named.
  static File open_to_read(const std::string& path);
  static File open_to_change(const std::string& path);  // what it holds stays
  static File open_or_create(
      const std::string& path);  // the same; an empty one where there is none
  // A file of a checkpoint. Error (kData) where there is none, or something else than a file, a
  // symbolic link for one.
  static File open_of_checkpoint(const std::string& path);

  ~File();
  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;

  const std::string& path() const { return path_; }
  int64_t size() const;
  // All of `bytes`. Error (kStorage): the medium failed, or the file is shorter than it was.
  void read_at(int64_t offset, std::span<std::byte> bytes) const;

  // Of a file open_to_change(). Errors: kStorage.
  void write_at(int64_t offset, std::span<const std::byte> bytes);
  void cut_at(int64_t size);  // what comes after is gone
  void sync();                // waits until everything written has reached the disk

 private:
  File(std::string path, int descriptor);

  std::string path_;
  int descriptor_;
};

// The bytes of a file of a checkpoint. Errors: open_of_checkpoint(); kData if there are more than
// `max_bytes`.
std::string read_file_of_checkpoint(const std::string& path, int64_t max_bytes);

}  // namespace switchyard
