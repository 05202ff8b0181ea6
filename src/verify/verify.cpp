#include "verify/verify.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <functional>
#include <thread>
#include <utility>

#include "comm/collective_error.h"
#include "config/config.h"
#include "verify/diagnosis.h"

namespace switchyard {
namespace {

// A wait that leaves the cores to others; blocking collectives spin.
void meet_patiently(Communicator& world, Backend& backend) {
  const Buffer memory(backend, (world.size() + 1) * static_cast<int64_t>(sizeof(double)));
  const Tensor all = memory.tensor(DType::kF64, {world.size() + 1});
  const Queue queue = backend.compute_queue();
  const Event met =
      world.all_gather(all.rows(0, world.size()), all.rows(world.size(), 1), backend.record(queue));
  while (!backend.is_complete(met)) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    backend.progress();
  }
}

// Collective; an Error of rank 0 is everybody's.
void on_rank_0_alone(Communicator& world, Backend& backend, const std::function<void()>& work) {
  std::exception_ptr failure;
  try {
    if (world.rank() == 0) work();
  } catch (const Error&) {
    failure = std::current_exception();
  }
  meet_patiently(world, backend);
  agree(world, [&] {
    if (failure) std::rethrow_exception(failure);
  });
}

// What rank 0 has recorded, on every rank, ready to be replayed.
void share_routing(RoutingLog& routing, const RunConfig& config, int64_t steps,
                   Communicator& world) {
  const auto share = [&](std::vector<int32_t>& values) {
    std::string bytes(reinterpret_cast<const char*>(values.data()),
                      values.size() * sizeof(int32_t));
    world.broadcast_host(bytes, 0);
    values.resize(bytes.size() / sizeof(int32_t));
    std::copy_n(bytes.data(), bytes.size(), reinterpret_cast<char*>(values.data()));
  };
  for (int64_t stream = 0; stream < steps * *config.gradient_accumulation_steps; ++stream)
    for (int layer = 0; layer < num_moe_layers(config); ++layer) {
      RoutingLog::Routes routes;
      if (world.rank() == 0) routes = routing.at(stream, layer);
      share(routes.expert);
      share(routes.kept);
      routing.record(stream, layer, std::move(routes));
    }
  routing.start_replay();
}

class Proof {
 public:
  Proof(const VerifyOptions& options, const Dataset& dataset, Communicator& world, Backend& backend)
      : options_(options), dataset_(dataset), backend_(backend), world_(world) {
    if (options.fault) faulty_.emplace(world, *options.fault);
  }

  // Of the layouts, with the fault if there is one.
  Communicator& world() { return faulty_ ? *faulty_ : world_; }

  void run_references(const RunConfig& config, Communicator& world, Backend* alone) {
    reference_.dtype = config.real();
    const bool replays = reference_.dtype != DType::kF64;
    const JobOptions options = {.steps = options_.steps, .routing = replays ? &routing_ : nullptr};
    on_rank_0_alone(world, backend_, [&] {
      RunConfig one_rank = one_rank_config(config);
      if (reference_.dtype == DType::kBF16) {
        one_rank.bf16.enabled = false;
        one_rank.fp64.enabled = true;
        reference_.exact = run_on_one_rank(one_rank, *alone, dataset_, options);
        routing_.start_replay();
        one_rank = one_rank_config(config);
      }
      reference_.same = run_on_one_rank(one_rank, *alone, dataset_, options);
    });
    if (replays) share_routing(routing_, config, options_.steps, world);
  }

  // The checks are on rank 0.
  std::vector<Check> check(const RunConfig& config, const ProcessGrid& grid, int64_t steps,
                           std::vector<StepReport>* reports = nullptr) {
    Judge judge(reference_);
    const JobOptions options = {.steps = steps,
                                .routing = reference_.dtype == DType::kF64 ? nullptr : &routing_,
                                .reads_final_values = steps == options_.steps};
    const JobResult result = run_job(
        config, backend_, grid, dataset_, options,
        [&](Quantity quantity, const GlobalTensors& tensors) { judge.add(quantity, tensors); });
    if (reports != nullptr) *reports = result.reports;
    return grid.world().rank() == 0 ? judge.finish(result) : std::vector<Check>();
  }

  const std::vector<StepReport>& one_rank_reports() const { return reference_.same.reports; }

 private:
  const VerifyOptions& options_;
  const Dataset& dataset_;
  Backend& backend_;
  Communicator& world_;
  std::optional<FaultyCommunicator> faulty_;
  Reference reference_;
  RoutingLog routing_;
};

int64_t num_failed(const std::vector<Check>& checks) {
  return std::count_if(checks.begin(), checks.end(),
                       [](const Check& check) { return !check.ok(); });
}

}  // namespace

Verification verify(const RunConfig& config, const VerifyOptions& options, const Dataset& dataset,
                    Communicator& world, Backend& backend, Backend* alone) {
  Proof proof(options, dataset, world, backend);
  const ProcessGrid grid(proof.world(), grid_sizes(config), &backend);
  proof.run_references(config, grid.world(), alone);

  Verification result;
  result.grid = grid.description();
  result.checks = proof.check(config, grid, options.steps, &result.layout);
  result.one_rank = proof.one_rank_reports();
  result.ok = grid.world().all_reduce_max_host(static_cast<double>(num_failed(result.checks))) == 0;
  if (result.ok) return result;

  result.isolated = isolated_layouts(config);
  for (IsolatedLayout& layout : result.isolated) {
    if (!layout.not_valid.empty()) continue;
    const bool takes_part = world.rank() < layout.ranks;
    const auto part = proof.world().split(takes_part ? 0 : 1, world.rank(), "world");
    if (takes_part) {
      const ProcessGrid alone_grid(*part, grid_sizes(layout.config), &backend);
      layout.grid = alone_grid.description();
      layout.num_failed = num_failed(proof.check(layout.config, alone_grid, 1));
    }
    meet_patiently(grid.world(), backend);
  }
  result.at_fault = what_is_at_fault(result.checks, result.isolated);
  return result;
}

}  // namespace switchyard
