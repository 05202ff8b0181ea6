#include <numeric>

#include "config/layer_costs.h"
#include "config/resolve_parts.h"

namespace switchyard {
namespace {

void check_virtual_stages(const RunConfig& config, Report& report) {
  const int chunks = config.pipeline.virtual_stages, layers = config.model.num_hidden_layers;
  if (chunks == 1 || !report.is_sound({"/pipeline/virtual_stages"})) return;
  if (config.parallelism.pipeline_parallel_size == 1)
    report.add(
        "/pipeline/virtual_stages",
        fmt::format("{}, but pipeline_parallel_size is 1: there are no stages to interleave; "
                    "set it to 1",
                    chunks));
  else if (config.pipeline.schedule != ScheduleKind::kInterleaved1F1B)
    report.add("/pipeline/virtual_stages",
               fmt::format("{} chunks per rank are scheduled by \"interleaved_1f1b\" only; set "
                           "pipeline.schedule to that, or virtual_stages to 1",
                           chunks));
  else if (chunks > layers && report.is_sound({"/model/num_hidden_layers"}))
    report.add("/pipeline/virtual_stages",
               fmt::format("{} chunks per rank for {} blocks in all; choose at most {}", chunks,
                           layers, layers));
}

void check_layers_per_stage(const RunConfig& config, int64_t pieces, Report& report) {
  const std::vector<int64_t>& given = config.pipeline.layers_per_stage;
  const int layers = config.model.num_hidden_layers;
  if (static_cast<int64_t>(given.size()) != pieces) {
    report.add("/pipeline/layers_per_stage",
               fmt::format("{} entries for pipeline_parallel_size {} * virtual_stages {} = {} "
                           "pieces; give one each, or leave it out",
                           given.size(), config.parallelism.pipeline_parallel_size,
                           config.pipeline.virtual_stages, pieces));
    return;
  }
  const int64_t sum = std::accumulate(given.begin(), given.end(), int64_t{0});
  if (sum != layers && report.is_sound({"/model/num_hidden_layers"}))
    report.add("/pipeline/layers_per_stage",
               fmt::format("the entries sum to {}, but num_hidden_layers is {}", sum, layers));
}

}  // namespace

void resolve_pipeline(RunConfig& config, Report& report) {
  check_virtual_stages(config, report);
  if (!report.is_sound({"/pipeline/virtual_stages", "/pipeline/layers_per_stage"})) return;
  const int pieces = config.parallelism.pipeline_parallel_size * config.pipeline.virtual_stages;
  if (!config.pipeline.layers_per_stage.empty())
    check_layers_per_stage(config, pieces, report);
  else if (report.is_sound({"/model/num_hidden_layers", "/moe/layer_freq"}))
    config.pipeline.layers_per_stage = balanced_layers(config, pieces);
}

}  // namespace switchyard
