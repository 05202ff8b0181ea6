#include "config/config.h"
#include "config/nearest.h"
#include "config/report.h"
#include "config/resolve_parts.h"

namespace switchyard {
namespace {

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

void check_stop_margin(const TrainingConfig& training, Report& report) {
  if (training.max_wall_time > 0 && training.stop_margin >= training.max_wall_time &&
      report.is_sound({"/training/max_wall_time", "/training/stop_margin"}))
    report.add(
        "/training/stop_margin",
        fmt::format("{} s leave nothing of max_wall_time {} s: the run would stop before its "
                    "first step; lower the margin to what a save takes",
                    training.stop_margin, training.max_wall_time));
}

void check_precision(const RunConfig& config, Report& report) {
  if (config.bf16.enabled && config.fp64.enabled)
    report.add("/fp64/enabled",
               "bf16 and fp64 exclude each other; enable one of them, or none for f32");
  if (config.communication_data_type == ReductionType::kBF16 && !config.bf16.enabled)
    report.add("/communication_data_type",
               "\"bf16\" gradients travel only with bf16.enabled; enable it, or set \"fp32\"");
}

void check_zero(const ZeroConfig& zero, Report& report) {
  if (zero.reduce_once_per_step && zero.stage != 2 && report.is_sound({"/zero_optimization/stage"}))
    report.add(
        "/zero_optimization/reduce_once_per_step",
        fmt::format("a choice of stage 2, but the stage is {}; set it to false{}", zero.stage,
                    zero.stage == 1 ? " (stage 1 reduces once per step anyway)" : ""));
}

}  // namespace

void resolve(RunConfig& config, int num_ranks, Report& report) {
  resolve_model(config.model, report);
  resolve_moe(config, report);
  if (resolve_dense_grid(config.parallelism, num_ranks, report)) {
    resolve_expert_grid(config.parallelism, config.moe, report);
    check_tensor_parallel(config, report);
    resolve_pipeline(config, report);
    resolve_batch(config, report);
  }
  resolve_optimizer(config, report);
  check_data(config, report);
  check_precision(config, report);
  check_stop_margin(config.training, report);
  check_zero(config.zero_optimization, report);
}

}  // namespace switchyard
