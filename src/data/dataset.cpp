#include "data/dataset.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "core/error.h"
#include "core/random.h"

namespace switchyard {

Dataset::Dataset(TokenFile file, int64_t sequence_length, double validation_fraction, uint64_t seed)
    : file_(std::move(file)), sequence_length_(sequence_length), seed_(seed) {
  num_samples_ = std::max<int64_t>(0, file_.num_tokens() - 1) / sequence_length;
  const auto num_validation =
      static_cast<int64_t>(std::ceil(validation_fraction * static_cast<double>(num_samples_)));
  num_train_ = num_samples_ - num_validation;
  SY_REQUIRE(
      kData, num_train_ >= 1 && num_validation >= 1,
      "{} tokens make {} samples of {} tokens, of which data.validation_fraction {} leaves {} "
      "for training and {} for validation; both need at least one: use more text, or a "
      "shorter data.sequence_length",
      file_.num_tokens(), num_samples_, sequence_length, validation_fraction, num_train_,
      num_validation);
}

std::vector<int32_t> Dataset::sample(Split split, int64_t index) const {
  SY_CHECK(index >= 0, "sample {}", index);
  int64_t position = num_train_ + index;
  if (split == Split::kTrain) {
    const auto size = static_cast<uint64_t>(num_train_), i = static_cast<uint64_t>(index);
    const uint64_t key = random_key(random_key(seed_, "data.shuffle"), std::to_string(i / size));
    position = static_cast<int64_t>(random_permutation(key, i % size, size));
  }
  SY_CHECK(position < num_samples_, "sample {} of {}", position, num_samples_);
  std::vector<int32_t> tokens(static_cast<size_t>(sequence_length_ + 1));
  for (size_t i = 0; i < tokens.size(); ++i)
    tokens[i] = file_.token(position * sequence_length_ + static_cast<int64_t>(i));
  return tokens;
}

std::string Dataset::fingerprint() const {
  constexpr int64_t kMostTokens = 4096;
  const int64_t total = file_.num_tokens(), stride = std::max<int64_t>(1, total / kMostTokens);
  uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
  for (int64_t i = 0; i < total; i += stride) {
    hash ^= static_cast<uint32_t>(file_.token(i));
    hash *= 0x100000001b3;
  }
  return fmt::format("{} tokens, {:016x}", total, hash);
}

Dataset open_dataset(const RunConfig& config) {
  TokenFile file(config.data.path);
  file.check_vocabulary(config.model.vocab_size);
  return Dataset(std::move(file), config.data.sequence_length, config.data.validation_fraction,
                 config.training.seed);
}

}  // namespace switchyard
