#include "train/durable_text.h"

#include <span>

#include "checkpoint/storage.h"
#include "checkpoint/temporary_file.h"

namespace switchyard {

void write_durably(const std::string& path, const std::string& text, int writer) {
  Storage storage;
  TemporaryFile file(storage, path, "." + std::to_string(writer) + ".tmp");
  file.write_at(0, std::as_bytes(std::span(text)));
  file.commit();
}

}  // namespace switchyard
