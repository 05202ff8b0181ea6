#include "cli/train.h"

#include <unistd.h>

#include <fstream>
#include <sstream>

#include "comm/collective_error.h"
#include "config/config.h"
#include "core/log.h"
#include "train/run.h"
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

void warn_about_speed(const CpuBackend& backend, const Communicator& world) {
  const int num_threads = backend.num_threads(), world_size = world.size();
  const int allowed = cores_in_affinity_mask();
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
  if (const std::string advice = backend.speed_advice(); !advice.empty() && world.rank() == 0)
    spdlog::warn("{}", advice);
}

int run_train(const ConfigOptions& options, Communicator& world) {
  const RunConfig config = read_config(options, world);
  agree(world, [&] { refuse_unbuilt(config); });
  CpuBackend backend(config.training.num_threads);
  warn_about_speed(backend, world);
  const ProcessGrid grid(world, grid_sizes(config), &backend);
  run_training(config, backend, grid);
  return 0;
}

}  // namespace switchyard
