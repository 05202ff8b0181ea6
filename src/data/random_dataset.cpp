#include "data/random_dataset.h"

#include <unistd.h>

#include <filesystem>

#include "core/random.h"
#include "data/token_file.h"

namespace switchyard {

namespace fs = std::filesystem;

Dataset random_dataset(const RunConfig& config) {
  const std::string prefix =
      (fs::temp_directory_path() / fmt::format("switchyard-random-{}", getpid())).string();
  const int64_t S = config.data.sequence_length;
  std::vector<int32_t> tokens(static_cast<size_t>((2 * *config.train_batch_size + 2) * S + 1));
  const uint64_t key = random_key(config.training.seed, "random.tokens");
  for (size_t i = 0; i < tokens.size(); ++i)
    tokens[i] =
        static_cast<int32_t>(random_uniform(key, i) * static_cast<double>(config.model.vocab_size));
  TokenFileWriter writer(prefix, config.model.vocab_size);
  writer.add_document(tokens);
  writer.finish();
  Dataset dataset(TokenFile(prefix), S, 0.5, config.training.seed);
  fs::remove(prefix + ".bin");
  fs::remove(prefix + ".idx");
  return dataset;
}

}  // namespace switchyard
