#include "cli/bench.h"

#include <algorithm>

#include "cli/device.h"
#include "comm/collective_error.h"
#include "config/config.h"
#include "core/log.h"
#include "data/random_dataset.h"
#include "train/trainer.h"

namespace switchyard {
namespace {

void print_result(const RunConfig& config, const ProcessGrid& grid, Backend& backend,
                  const std::vector<StepReport>& reports) {
  std::vector<StepReport> sorted = reports;
  std::sort(sorted.begin(), sorted.end(),
            [](const StepReport& a, const StepReport& b) { return a.step_time_s < b.step_time_s; });
  const StepReport& median = sorted[sorted.size() / 2];
  fmt::print("{} rank(s): {}; each: {}\n", grid.world().size(), grid.description(),
             backend.description());
  fmt::print("{} sequences of {} tokens per step; {} steps measured\n", *config.train_batch_size,
             config.data.sequence_length, reports.size());
  fmt::print("step time    {:10.1f} ms   median; fastest {:.1f}, slowest {:.1f}\n",
             1e3 * median.step_time_s, 1e3 * sorted.front().step_time_s,
             1e3 * sorted.back().step_time_s);
  fmt::print("throughput   {:10.0f} tokens/s\n", median.tokens_per_s);
  const char* const peak = config.device == Device::kCuda ? "theoretical peak of the GPUs"
                                                          : "FMA peak measured in this process";
  fmt::print("compute      {:10.4f} TFLOP/s, {:.1f} % of the {} ({:.4f})\n", median.tflops,
             100 * median.mfu, peak, median.tflops / median.mfu);
  fmt::print(
      "all-to-all   {:10.1f} ms   of the slowest rank, {:.1f} % of the step; {:.2f} MB sent\n",
      1e3 * median.all_to_all_time_s, 100 * median.all_to_all_time_s / median.step_time_s,
      median.all_to_all_bytes / 1e6);
  fmt::print("memory       {:10.1f} MB   of the rank with most\n",
             static_cast<double>(median.peak_memory_bytes) / 1e6);
}

}  // namespace

int run_bench_step(const BenchOptions& options, Communicator& world) {
  RunConfig config = read_config(options.config, world);
  const DeviceOfRank device(config, config.training.num_threads, world);
  warn_about_speed(config, world);
  const ProcessGrid grid(device.world(), grid_sizes(config), &device.backend());
  std::optional<Dataset> dataset;
  agree(world, [&] { dataset.emplace(random_dataset(config)); });

  Trainer trainer(config, device.backend(), grid, *dataset);
  for (int i = 0; i < options.warm_up_steps; ++i) trainer.train_step();
  std::vector<StepReport> reports;
  for (int i = 0; i < options.steps; ++i) reports.push_back(trainer.train_step());
  if (world.rank() == 0) print_result(config, grid, device.backend(), reports);
  return 0;
}

}  // namespace switchyard
