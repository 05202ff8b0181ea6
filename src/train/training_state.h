// TrainingState: everything of a run that is neither tensor nor configuration, and the same on all
// ranks. Trainer holds it; a checkpoint's manifest stores it under "train". The learning rate needs
// no state of its own: it follows `step`; nor do random numbers: they are counted from the seed and
// what they are for.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace switchyard {

// Training samples that were passed over, with the reason.
struct SkippedSamples {
  int64_t first = 0, count = 0;  // sample indices of the training stream
  int64_t step = 0;              // that was about to read them
  std::string reason = {};       // "loss_spike"

  bool operator==(const SkippedSamples&) const = default;
};

struct TrainingState {
  int64_t step = 0;         // steps taken, skipped ones included; the learning rate follows it
  int64_t next_sample = 0;  // of the training stream: first sample of the next step
  int64_t tokens = 0;       // seen in training
  int64_t updates = 0;      // steps that changed the weights: AdamW's t
  int64_t skipped_steps = 0,
          consecutive_skipped_steps = 0;     // loss or gradient not finite, or spike
  std::vector<double> accepted_losses = {};  // window of the loss-spike policy, oldest first
  std::vector<SkippedSamples> skipped_samples = {};

  bool operator==(const TrainingState&) const = default;
};

// Doubles keep every bit.
nlohmann::ordered_json to_json(const TrainingState& state);
// Error (kData), naming `where`, for anything missing, unknown, negative or of the wrong type.
TrainingState training_state_from_json(const nlohmann::ordered_json& json,
                                       const std::string& where);

}  // namespace switchyard
