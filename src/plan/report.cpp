#include "plan/report.h"

#include <fmt/format.h>

#include <algorithm>

#include "config/layer_costs.h"
#include "pipeline/simulator.h"
#include "plan/memory.h"

namespace switchyard {
namespace {

std::string millions(double count) { return fmt::format("{:.2f} M", count / 1e6); }
std::string counted(int64_t count, const char* one, const char* many) {
  return fmt::format("{} {}", count, count == 1 ? one : many);
}

std::string millions(int64_t count) { return millions(static_cast<double>(count)); }

std::string grid_text(const RunConfig& config) {
  const ParallelismConfig& grid = config.parallelism;
  return fmt::format(
      "{}: dp {} x tp {} x pp {}, experts: ep {} x etp {} x edp {}\n"
      "{} per step = {} per rank * {} * dp {}\n",
      counted(*grid.data_parallel_size * grid.tensor_parallel_size * grid.pipeline_parallel_size,
              "rank", "ranks"),
      *grid.data_parallel_size, grid.tensor_parallel_size, grid.pipeline_parallel_size,
      grid.expert_parallel_size, *grid.expert_tensor_parallel_size, expert_replicas(config),
      counted(*config.train_batch_size, "sequence", "sequences"),
      *config.train_micro_batch_size_per_gpu,
      counted(*config.gradient_accumulation_steps, "micro-batch", "micro-batches"),
      *grid.data_parallel_size);
}

// "embedding, 2 blocks" of each chunk of a stage.
std::string pieces_text(const RunConfig& config, const ScheduleSpec& spec, int stage) {
  const std::vector<int64_t>& blocks = config.pipeline.layers_per_stage;
  std::string text;
  for (int piece = stage; piece < spec.num_pieces(); piece += spec.num_stages) {
    if (!text.empty()) text += " | ";
    if (piece == 0) text += "embedding, ";
    text += counted(blocks[static_cast<size_t>(piece)], "block", "blocks");
    if (piece + 1 == spec.num_pieces()) text += ", head";
  }
  return text;
}

std::string checkpoint_text(const RunConfig& config, const ScheduleSpec& spec) {
  const auto megabytes = [](int64_t bytes) { return static_cast<double>(bytes) / 1e6; };
  const CheckpointBytes bytes = checkpoint_bytes(config);
  std::string text = fmt::format(
      "checkpoint: {:.1f} MB on disk: weights {:.1f}, master weights {:.1f}, moments {:.1f}",
      megabytes(bytes.total()), megabytes(bytes.weights), megabytes(bytes.masters),
      megabytes(bytes.moments));
  if (bytes.state > 0) text += fmt::format(", router biases {} bytes", bytes.state);
  if (!config.checkpoint.async) return text + "; training waits while it is written\n";
  int64_t held = 0;
  for (int stage = 0; stage < spec.num_stages; ++stage) held += held_bytes_of_stage(config, stage);
  return text + fmt::format(
                    "\n  saving beside training copies about {:.1f} MB of the largest rank "
                    "to host memory, {:.1f} MB of all ranks\n",
                    held_bytes_of_largest_rank(config) / 1e6, megabytes(held));
}

// The pieces' own costs: forward and each part of the backward take the forward's products once.
double estimated_bubble(const RunConfig& config, const ScheduleSpec& spec) {
  std::vector<StepCosts> costs;
  for (const double cost : piece_costs(config, config.pipeline.layers_per_stage))
    costs.push_back({cost, cost, cost});
  return simulate(spec, costs).bubble_fraction();
}

std::string schedule_text(const RunConfig& config, const ScheduleSpec& spec) {
  constexpr int kMaxWidth = 150;
  const Timeline timeline = simulate(spec);
  std::string slots;
  for (int stage = 0; stage < spec.num_stages; ++stage)
    slots += fmt::format("{}{}", stage == 0 ? "" : ", ", activation_slots(spec, stage));
  return fmt::format(
      "schedule, a column per F, B or W of one piece; B- is a backward of both parts{}:\n{}"
      "bubble: {:.1f} % of the time if all pieces took as long, {:.1f} % by the matrix products of "
      "each (messages free)\n"
      "activations held at once, per stage: {} (micro-batches of one piece)\n",
      spec.num_chunks == 1 ? "" : "; F0.1: micro-batch 0, chunk 1",
      schedule_table(spec, timeline, kMaxWidth), 100 * timeline.bubble_fraction(),
      100 * estimated_bubble(config, spec), slots);
}

}  // namespace

std::string memory_text(const RunConfig& config) {
  const ScheduleSpec spec = schedule_spec(config);
  const double dense_bytes = bytes_per_parameter(config, dense_replicas(config)),
               expert_bytes = bytes_per_parameter(config, expert_replicas(config));
  std::string text = fmt::format(
      "training state, ZeRO stage {}, {}: {:.4g} bytes per dense parameter (dp {}), {:.4g} per "
      "expert parameter (edp {})\n",
      config.zero_optimization.stage, name_of(config.real()), dense_bytes, dense_replicas(config),
      expert_bytes, expert_replicas(config));
  if (!config.training.trainable.empty() || !config.training.frozen.empty())
    text += "  (every parameter counted as trained: frozen ones take their weight alone)\n";
  for (int stage = 0; stage < spec.num_stages; ++stage) {
    const ParameterCounts counts = parameters_of_rank(config, stage);
    const double bytes = dense_bytes * static_cast<double>(counts.dense) +
                         expert_bytes * static_cast<double>(counts.expert);
    text += fmt::format("  stage {:<3} {}: per rank {} dense + {} expert parameters, {:.1f} MB\n",
                        stage, pieces_text(config, spec, stage), millions(counts.dense),
                        millions(counts.expert), bytes / 1e6);
  }
  return text;
}

std::string plan_text(const RunConfig& config) {
  const ScheduleSpec spec = schedule_spec(config);
  const ParameterCounts model = parameters_of_model(config);
  return grid_text(config) +
         fmt::format("{} parameters, {} of them in experts\n", millions(model.total()),
                     millions(model.expert)) +
         memory_text(config) + checkpoint_text(config, spec) + schedule_text(config, spec);
}

}  // namespace switchyard
