#include "cli/train.h"

#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <optional>
#include <sstream>

#include "backend/cpu/cpu_backend.h"
#include "cli/device.h"
#include "cli/this_code.h"
#include "comm/checked_communicator.h"
#include "comm/collective_error.h"
#include "config/config.h"
#include "core/log.h"
#include "train/trainer.h"

namespace switchyard {
namespace {

std::string read_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  SY_REQUIRE(kConfig, file.is_open(), "{}: cannot open this configuration file", path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

}  // namespace

RunConfig read_config(const ConfigOptions& options, int num_ranks) {
  return load_config({options.path, read_text(options.path), options.overrides}, num_ranks);
}

RunConfig read_config(const ConfigOptions& options, Communicator& world) {
  std::string text;
  agree(world, [&] {
    if (world.rank() == 0) text = read_text(options.path);
  });
  world.broadcast_host(text, 0);
  RunConfig config;
  agree(world, [&] {
    config = load_config({options.path, text, options.overrides}, world.size());
  });
  return config;
}

void warn_about_speed(const RunConfig& config, const Communicator& world) {
  if (config.device != Device::kCpu) return;
  const int allowed = cores_in_affinity_mask(), world_size = world.size();
  const int num_threads = config.training.num_threads > 0 ? config.training.num_threads : allowed;
  const auto online = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  if (num_threads > allowed)
    spdlog::warn(
        "{} threads share the {} core(s) that this rank may run on; bind it to more "
        "(mpirun --map-by slot:PE={} --bind-to core, or launch/local.sh) or lower "
        "training.num_threads",
        num_threads, allowed, num_threads);
  else if (allowed < online / world_size)
    spdlog::warn(
        "this rank may run on {} of the {} cores, with {} rank(s) in the job: mpirun binds "
        "ranks to single cores by default; use launch/local.sh, or mpirun --bind-to none",
        allowed, online, world_size);
  if (const std::string advice = advice_on_blas(); !advice.empty() && world.rank() == 0)
    spdlog::warn("{}", advice);
}

LaunchEnvironment launch_environment() {
  const auto number = [](const char* name) -> std::optional<double> {
    const char* text = std::getenv(name);
    char* end = nullptr;
    const double value = text == nullptr ? 0 : std::strtod(text, &end);
    if (text == nullptr || end == text || *end != '\0') return std::nullopt;
    return value;
  };
  constexpr double kOpenMpiKillDelay = 1;  // its default
  LaunchEnvironment launch = {.slurm_job_end = number("SLURM_JOB_END_TIME")};
  if (const char* job = std::getenv("SLURM_JOB_ID")) launch.job_id = job;
  if (std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr)
    launch.mpirun_kill_delay_s =
        number("OMPI_MCA_odls_base_sigkill_timeout").value_or(kOpenMpiKillDelay);
  return launch;
}

int print_run_directory(const ConfigOptions& options) {
  const ConfigSource source = {options.path, read_text(options.path), options.overrides};
  fmt::print("{}\n", parse_config(source).training.output_dir);
  return 0;
}

int run_train(const TrainCommand& command, Communicator& world) {
  RunConfig config = read_config(command.config, world);
  const DeviceOfRank device(config, config.training.num_threads, world);
  warn_about_speed(config, world);
  std::optional<CheckedCommunicator> checked;
  if (config.watchdog.check_collectives) checked.emplace(device.world());
  const ProcessGrid grid(checked ? *checked : device.world(), grid_sizes(config),
                         &device.backend());
  ExitRecorder recorder(config.training.output_dir, world.rank());
  const StopSignals signals([&](const std::string& signal) {
    recorder.write(ExitCode::kStopped, signal + ", the second: ended at once, without a save",
                   true);
  });
  ExitCode code = ExitCode::kOk;
  record_errors(recorder, world.rank(), [&] {
    code = run_training(config, command.run, this_code(), device.backend(), grid,
                        launch_environment(), signals, recorder);
  });
  return static_cast<int>(code);
}

}  // namespace switchyard
