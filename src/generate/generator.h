// Generator: samples text from trained weights, on one rank. Each new token runs the model over the
// last `data.sequence_length` tokens (no key/value cache yet).
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "comm/process_grid.h"
#include "config/run_config.h"
#include "model/stage.h"

namespace switchyard {

struct SamplingOptions {
  int64_t max_new_tokens = 200;
  double temperature = 0.8;  // 0: always the most probable token
  uint64_t seed = 1;         // the same seed gives the same text
};

class Generator {
 public:
  // `config` is resolved for one rank; `grid` is that rank; `weights_path` a safetensors file
  // written by save_weights().
  Generator(const RunConfig& config, Backend& backend, const ProcessGrid& grid,
            const std::string& weights_path);

  // Calls `emit` with each new token; stops early at `end_of_document`.
  void generate(std::vector<int32_t> tokens, int32_t end_of_document,
                const SamplingOptions& options, const std::function<void(int32_t)>& emit);

 private:
  std::vector<double> next_token_logits(const std::vector<int32_t>& context);

  const RunConfig& config_;
  Backend& backend_;
  Stage stage_;
  std::vector<Buffer> weights_;
  StatisticsBuffer statistics_;
  Arena activations_, scratch_;
  Stage::Saved saved_;
};

}  // namespace switchyard
