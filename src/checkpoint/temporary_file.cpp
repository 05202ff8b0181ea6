#include "checkpoint/temporary_file.h"

#include <cstdio>
#include <utility>

#include "checkpoint/run_names.h"

namespace switchyard {
namespace {

std::string without_leftover(std::string temporary_path) {
  std::remove(temporary_path.c_str());
  return temporary_path;
}

}  // namespace

TemporaryFile::TemporaryFile(Storage& storage, std::string path, const std::string& suffix)
    : storage_(storage),
      path_(std::move(path)),
      temporary_path_(without_leftover(path_ + suffix)),
      file_(storage_, temporary_path_) {}

TemporaryFile::~TemporaryFile() {
  if (!committed_) std::remove(temporary_path_.c_str());
}

void TemporaryFile::commit() {
  file_.sync();
  file_.close();
  storage_.rename(temporary_path_, path_);
  committed_ = true;
  storage_.sync_directory(directory_of(path_));
}

}  // namespace switchyard
