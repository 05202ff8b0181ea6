#include "cli/generate.h"

#include <cstdio>

#include "cli/device.h"
#include "cli/train.h"
#include "comm/self_communicator.h"
#include "data/tokenizer.h"

namespace switchyard {

int run_generate(const GenerateOptions& options) {
  SelfCommunicator world("world");
  // The run's configuration on a grid of one rank: sampling needs no batch and no parallelism.
  RunConfig config = read_config(
      {.path = options.run_directory + "/config.json",
       .overrides = {"parallelism.data_parallel_size=1", "parallelism.tensor_parallel_size=1",
                     "parallelism.pipeline_parallel_size=1", "parallelism.expert_parallel_size=1",
                     "parallelism.expert_tensor_parallel_size=1", "pipeline.virtual_stages=1",
                     "pipeline.layers_per_stage=[]", "train_batch_size=1",
                     "train_micro_batch_size_per_gpu=1", "gradient_accumulation_steps=1"}},
      world);
  config.device = options.device;
  const DeviceOfRank device(config, options.num_threads, world);
  const ProcessGrid grid(device.world(), GridSizes{}, &device.backend());
  Generator generator(config, device.backend(), grid, options.run_directory + "/model.safetensors");

  const ByteTokenizer tokenizer;
  std::fputs(options.prompt.c_str(), stdout);
  generator.generate(tokenizer.encode(options.prompt), tokenizer.end_of_document(),
                     options.sampling, [&](int32_t token) {
                       std::fputs(tokenizer.decode({&token, 1}).c_str(), stdout);
                       std::fflush(stdout);
                     });
  std::fputs("\n", stdout);
  return 0;
}

}  // namespace switchyard
