// Dataset: the documents of a token file packed into sequences. The token stream is all documents
// end to end; sample j is its tokens [j*S, j*S + S], one more than a sequence, so that every token
// of the sequence has a target. The last incomplete sample is left out.
//
// The first part of the stream is for training, the end (`validation_fraction`) for validation.
// Training samples are shuffled anew in each epoch by a permutation that is a function of the seed
// and the epoch: the position in the data is one number, the global sample index.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config/run_config.h"
#include "data/token_file.h"

namespace switchyard {

enum class Split { kTrain, kValidation };

class Dataset {
 public:
  // Errors (kData): too few tokens for one sample of each part.
  Dataset(TokenFile file, int64_t sequence_length, double validation_fraction, uint64_t seed);

  int64_t sequence_length() const { return sequence_length_; }
  int64_t num_samples(Split split) const {
    return split == Split::kTrain ? num_train_ : num_samples_ - num_train_;
  }

  // The S + 1 tokens of global sample `index`. Training goes on into further epochs; validation has
  // num_samples() samples, in order.
  std::vector<int32_t> sample(Split split, int64_t index) const;

  // The stream, for baselines: training is tokens [0, num_train_tokens()), validation the rest.
  int32_t token(int64_t index) const { return file_.token(index); }
  int64_t num_train_tokens() const { return num_train_ * sequence_length_; }
  int64_t num_tokens() const { return num_samples_ * sequence_length_ + 1; }

  // "1115394 tokens, 3f9a...": differs for token files that differ in length, or in any of some
  // thousand tokens from all over: other text, or the same in another order.
  std::string fingerprint() const;

 private:
  TokenFile file_;
  int64_t sequence_length_;
  uint64_t seed_;
  int64_t num_samples_ = 0, num_train_ = 0;
};

// The dataset that a resolved configuration describes; checks every token against the vocabulary.
Dataset open_dataset(const RunConfig& config);

}  // namespace switchyard
