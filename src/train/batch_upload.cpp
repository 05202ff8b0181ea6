#include "train/batch_upload.h"

namespace switchyard {

BatchUpload::BatchUpload(Backend& backend, int64_t num_batches, int64_t num_tokens)
    : backend_(backend),
      num_tokens_(num_tokens),
      memory_(backend, num_batches * 4 * num_tokens * static_cast<int64_t>(sizeof(int32_t))) {}

const std::vector<MicroBatch>& BatchUpload::upload(std::span<const Batch> batches) {
  batches_.clear();
  for (size_t i = 0; i < batches.size(); ++i)
    batches_.push_back(upload_one(batches[i], static_cast<int64_t>(i)));
  return batches_;
}

MicroBatch BatchUpload::upload_one(const Batch& batch, int64_t slot) {
  SY_CHECK(batch.num_sequences * batch.sequence_length == num_tokens_,
           "a batch of {} x {} tokens in a slot of {}", batch.num_sequences, batch.sequence_length,
           num_tokens_);
  const int64_t slots = memory_.bytes() / static_cast<int64_t>(sizeof(int32_t)) / num_tokens_;
  Tensor rows = memory_.tensor(DType::kI32, {slots, num_tokens_}).rows(4 * slot, 4);
  const Queue queue = backend_.compute_queue();
  const auto copy = [&](int64_t row, const std::vector<int32_t>& host) {
    Tensor device = rows.rows(row, 1).flat();
    backend_.upload(queue, device, host.data());
    return device;
  };
  return MicroBatch{.num_sequences = batch.num_sequences,
                    .sequence_length = batch.sequence_length,
                    .first_row = batch.first_row,
                    .global_rows = batch.global_rows,
                    .token_ids = copy(0, batch.token_ids),
                    .targets = copy(1, batch.targets),
                    .positions = copy(2, batch.positions),
                    .first_visible = copy(3, batch.first_visible)};
}

}  // namespace switchyard
