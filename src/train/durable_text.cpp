#include "train/durable_text.h"

#include <filesystem>
#include <span>

#include "checkpoint/run_names.h"
#include "checkpoint/storage.h"

namespace switchyard {

void write_durably(const std::string& path, const std::string& text, int writer) {
  const std::string temporary = path + "." + std::to_string(writer) + ".tmp";
  std::error_code ignored;
  std::filesystem::remove(temporary, ignored);  // of a writer that was killed
  Storage storage;
  try {
    OutputFile file(storage, temporary);
    file.append(std::as_bytes(std::span(text)));
    file.sync();
    file.close();
    storage.rename(temporary, path);
    storage.sync_directory(directory_of(path));
  } catch (...) {
    std::filesystem::remove(temporary, ignored);
    throw;
  }
}

}  // namespace switchyard
