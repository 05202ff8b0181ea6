// `switchyard bench step`: how fast a training step runs, beside what the machine could do: the FMA
// peak measured in the same process, or what the GPU could do in theory. Random tokens, so that no
// data needs preparing.
#pragma once

#include "cli/train.h"

namespace switchyard {

struct BenchOptions {
  ConfigOptions config;
  int warm_up_steps = 3;
  int steps = 20;
};

int run_bench_step(const BenchOptions& options, Communicator& world);

}  // namespace switchyard
