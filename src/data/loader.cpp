#include "data/loader.h"

#include <algorithm>

#include "core/math.h"

namespace switchyard {

int64_t Batch::num_targets() const {
  return std::count_if(targets.begin(), targets.end(), [](int32_t t) { return t != kIgnored; });
}

Batch Loader::at(int64_t global_sample_index) const {
  const int64_t S = dataset_.sequence_length(), B = options_.micro_batch_size;
  Batch batch{.num_sequences = B,
              .sequence_length = S,
              .first_row = options_.data_parallel_rank * B * S,
              .global_rows = samples_per_micro_batch() * S};
  for (auto* values : {&batch.token_ids, &batch.targets, &batch.positions, &batch.first_visible})
    values->reserve(static_cast<size_t>(B * S));
  for (int64_t i = 0; i < B; ++i) {
    const int64_t index = global_sample_index + options_.data_parallel_rank * B + i;
    const bool is_padding =
        split_ == Split::kValidation && index >= dataset_.num_samples(Split::kValidation);
    append_sample(batch, dataset_.sample(split_, is_padding ? 0 : index), is_padding);
  }
  return batch;
}

void Loader::append_sample(Batch& batch, const std::vector<int32_t>& tokens,
                           bool is_padding) const {
  const auto sequence_begin = static_cast<int32_t>(batch.token_ids.size());
  int32_t document_begin = sequence_begin;  // row in the batch
  for (size_t i = 0; i + 1 < tokens.size(); ++i) {
    const int32_t row = sequence_begin + static_cast<int32_t>(i);
    const bool ends_document = tokens[i] == options_.end_of_document;
    const bool has_no_target = is_padding || (ends_document && options_.eod_mask_loss);
    batch.token_ids.push_back(tokens[i]);
    batch.targets.push_back(has_no_target ? Batch::kIgnored : tokens[i + 1]);
    batch.positions.push_back(row - document_begin);
    batch.first_visible.push_back(document_begin);
    if (ends_document && options_.document_mask) document_begin = row + 1;
  }
}

int64_t Loader::num_global_micro_batches() const {
  return div_up(dataset_.num_samples(split_), samples_per_micro_batch());
}

}  // namespace switchyard
