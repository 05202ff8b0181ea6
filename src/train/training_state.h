// TrainingState: everything of a run that is neither tensor nor configuration, and the same on all
// ranks. Trainer holds it; a checkpoint's manifest stores it under "train". What else changes from
// step to step follows from it: the learning rate from `step`, AdamW's bias correction from
// `updates`, the jitter's random numbers from `step` and the seed, the order of the data from
// `next_sample` and the seed.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace switchyard {

// Training samples that were passed over, with the reason.
struct SkippedSamples {
  int64_t first = 0, count = 0;  // sample indices of the training stream
  int64_t step = 0;              // that would have read the first
  std::string reason = {};       // "loss_spike"

  bool operator==(const SkippedSamples&) const = default;
};

struct TrainingState {
  int64_t step = 0;           // steps taken: updates + skipped_steps
  int64_t next_sample = 0;    // of the training stream: first sample of the next step
  int64_t tokens = 0;         // seen in training
  int64_t updates = 0;        // steps that changed the weights: AdamW's t
  int64_t skipped_steps = 0;  // loss or gradient not finite, or a loss spike (anomalies.h)
  int64_t consecutive_skipped_steps = 0;             // the latest ones
  std::vector<double> accepted_losses = {};          // of the latest updates, oldest first
  std::vector<SkippedSamples> skipped_samples = {};  // in the order of the stream
  std::string dataset = {};  // Dataset::fingerprint() of the stream that the samples are of

  bool operator==(const TrainingState&) const = default;
};

// The next step begins with sample `until` of the training stream; what lies before is recorded as
// passed over.
void pass_over(TrainingState& state, int64_t until, const std::string& reason);

// Doubles keep every bit.
nlohmann::ordered_json to_json(const TrainingState& state);
// Error (kData), naming `where`, for anything missing, unknown, negative or of the wrong type, and
// for steps that do not add up.
TrainingState training_state_from_json(const nlohmann::ordered_json& json,
                                       const std::string& where);

}  // namespace switchyard
