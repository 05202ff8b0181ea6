#include "cli/device.h"

#include <unistd.h>

#include <array>
#include <nlohmann/json.hpp>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "backend/gpus.h"
#include "cli/device_choice.h"
#include "comm/collective_error.h"
#include "comm/gpu_communicator.h"
#include "core/log.h"
#include "plan/report.h"

namespace switchyard {
namespace {

using nlohmann::json;

// By rank, on every rank.
std::vector<json> all_gather(Communicator& world, const json& mine) {
  json all = json::array();
  for (const std::string& text : world.gather_host(mine.dump(), 0))
    all.push_back(json::parse(text));
  std::string text = all.dump();
  world.broadcast_host(text, 0);
  return json::parse(text);
}

std::vector<GpusOfRank> gpus_of_ranks(Communicator& world) {
  std::array<char, 256> host = {};
  gethostname(host.data(), host.size() - 1);
  const VisibleGpus mine = visible_gpus();
  std::vector<GpusOfRank> ranks;
  for (const json& rank : all_gather(world, {host.data(), mine.count, mine.why_none}))
    ranks.push_back({.host = rank[0], .num_visible = rank[1], .why_none = rank[2]});
  return ranks;
}

std::unique_ptr<Backend> make_gpu_of_rank(const RunConfig& config,
                                          const std::vector<GpusOfRank>& ranks,
                                          Communicator& world) {
  int ordinal = 0;
  std::string uuid;
  agree(world, [&] {
    ordinal = choose_gpu(world.rank(), ranks);
    uuid = gpu_uuid(ordinal);
  });
  std::vector<std::string> uuids;
  for (const json& of_rank : all_gather(world, uuid)) uuids.push_back(of_rank);
  std::unique_ptr<Backend> backend;
  agree(world, [&] {
    refuse_shared_gpus(ranks, uuids);
    backend = make_cuda_backend(ordinal, [config] { return memory_text(config); });
  });
  return backend;
}

}  // namespace

DeviceOfRank::DeviceOfRank(RunConfig& config, int num_threads, Communicator& world)
    : world_(world) {
  std::vector<GpusOfRank> ranks;
  if (config.device != Device::kCpu) ranks = gpus_of_ranks(world);  // else no driver is asked
  const bool is_asked = config.device.has_value();
  agree(world, [&] { config.device = choose_device(config.device, is_built_with_cuda(), ranks); });
  const bool is_gpu = *config.device == Device::kCuda;
  if (is_built_with_cuda() && world.rank() == 0)
    spdlog::info("device {}{}", is_gpu ? "cuda" : "cpu",
                 is_asked ? ""
                 : is_gpu ? ": every rank sees a GPU"
                          : ": no rank sees a GPU");
  if (is_gpu) {
    backend_ = make_gpu_of_rank(config, ranks, world);
    of_gpus_ = make_gpu_communicator(world, *backend_);
  } else {
    backend_ = std::make_unique<CpuBackend>(num_threads);
  }
}

}  // namespace switchyard
