// Loader: the rows of a micro-batch that belong to this data-parallel rank.
//
// A global micro-batch is micro_batch_size * dp consecutive samples; rank d takes the d-th block of
// micro_batch_size. So which tokens a step sees, and in which order, depends on the sample index
// alone.
#pragma once

#include <cstdint>
#include <vector>

#include "data/dataset.h"

namespace switchyard {

// One micro-batch on this rank, on the host: T = num_sequences * sequence_length rows.
struct Batch {
  static constexpr int32_t kIgnored = -100;  // a target that does not count in the loss

  int64_t num_sequences = 0;
  int64_t sequence_length = 0;
  int64_t first_row = 0;                              // row 0 in the global micro-batch
  int64_t global_rows = 0;                            // of the global micro-batch
  std::vector<int32_t> token_ids = {}, targets = {};  // (T)
  std::vector<int32_t> positions = {};      // (T) in the sequence, or in the document when masked
  std::vector<int32_t> first_visible = {};  // (T) first row of this rank that the row may attend to

  int64_t num_targets() const;  // that count
};

struct LoaderOptions {
  int64_t micro_batch_size = 1;
  int data_parallel_size = 1;
  int data_parallel_rank = 0;
  bool document_mask = false;  // attention and positions start anew after each end of document
  bool eod_mask_loss = false;  // no loss where the input token is the end of a document
  int32_t end_of_document = 256;
};

class Loader {
 public:
  Loader(const Dataset& dataset, Split split, const LoaderOptions& options)
      : dataset_(dataset), split_(split), options_(options) {}

  // The global micro-batch whose first sample is `global_sample_index`. Samples past the end of the
  // validation set are padding: all their targets are ignored.
  Batch at(int64_t global_sample_index) const;

  // Global micro-batches that cover the split once; the last may end in padding.
  int64_t num_global_micro_batches() const;

 private:
  int64_t samples_per_micro_batch() const {
    return options_.micro_batch_size * options_.data_parallel_size;
  }
  void append_sample(Batch& batch, const std::vector<int32_t>& tokens, bool is_padding) const;

  const Dataset& dataset_;
  Split split_;
  LoaderOptions options_;
};

}  // namespace switchyard
