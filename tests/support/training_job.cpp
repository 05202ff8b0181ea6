#include "support/training_job.h"

#include <algorithm>
#include <cmath>
#include <mutex>

#include "comm/thread_communicator.h"
#include "config/config.h"
#include "core/random.h"
#include "data/dataset.h"
#include "data/token_file.h"
#include "train/global_tensors.h"
#include "verify/checks.h"

namespace switchyard::test {

TokenFixture::TokenFixture(int64_t num_sequences, int64_t sequence_length, int64_t vocab_size) {
  const auto end_of_document = static_cast<int32_t>(vocab_size - 1);
  const uint64_t key = random_key(11, "tokens");
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < num_sequences * sequence_length + 1; ++i) {
    const double u = random_uniform(key, static_cast<uint64_t>(i));
    const bool end = (i / sequence_length) % 7 == 3 || i % 13 == 12;
    // Squared: some tokens are frequent, so that there is something to learn.
    tokens.push_back(end ? end_of_document
                         : static_cast<int32_t>(u * u * static_cast<double>(vocab_size - 1)));
  }
  TokenFileWriter writer(prefix(), vocab_size);
  writer.add_document(tokens);
  writer.finish();
}

RunConfig small_job_config(const std::string& data_prefix, int64_t vocab_size) {
  RunConfig config;
  config.fp64.enabled = true;
  config.train_batch_size = 8;
  config.gradient_accumulation_steps = 1;
  config.model = {.vocab_size = vocab_size,
                  .hidden_size = 16,
                  .num_hidden_layers = 3,
                  .num_attention_heads = 8,
                  .num_key_value_heads = 2,
                  .head_dim = 2,
                  .intermediate_size = 24,
                  .moe_intermediate_size = 16,
                  .initializer_range = 0.2};
  config.moe.enabled = true;
  config.moe.num_experts = 8;
  config.moe.layer_freq = {1, 0, 1};
  config.moe.load_balancing_loss_coef = 0.05;
  config.moe.z_loss_coef = 0.01;
  config.moe.min_capacity = 1;
  config.data.path = data_prefix;
  config.data.sequence_length = 8;
  config.data.eod_mask_loss = true;
  config.data.eod_token_id = static_cast<int32_t>(vocab_size - 1);
  config.data.validation_fraction = 0.1;
  config.optimizer.params = {.lr = 1e-2, .weight_decay = 0.1};
  config.training.num_threads = 1;
  return config;
}

TrainerOnRank::TrainerOnRank(RunConfig unresolved, Communicator& world, Backend* on)
    : config((resolve(unresolved, world.size()), std::move(unresolved))),
      own_backend(on == nullptr ? std::make_unique<CpuBackend>(config.training.num_threads)
                                : nullptr),
      backend(on == nullptr ? *own_backend : *on),
      grid(world, grid_sizes(config), &backend),
      dataset(open_dataset(config)),
      trainer(config, backend, grid, dataset) {}

JobResult run_job(RunConfig config, Communicator& world, const JobOptions& options, Backend* on) {
  TrainerOnRank on_rank(std::move(config), world, on);
  Trainer& trainer = on_rank.trainer;
  trainer.set_routing_log(options.routing);

  JobResult result;
  const auto keep = [&](const GlobalTensors& tensors) {
    if (tensors.copy_difference > result.copy_difference) {
      result.copy_difference = tensors.copy_difference;
      result.copy_difference_in = tensors.copy_difference_in;
    }
    return tensors.values;
  };
  while (trainer.step() < options.steps) {
    const StepReport report = trainer.train_step();
    result.lm_loss.push_back(report.lm_loss);
    result.load_balancing_loss.push_back(report.moe.load_balancing_loss);
    result.z_loss.push_back(report.moe.z_loss);
    result.grad_norm.push_back(report.grad_norm);
    for (const MoeLayerStatistics& layer : report.moe.layers)
      result.router_entropy.push_back(layer.router_entropy);
    result.dropped_fraction.push_back(report.moe.dropped_fraction);
    if (std::count(options.gradient_steps.begin(), options.gradient_steps.end(), report.step) > 0)
      result.gradients[report.step] =
          keep(gather_global_tensors(trainer.parameters(), world, [&](const Parameter& parameter) {
            return trainer.optimizer().gradient_of(parameter);
          }));
  }
  result.weights =
      keep(gather_global_tensors(trainer.parameters(), world, [&](const Parameter& parameter) {
        return trainer.optimizer().weight_of(parameter);
      }));
  result.state = keep(gather_global_state(trainer.state(), on_rank.backend, world));
  return result;
}

JobResult run_job_on_threads(const RunConfig& config, int num_ranks, const JobOptions& options,
                             const std::function<Communicator&(Communicator&)>& wrap) {
  JobResult result;
  std::mutex mutex;
  run_ranks(num_ranks, [&](Communicator& world) {
    JobResult mine = run_job(config, wrap ? wrap(world) : world, options);
    if (world.rank() != 0) return;
    const std::scoped_lock lock(mutex);
    result = std::move(mine);
  });
  return result;
}

double relative_difference(const std::vector<double>& a, const std::vector<double>& b) {
  return max_difference(a, b, true);
}

double worst_difference(const JobResult& job, const JobResult& reference, std::string& where) {
  double worst = -1;
  const auto compare = [&](const std::string& name, const std::vector<double>& a,
                           const std::vector<double>& b) {
    const double difference = relative_difference(a, b);
    if (difference <= worst) return;
    worst = difference;
    where = name;
  };
  compare("lm_loss", job.lm_loss, reference.lm_loss);
  compare("load_balancing_loss", job.load_balancing_loss, reference.load_balancing_loss);
  compare("z_loss", job.z_loss, reference.z_loss);
  compare("grad_norm", job.grad_norm, reference.grad_norm);
  compare("router_entropy", job.router_entropy, reference.router_entropy);
  compare("dropped_fraction", job.dropped_fraction, reference.dropped_fraction);
  for (const auto& [step, gradients] : reference.gradients)
    for (const auto& [name, values] : gradients)
      compare(fmt::format("gradient of {} at step {}", name, step), job.gradients.at(step).at(name),
              values);
  for (const auto& [name, values] : reference.weights)
    compare("final " + name, job.weights.at(name), values);
  for (const auto& [name, values] : reference.state)
    compare("final " + name, job.state.at(name), values);
  if (job.copy_difference > worst) {
    worst = job.copy_difference;
    where = "copies of " + job.copy_difference_in;
  }
  return worst;
}

}  // namespace switchyard::test
