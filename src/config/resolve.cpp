#include <numeric>
#include <set>

#include "config/config.h"
#include "config/report.h"

namespace switchyard {
namespace {

std::string listed(const std::set<int64_t>& values) {
  return fmt::format("{}", fmt::join(values, ", "));
}

// The divisors of n next to `wanted`, below and above.
std::set<int64_t> nearest_divisors(int64_t n, int64_t wanted) {
  std::set<int64_t> nearest;
  for (int64_t d = std::min(wanted, n); d >= 1 && nearest.empty(); --d)
    if (n % d == 0) nearest.insert(d);
  for (int64_t d = std::max<int64_t>(wanted, 1); d <= n; ++d)
    if (n % d == 0) {
      nearest.insert(d);
      break;
    }
  return nearest;
}

// The multiples of n next to `value`.
std::set<int64_t> nearest_multiples(int64_t n, int64_t value) {
  std::set<int64_t> nearest = {(value / n + 1) * n};
  if (value >= n) nearest.insert(value / n * n);
  return nearest;
}

void resolve_model(ModelConfig& model, Report& report) {
  const bool sizes_are_sound = report.is_sound({"/model/hidden_size", "/model/num_attention_heads",
                                                "/model/num_key_value_heads", "/model/head_dim"});
  if (!model.num_key_value_heads) model.num_key_value_heads = model.num_attention_heads;
  if (!model.moe_intermediate_size) model.moe_intermediate_size = model.intermediate_size;
  if (!model.head_dim) {
    if (sizes_are_sound && model.hidden_size % model.num_attention_heads != 0)
      report.add("/model/num_attention_heads",
                 fmt::format(
                     "{} heads do not divide hidden_size {}; nearest that do: {} (or set head_dim)",
                     model.num_attention_heads, model.hidden_size,
                     listed(nearest_divisors(model.hidden_size, model.num_attention_heads))));
    model.head_dim = model.hidden_size / model.num_attention_heads;
  }
  if (sizes_are_sound && *model.head_dim % 2 != 0)
    report.add("/model/head_dim",
               fmt::format("{} is odd; rotary embeddings turn pairs: choose {} or {}",
                           *model.head_dim, *model.head_dim - 1, *model.head_dim + 1));
  if (sizes_are_sound && model.num_attention_heads % *model.num_key_value_heads != 0)
    report.add("/model/num_key_value_heads",
               fmt::format("{} does not divide num_attention_heads {}; nearest that do: {}",
                           *model.num_key_value_heads, model.num_attention_heads,
                           listed(nearest_divisors(model.num_attention_heads,
                                                   *model.num_key_value_heads))));
}

// False when the grid does not fit the ranks: then nothing can be said of what is cut over it.
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
    report.add(
        "/parallelism/expert_parallel_size",
        fmt::format("{} does not divide data {} * tensor {} / expert tensor {} = {} ranks; nearest "
                    "that do: {}",
                    ep, *parallelism.data_parallel_size, parallelism.tensor_parallel_size, etp,
                    stage_ranks / etp, listed(nearest_divisors(stage_ranks / etp, ep))));
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

void check_batch_multiple(int64_t batch, int64_t factor, const char* what, Report& report) {
  if (batch % factor != 0)
    report.add("/train_batch_size",
               fmt::format("{} is not a multiple of {} = {}; nearest that are: {}", batch, what,
                           factor, listed(nearest_multiples(factor, batch))));
}

// train = micro * accumulation * dp, as DeepSpeed solves it.
void resolve_batch(RunConfig& config, Report& report) {
  auto& train = config.train_batch_size;
  auto& micro = config.train_micro_batch_size_per_gpu;
  auto& accumulation = config.gradient_accumulation_steps;
  const int64_t dp = *config.parallelism.data_parallel_size;
  if (!report.is_sound(
          {"/train_batch_size", "/train_micro_batch_size_per_gpu", "/gradient_accumulation_steps"}))
    return;
  if (!train && !micro) {
    report.add("/train_batch_size", "missing; give it, or train_micro_batch_size_per_gpu");
    return;
  }
  if (!micro) {
    if (!accumulation) accumulation = 1;
    check_batch_multiple(*train, *accumulation * dp,
                         "gradient_accumulation_steps * data_parallel_size", report);
    micro = *train / (*accumulation * dp);
  } else if (!accumulation && train) {
    check_batch_multiple(*train, *micro * dp, "train_micro_batch_size_per_gpu * data_parallel_size",
                         report);
    accumulation = *train / (*micro * dp);
  }
  if (!accumulation) accumulation = 1;
  const int64_t product = *micro * *accumulation * dp;
  if (!train) train = product;
  if (*train != product && report.is_sound({"/train_batch_size"}))
    report.add(
        "/train_batch_size",
        fmt::format(
            "found {}, but train_micro_batch_size_per_gpu {} * gradient_accumulation_steps {} * "
            "data_parallel_size {} = {}; set it to {} or leave one of the three out",
            *train, *micro, *accumulation, dp, product, product));
}

void resolve_layer_freq(RunConfig& config, Report& report) {
  std::vector<int>& freq = config.moe.layer_freq;
  const auto layers = static_cast<size_t>(config.model.num_hidden_layers);
  if (!report.is_sound({"/moe/layer_freq", "/model/num_hidden_layers"})) return;
  if (!config.moe.enabled) {
    freq.assign(layers, 0);
    return;
  }
  if (freq.size() == 1 && layers > 1) {
    const int every = freq[0];
    if (every < 1) {
      report.add("/moe/layer_freq",
                 fmt::format("found {}, expected 1 or more (every n-th layer is MoE); for "
                             "none set moe.enabled to false",
                             every));
      return;
    }
    freq.clear();
    for (int layer = 0; layer < config.model.num_hidden_layers; ++layer)
      freq.push_back(layer % every == 0 ? 1 : 0);
  } else if (freq.size() == 1) {
    freq[0] = std::min(freq[0], 1);
  }
  if (freq.size() != layers)
    report.add("/moe/layer_freq",
               fmt::format("{} entries for {} layers; give one per layer, or one number",
                           freq.size(), layers));
  else if (std::any_of(freq.begin(), freq.end(), [](int entry) { return entry > 1; }))
    report.add("/moe/layer_freq", "the entries of a list are 0 (dense) or 1 (MoE)");
}

void resolve_moe(RunConfig& config, Report& report) {
  MoeConfig& moe = config.moe;
  resolve_layer_freq(config, report);
  if (moe.enabled && report.is_sound({"/moe/top_k", "/moe/num_experts"}) &&
      moe.top_k > moe.num_experts)
    report.add("/moe/top_k",
               fmt::format("{} experts per token, but num_experts is {}; choose 1 to {}", moe.top_k,
                           moe.num_experts, moe.num_experts));
  if (!moe.shared_expert_intermediate_size && moe.num_shared_experts > 0)
    moe.shared_expert_intermediate_size =
        moe.num_shared_experts * *config.model.moe_intermediate_size;
}

void resolve_optimizer(RunConfig& config, Report& report) {
  const AdamWParams& adamw = config.optimizer.params;
  if (report.is_sound({"/optimizer/params/betas"}) && adamw.betas.size() != 2)
    report.add("/optimizer/params/betas",
               fmt::format("found {} numbers, expected 2, as in [0.9, 0.95]", adamw.betas.size()));

  SchedulerParams& schedule = config.scheduler.params;
  const bool is_deepspeed_warmup = config.scheduler.type == SchedulerType::kWarmupLR ||
                                   config.scheduler.type == SchedulerType::kWarmupDecayLR;
  constexpr double kDeepSpeedMaxLr = 0.001;
  if (is_deepspeed_warmup && !schedule.warmup_max_lr && adamw.lr != kDeepSpeedMaxLr &&
      report.is_sound({"/optimizer/params/lr", "/scheduler/params/warmup_max_lr"}))
    report.add(
        "/scheduler/params/warmup_max_lr",
        fmt::format(
            "missing; DeepSpeed would warm up to its default of {} and ignore optimizer.params.lr "
            "{}: say which you want",
            kDeepSpeedMaxLr, adamw.lr));
  if (!schedule.warmup_max_lr) schedule.warmup_max_lr = adamw.lr;
  if (!schedule.total_num_steps) schedule.total_num_steps = config.training.max_steps;
  if (!schedule.decay_num_steps)
    schedule.decay_num_steps = std::max<int64_t>(1, *schedule.total_num_steps / 10);
}

void check_data(const RunConfig& config, Report& report) {
  if (config.data.path.empty() && report.is_sound({"/data/path"}))
    report.add("/data/path", "missing; the prefix of the token files made by `switchyard prepare`");
  const bool needs_documents = config.data.document_mask || config.data.eod_mask_loss;
  if (needs_documents && config.data.eod_token_id >= config.model.vocab_size &&
      report.is_sound({"/data/eod_token_id", "/model/vocab_size"}))
    report.add("/data/eod_token_id",
               fmt::format("{} is not below model.vocab_size {}, so no document would ever end",
                           config.data.eod_token_id, config.model.vocab_size));
  constexpr int64_t kByteVocabulary = 257;
  if (config.training.ngram_baselines && config.model.vocab_size > kByteVocabulary)
    report.add("/training/ngram_baselines",
               fmt::format("they count bytes, but model.vocab_size is {}; set it to false, or "
                           "vocab_size to {}",
                           config.model.vocab_size, kByteVocabulary));
  if (config.training.output_dir.empty())
    report.add("/training/output_dir", "found \"\", expected a directory");
}

void check_precision(const RunConfig& config, Report& report) {
  if (config.bf16.enabled && config.fp64.enabled)
    report.add("/fp64/enabled",
               "bf16 and fp64 exclude each other; enable one of them, or none for f32");
}

}  // namespace

void resolve(RunConfig& config, int num_ranks, Report& report) {
  resolve_model(config.model, report);
  if (resolve_dense_grid(config.parallelism, num_ranks, report)) {
    resolve_expert_grid(config.parallelism, config.moe, report);
    resolve_batch(config, report);
  }
  if (config.pipeline.layers_per_stage.empty() && config.parallelism.pipeline_parallel_size == 1)
    config.pipeline.layers_per_stage = {config.model.num_hidden_layers};
  resolve_moe(config, report);
  resolve_optimizer(config, report);
  check_data(config, report);
  check_precision(config, report);
}

}  // namespace switchyard
