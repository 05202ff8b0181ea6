// TemporaryFile: a file that takes its name when it is complete. Until commit() it is called
// `path`.tmp; then, durably, `path`, in place of what was there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "checkpoint/storage.h"

namespace switchyard {

class TemporaryFile {
 public:
  // Replaces what a crash left as `path`.tmp.
  TemporaryFile(Storage& storage, std::string path);
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
