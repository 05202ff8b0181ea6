#include "resume/whole_run.h"

#include <spdlog/spdlog.h>

#include <nlohmann/json.hpp>

#include "comm/thread_communicator.h"
#include "config/config.h"
#include "train/metrics_file.h"

namespace switchyard::test {

ExitCode train(RunConfig unresolved, int ranks, const RunOptions& options) {
  spdlog::set_level(spdlog::level::err);
  unresolved.watchdog.enabled = false;
  const StopSignals signals([](const std::string&) {});
  ExitCode code = ExitCode::kInternal;
  run_ranks(ranks, [&](Communicator& world) {
    RunConfig config = unresolved;
    resolve(config, world.size());
    CpuBackend backend(1);
    const ProcessGrid grid(world, grid_sizes(config), &backend);
    ExitRecorder recorder(config.training.output_dir, world.rank());
    const ExitCode mine = run_training(config, options, {}, backend, grid, {}, signals, recorder);
    if (world.rank() == 0) code = mine;
  });
  return code;
}

std::vector<std::string> timeless_metrics(const std::string& directory) {
  std::vector<std::string> lines;
  for (nlohmann::ordered_json& line : read_metrics(directory + "/metrics.jsonl")) {
    if (line.contains("goodput")) continue;
    for (const char* key : {"step_time_s", "tokens_per_s", "tflops", "mfu", "data_time_s",
                            "all_to_all_time_s", "peak_memory_bytes", "arena_growths", "attempt"})
      line.erase(key);
    lines.push_back(line.dump());
  }
  return lines;
}

}  // namespace switchyard::test
