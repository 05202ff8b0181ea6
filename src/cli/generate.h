// `switchyard generate`: samples text from the weights of a finished run. Runs on one rank.
#pragma once

#include <optional>
#include <string>

#include "config/run_config.h"
#include "generate/generator.h"

namespace switchyard {

struct GenerateOptions {
  std::string run_directory;
  std::string prompt;
  SamplingOptions sampling;
  std::optional<Device> device = {};  // left out: a GPU if there is one, whatever the run had
  int num_threads = 0;
};

int run_generate(const GenerateOptions& options);

}  // namespace switchyard
