// Token files and errors for the tests of this folder.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/error.h"
#include "data/dataset.h"
#include "data/token_file.h"
#include "support/temporary_directory.h"

namespace switchyard::test {

using Documents = std::vector<std::vector<int32_t>>;

inline void write_token_file(const std::string& prefix, const Documents& documents,
                             int64_t vocab_size) {
  TokenFileWriter writer(prefix, vocab_size);
  for (const auto& document : documents) writer.add_document(document);
  writer.finish();
}

inline std::vector<int32_t> concatenated(const Documents& documents) {
  std::vector<int32_t> stream;
  for (const auto& document : documents)
    stream.insert(stream.end(), document.begin(), document.end());
  return stream;
}

inline Dataset make_dataset(const TemporaryDirectory& directory, const Documents& documents,
                            int64_t sequence_length, double validation_fraction = 0.25,
                            uint64_t seed = 5) {
  write_token_file(directory.file("tokens"), documents, 60'000);
  return Dataset(TokenFile(directory.file("tokens")), sequence_length, validation_fraction, seed);
}

// What `action` throws.
inline Error error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error;
  }
  return Error(ExitCode::kOk, "nothing was thrown");
}

}  // namespace switchyard::test
