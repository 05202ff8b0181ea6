// TemporaryFile: a file that takes its name when it is complete. Until commit() its name has the
// suffix; then, durably, it is `path`, in place of what was there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "checkpoint/storage.h"

namespace switchyard {

class TemporaryFile {
 public:
  // Replaces what a crash left under the temporary name. Writers at the same time need different
  // suffixes.
  TemporaryFile(Storage& storage, std::string path, const std::string& suffix = ".tmp");
  ~TemporaryFile();  // without commit(): removes the temporary file
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  void write_at(int64_t offset, std::span<const std::byte> bytes) { file_.write_at(offset, bytes); }
  void commit();

 private:
  Storage& storage_;
  std::string path_, temporary_path_;
  OutputFile file_;
  bool committed_ = false;
};

}  // namespace switchyard
