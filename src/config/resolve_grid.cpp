// The process grid: how many ranks, and what can be cut over them.
#include <algorithm>

#include "config/nearest.h"
#include "config/resolve_parts.h"

namespace switchyard {
namespace {

// "`parts` ranks" must divide the size under `pointer`, called `name` in messages.
void check_cut(int parts, const char* parts_pointer, int64_t size, const char* pointer,
               const char* name, Report& report) {
  if (!report.is_sound({pointer}) || size % parts == 0) return;
  report.add(parts_pointer, fmt::format("{} does not divide {} {}; nearest that do: {} (or {} {})",
                                        parts, name, size, listed(nearest_divisors(size, parts)),
                                        name, listed(nearest_multiples(parts, size))));
}

// Fewer key/value heads than ranks are held by several ranks each.
void check_key_value_heads(int tp, const ModelConfig& model, Report& report) {
  const int heads = *model.num_key_value_heads;
  if (!report.is_sound({"/model/num_key_value_heads", "/model/num_attention_heads"})) return;
  const bool is_like_query_heads = heads == model.num_attention_heads;  // and already checked
  if (heads % tp == 0 || tp % heads == 0 || is_like_query_heads) return;
  std::set<int64_t> fitting = nearest_divisors(heads, tp);
  fitting.merge(nearest_multiples(heads, tp));
  report.add("/parallelism/tensor_parallel_size",
             fmt::format("{} neither divides num_key_value_heads {} nor is a multiple of it; "
                         "nearest that are: {}",
                         tp, heads, listed(fitting)));
}

}  // namespace

bool resolve_dense_grid(ParallelismConfig& parallelism, int num_ranks, Report& report) {
  const int64_t model_ranks =
      static_cast<int64_t>(parallelism.tensor_parallel_size) * parallelism.pipeline_parallel_size;
  if (!report.is_sound({"/parallelism/tensor_parallel_size", "/parallelism/pipeline_parallel_size",
                        "/parallelism/data_parallel_size", "/parallelism/expert_parallel_size",
                        "/parallelism/expert_tensor_parallel_size"}))
    return false;
  if (!parallelism.data_parallel_size) {
    if (num_ranks % model_ranks != 0) {
      report.add("/parallelism",
                 fmt::format("{} ranks are not a multiple of tensor_parallel_size {} * "
                             "pipeline_parallel_size {} = {}; nearest counts that fit: {}",
                             num_ranks, parallelism.tensor_parallel_size,
                             parallelism.pipeline_parallel_size, model_ranks,
                             listed(nearest_multiples(model_ranks, num_ranks))));
      return false;
    }
    parallelism.data_parallel_size = static_cast<int>(num_ranks / model_ranks);
  }
  const int64_t needed = model_ranks * *parallelism.data_parallel_size;
  if (needed == num_ranks) return true;
  report.add(
      "/parallelism/data_parallel_size",
      fmt::format("data {} * tensor {} * pipeline {} = {} ranks, but the job has {}; start it with "
                  "mpirun -n {}, or leave data_parallel_size out and use {} ranks",
                  *parallelism.data_parallel_size, parallelism.tensor_parallel_size,
                  parallelism.pipeline_parallel_size, needed, num_ranks, needed,
                  model_ranks == 1 ? "any number of"
                                   : fmt::format("{}, {}, {}, ...", model_ranks, 2 * model_ranks,
                                                 3 * model_ranks)));
  return false;
}

void resolve_expert_grid(ParallelismConfig& parallelism, const MoeConfig& moe, Report& report) {
  if (!parallelism.expert_tensor_parallel_size)
    parallelism.expert_tensor_parallel_size = parallelism.tensor_parallel_size;
  if (!parallelism.sequence_parallel)
    parallelism.sequence_parallel = parallelism.tensor_parallel_size > 1;
  const int64_t stage_ranks =
      static_cast<int64_t>(*parallelism.data_parallel_size) * parallelism.tensor_parallel_size;
  const int64_t etp = *parallelism.expert_tensor_parallel_size,
                ep = parallelism.expert_parallel_size;
  if (stage_ranks % etp != 0) {
    report.add("/parallelism/expert_tensor_parallel_size",
               fmt::format("{} does not divide the {} ranks of a stage; nearest that do: {}", etp,
                           stage_ranks, listed(nearest_divisors(stage_ranks, etp))));
  } else if ((stage_ranks / etp) % ep != 0) {
    // More expert-parallel ranks than the tensor-parallel groups can give: experts that are cut
    // less fold over the tensor-parallel ranks too.
    const std::string folding =
        stage_ranks % ep != 0 ? ""
                              : fmt::format(" (or keep {} with expert_tensor_parallel_size {})", ep,
                                            listed(nearest_divisors(stage_ranks / ep, etp)));
    report.add(
        "/parallelism/expert_parallel_size",
        fmt::format("{} does not divide data {} * tensor {} / expert tensor {} = {} ranks; nearest "
                    "that do: {}{}",
                    ep, *parallelism.data_parallel_size, parallelism.tensor_parallel_size, etp,
                    stage_ranks / etp, listed(nearest_divisors(stage_ranks / etp, ep)), folding));
  }
  if (!moe.enabled && ep > 1)
    report.add(
        "/parallelism/expert_parallel_size",
        fmt::format("{}, but moe.enabled is false: there are no experts to deal out; set it to 1",
                    ep));
  if (moe.enabled && report.is_sound({"/moe/num_experts"}) && moe.num_experts % ep != 0)
    report.add(
        "/parallelism/expert_parallel_size",
        fmt::format("{} does not divide num_experts {}; nearest that do: {} (or num_experts {})",
                    ep, moe.num_experts, listed(nearest_divisors(moe.num_experts, ep)),
                    listed(nearest_multiples(ep, moe.num_experts))));
}

void check_tensor_parallel(const RunConfig& config, Report& report) {
  const ModelConfig& model = config.model;
  const MoeConfig& moe = config.moe;
  const int tp = config.parallelism.tensor_parallel_size;
  const char* const tp_pointer = "/parallelism/tensor_parallel_size";
  check_cut(tp, tp_pointer, model.num_attention_heads, "/model/num_attention_heads",
            "num_attention_heads", report);
  check_key_value_heads(tp, model, report);
  const bool has_dense_layers =
      std::find(moe.layer_freq.begin(), moe.layer_freq.end(), 0) != moe.layer_freq.end();
  if (has_dense_layers)
    check_cut(tp, tp_pointer, model.intermediate_size, "/model/intermediate_size",
              "intermediate_size", report);
  if (model.vocab_size < tp && report.is_sound({"/model/vocab_size"}))
    report.add(tp_pointer, fmt::format("{} ranks for vocab_size {}: some would have no token; "
                                       "choose at most {}",
                                       tp, model.vocab_size, model.vocab_size));
  if (!moe.enabled) return;
  check_cut(*config.parallelism.expert_tensor_parallel_size,
            "/parallelism/expert_tensor_parallel_size", *model.moe_intermediate_size,
            "/model/moe_intermediate_size", "moe_intermediate_size", report);
  if (moe.num_shared_experts > 0)
    check_cut(tp, tp_pointer, *moe.shared_expert_intermediate_size,
              "/moe/shared_expert_intermediate_size", "shared_expert_intermediate_size", report);
}

}  // namespace switchyard
