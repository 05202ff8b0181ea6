#include "cli/verify.h"

#include <sched.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <string_view>

#include "backend/cpu/cpu_backend.h"
#include "cli/device.h"
#include "comm/collective_error.h"
#include "config/config.h"
#include "core/log.h"
#include "data/random_dataset.h"
#include "verify/cost.h"
#include "verify/report.h"
#include "verify/shrink.h"
#include "verify/verify.h"

namespace switchyard {
namespace {

// What two cores do in well under a minute.
constexpr double kAffordableFlops = 1.5e11;

// Of this machine, in bytes; infinite where it does not say.
double available_memory() {
  std::ifstream file("/proc/meminfo");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("MemAvailable:")) return 1024 * std::stod(line.substr(line.find(':') + 1));
  return std::numeric_limits<double>::infinity();
}

void choose_precision(RunConfig& config, DType dtype) {
  config.fp64.enabled = dtype == DType::kF64;
  config.bf16.enabled = dtype == DType::kBF16;
  if (dtype != DType::kBF16) config.communication_data_type = ReductionType::kFP32;
}

bool should_shrink(const VerifyCommand& command, const RunConfig& config, Communicator& world) {
  const ProofCost cost = cost_of_proof(config, command.steps);
  const double memory = -world.all_reduce_max_host(-available_memory());
  const bool fits = cost.bytes < 0.8 * memory, is_affordable = cost.flops < kAffordableFlops;
  if (command.shrink.has_value()) {
    if (!*command.shrink && !fits)
      spdlog::warn("the proof may need {:.1f} GB; {:.1f} GB are free", cost.bytes / 1e9,
                   memory / 1e9);
    return *command.shrink;
  }
  if (!fits)
    spdlog::info("shrinking: the proof would need {:.1f} GB of {:.1f} GB (--no-shrink forbids it)",
                 cost.bytes / 1e9, memory / 1e9);
  else if (!is_affordable)
    spdlog::info("shrinking: the proof would need {:.1e} FLOPs (--no-shrink forbids it)",
                 cost.flops);
  return !fits || !is_affordable;
}

// The tokens of the configuration, if every rank finds them and they fit a shrunk vocabulary.
Dataset tokens_for(const RunConfig& config, bool has_whole_vocabulary, Communicator& world) {
  const bool is_missing = !std::filesystem::exists(config.data.path + ".idx");
  std::string why;  // they are random
  if (!has_whole_vocabulary) why = "the vocabulary is shrunk";
  if (world.all_reduce_max_host(is_missing ? 1 : 0) > 0)
    why = fmt::format("there is no {}.idx", config.data.path);
  if (why.empty())
    spdlog::info("data {}", config.data.path);
  else
    spdlog::info("random tokens: {}", why);
  std::optional<Dataset> dataset;
  agree(world,
        [&] { dataset.emplace(why.empty() ? open_dataset(config) : random_dataset(config)); });
  return std::move(*dataset);
}

// Ranks whose affinity mask is the same share its cores.
int threads_of_rank(const RunConfig& config, Communicator& world) {
  if (config.training.num_threads > 0) return config.training.num_threads;
  cpu_set_t mask;
  CPU_ZERO(&mask);
  SY_CHECK(sched_getaffinity(0, sizeof(mask), &mask) == 0, "sched_getaffinity failed");
  const std::string_view bits(reinterpret_cast<const char*>(&mask), sizeof(mask));
  const auto mine = static_cast<int64_t>(std::hash<std::string_view>()(bits));
  const std::vector<int64_t> all = world.all_gather_host(mine);
  const auto sharers = static_cast<int>(std::count(all.begin(), all.end(), mine));
  return std::max(1, CPU_COUNT(&mask) / sharers);
}

}  // namespace

int run_verify(const VerifyCommand& command, Communicator& world) {
  RunConfig config = read_config(command.config, world);
  choose_precision(config, command.dtype);
  VerifyOptions options = {.steps = command.steps};
  agree(world, [&] {
    if (!command.fault.empty()) options.fault = fault_in(command.fault);
  });
  const DeviceOfRank device(config, threads_of_rank(config, world), world);
  const RunConfig whole = config;
  if (should_shrink(command, config, world)) config = shrink(config);
  for (const std::string& change : changes(whole, config)) spdlog::info("  {}", change);
  const Dataset dataset =
      tokens_for(config, config.model.vocab_size == whole.model.vocab_size, world);

  std::optional<CpuBackend> alone;  // the reference: all cores, while the other ranks sleep
  if (world.rank() == 0) alone.emplace(0);
  const Verification result =
      verify(config, options, dataset, device.world(), device.backend(), alone ? &*alone : nullptr);
  if (world.rank() == 0) {
    fmt::print("{} rank(s): {}; each: {}; {} against one rank\n", world.size(), result.grid,
               device.backend().description(), name_of(config.real()));
    fmt::print("{}", report_text(result, command.all_checks));
  }
  if (!result.ok)
    throw CollectiveError(ExitCode::kMismatch, "this layout does not compute what one rank does");
  return 0;
}

}  // namespace switchyard
