// `switchyard generate`: samples text from the weights of a finished run. Runs on one rank.
#pragma once

#include <string>

#include "generate/generator.h"

namespace switchyard {

struct GenerateOptions {
  std::string run_directory;
  std::string prompt;
  SamplingOptions sampling;
  int num_threads = 0;
};

int run_generate(const GenerateOptions& options);

}  // namespace switchyard
