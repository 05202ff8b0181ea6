// BatchUpload: the micro-batches of a step, copied to the device. Its memory is reused every step.
#pragma once

#include <span>
#include <vector>

#include "backend/backend.h"
#include "data/loader.h"
#include "model/pass.h"

namespace switchyard {

class BatchUpload {
 public:
  // Room for `num_batches` micro-batches of `num_tokens` tokens.
  BatchUpload(Backend& backend, int64_t num_batches, int64_t num_tokens);

  // The returned views are valid until the next call.
  const std::vector<MicroBatch>& upload(std::span<const Batch> batches);

 private:
  MicroBatch upload_one(const Batch& batch, int64_t slot);

  Backend& backend_;
  int64_t num_tokens_;
  Buffer memory_;  // (num_batches, 4, num_tokens) i32
  std::vector<MicroBatch> batches_;
};

}  // namespace switchyard
