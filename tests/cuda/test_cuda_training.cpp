// Whole training steps on one GPU: what the trainer does outside its kernels - uploads, waits,
// collectives of one rank, reading tensors back - holds on a device whose memory the host cannot
// reach.
#include "backend/cuda/cuda_backend.h"
#include "comm/self_communicator.h"
#include "support/catch.h"
#include "support/training_job.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

void check_against_cpu(RunConfig config) {
  const JobOptions options = {.steps = 3, .gradient_steps = {1, 3}};
  SelfCommunicator world("world"), world_of_gpu("world");
  const JobResult on_cpu = run_job(config, world, options);
  CudaBackend backend({});
  world_of_gpu.use(backend);
  const JobResult on_gpu = run_job(config, world_of_gpu, options, &backend);
  std::string where;
  const double difference = worst_difference(on_gpu, on_cpu, where);
  INFO(where);
  CHECK(difference < 1e-9);
}

}  // namespace

TEST_CASE("steps on a GPU are those of the CPU, in f64") {
  const TokenFixture tokens(200, 8, 29);
  RunConfig config = small_job_config(tokens.prefix());
  SECTION("dropless, with everything that layers have") {
    config.moe.num_shared_experts = 1;
    config.moe.input_jitter_eps = 0.01;
    config.model.tie_word_embeddings = true;
    config.data.document_mask = true;
    config.gradient_clipping = 0.5;
    config.activation_checkpointing.policy = RecomputePolicy::kFull;
    check_against_cpu(config);
  }
  SECTION("capacity, biases and groups, two micro-batches, ZeRO-2") {
    config.moe.token_drop_policy = TokenDropPolicy::kCapacity;
    config.moe.router = RouterKind::kSigmoid;
    config.moe.n_group = 2;
    config.moe.router_bias_update_rate = 0.001;
    config.gradient_accumulation_steps = 2;
    config.zero_optimization.stage = 2;
    check_against_cpu(config);
  }
}
