#include "config/options.h"

#include <fmt/format.h>

#include <cmath>

#include "config/bind.h"

namespace switchyard {

template <>
constexpr std::array kNamesOf<Device> = {"cpu", "cuda"};
template <>
constexpr std::array kNamesOf<RouterKind> = {"softmax", "sigmoid", "sinkhorn"};
template <>
constexpr std::array kNamesOf<ScheduleKind> = {"gpipe", "1f1b", "interleaved_1f1b", "zb_h1"};
template <>
constexpr std::array kNamesOf<ReductionType> = {"fp32", "bf16"};
template <>
constexpr std::array kNamesOf<RecomputePolicy> = {"none", "selective", "full"};
template <>
constexpr std::array kNamesOf<ExpertActivation> = {"swiglu", "relu", "gelu"};
template <>
constexpr std::array kNamesOf<TokenDropPolicy> = {"dropless", "capacity"};
template <>
constexpr std::array kNamesOf<DropOrderConfig> = {"probs", "position"};
template <>
constexpr std::array kNamesOf<BalanceScope> = {"sequence", "micro_batch", "global_batch"};
template <>
constexpr std::array kNamesOf<TokenizerKind> = {"byte"};
template <>
constexpr std::array kNamesOf<OptimizerType> = {"AdamW", "Adam"};
template <>
constexpr std::array kNamesOf<SchedulerType> = {"Constant", "WarmupLR", "WarmupDecayLR",
                                                "WarmupCosineLR", "WarmupStableDecayLR"};
template <>
constexpr std::array kNamesOf<WarmupType> = {"log", "linear"};

namespace {

constexpr Range at_least(double min) { return {.min = min}; }
constexpr Range above(double min) { return {.min = min, .excludes_min = true}; }
constexpr Range between(double min, double max) { return {.min = min, .max = max}; }
constexpr Range fraction_below_one() { return {.min = 0, .max = 1, .excludes_max = true}; }

Option with_example(Option option, Json example) {
  option.example = std::move(example);
  return option;
}

#define OPTION(field, ...) \
  bind(                    \
      #field, [](auto& config) -> auto& { return config.field; }, __VA_ARGS__)

std::vector<Option> make_options() {
  return {
      with_example(
          OPTION(
              train_batch_size,
              "Sequences per step, over all ranks. train_batch_size = "
              "train_micro_batch_size_per_gpu * gradient_accumulation_steps * data_parallel_size; "
              "give one of the first two, the rest is derived or checked.",
              at_least(1)),
          16),
      OPTION(train_micro_batch_size_per_gpu, "Sequences per forward pass of one rank.",
             at_least(1)),
      OPTION(gradient_accumulation_steps, "Micro-batches per step.", at_least(1)),
      OPTION(gradient_clipping, "Largest global gradient norm; 0: no clipping.", at_least(0)),
      OPTION(communication_data_type,
             "Type in which gradients travel when bf16 is enabled; sums are f32 in either."),
      OPTION(steps_per_print, "Steps between two log lines.", at_least(1)),
      OPTION(device, "Where the mathematics runs."),

      OPTION(model.vocab_size,
             "Token ids; the byte tokenizer has 257: 256 bytes and the end of document.",
             at_least(2)),
      OPTION(model.hidden_size, "Width of the residual stream.", at_least(1)),
      OPTION(model.num_hidden_layers, "Transformer blocks.", at_least(1)),
      OPTION(model.num_attention_heads, "Query heads.", at_least(1)),
      OPTION(model.num_key_value_heads,
             "Key and value heads (grouped-query attention). Default: num_attention_heads.",
             at_least(1)),
      OPTION(model.head_dim, "Width of one head, even. Default: hidden_size / num_attention_heads.",
             at_least(2)),
      OPTION(model.intermediate_size, "Width of the dense feed-forward (SwiGLU).", at_least(1)),
      OPTION(model.moe_intermediate_size, "Width of one expert. Default: intermediate_size.",
             at_least(1)),
      OPTION(model.rope_theta, "Base of the rotary position embedding.", above(0)),
      OPTION(model.rms_norm_eps, "Added to the mean square in RMSNorm.", above(0)),
      OPTION(model.initializer_range, "Standard deviation of the initial weights.", above(0)),
      OPTION(model.tie_word_embeddings, "The LM head is the embedding, transposed."),

      OPTION(parallelism.data_parallel_size,
             "Default: ranks / (tensor_parallel_size * pipeline_parallel_size).", at_least(1)),
      OPTION(parallelism.tensor_parallel_size, "Ranks that share every dense matrix.", at_least(1)),
      OPTION(parallelism.pipeline_parallel_size, "Stages of consecutive layers.", at_least(1)),
      OPTION(parallelism.expert_parallel_size,
             "Ranks over which the experts are dealt out; divides num_experts.", at_least(1)),
      OPTION(parallelism.expert_tensor_parallel_size,
             "Ranks that share every expert. Default: tensor_parallel_size.", at_least(1)),
      OPTION(parallelism.sequence_parallel,
             "Between blocks, tensor-parallel ranks hold a slice of the tokens each. Default: true "
             "when tensor_parallel_size > 1."),

      OPTION(pipeline.schedule, "Order of forward and backward passes over the stages."),
      OPTION(pipeline.virtual_stages,
             "Model chunks per rank; above 1 with interleaved_1f1b, 1 without.", at_least(1)),
      OPTION(pipeline.layers_per_stage,
             "Blocks of each chunk in the order of the model, pipeline_parallel_size * "
             "virtual_stages entries. Default: balanced, the embedding and the head counted.",
             at_least(0)),

      OPTION(moe.enabled, "false: all layers are dense."),
      OPTION(moe.num_experts, "Experts per MoE layer.", at_least(1)),
      OPTION(moe.top_k, "Experts per token.", at_least(1)),
      OPTION(moe.router, "Scores of the experts."),
      OPTION(moe.norm_topk_prob,
             "Gate weights are renormalised over the chosen top_k. Never done for top_k = 1."),
      OPTION(moe.routed_scaling_factor, "Factor of the gate weights.", above(0)),
      OPTION(moe.n_group,
             "Groups of experts; a token's experts come from topk_group of them (1: no limit).",
             at_least(1)),
      OPTION(moe.topk_group,
             "Groups a token may choose from: those whose two best scores have the largest sum.",
             at_least(1)),
      OPTION(moe.router_bias_update_rate,
             "Balancing without a loss: after each step an expert's bias in the choice moves by "
             "this much towards even load. 0: no bias.",
             at_least(0)),
      OPTION(moe.sinkhorn_iterations, "router sinkhorn: iterations, always this many.",
             at_least(1)),
      OPTION(moe.expert_activation, "swiglu: three matrices; relu and gelu: two, as in Switch."),
      OPTION(moe.layer_freq,
             "Which layers are MoE: n (layers 0, n, 2n, ...), or one 0 or 1 per layer.",
             at_least(0)),
      OPTION(moe.load_balancing_loss_coef, "Weight of the balance loss of each MoE layer.",
             at_least(0)),
      OPTION(moe.load_balancing_scope, "Tokens over which one balance loss is taken."),
      OPTION(moe.z_loss_coef, "Weight of the router's z-loss of each MoE layer.", at_least(0)),
      OPTION(moe.input_jitter_eps,
             "The router's input is multiplied by random numbers from 1 - eps to 1 + eps.",
             fraction_below_one()),
      OPTION(moe.token_drop_policy,
             "dropless: every choice is served; capacity: an expert serves at most "
             "max(min_capacity, ceil(capacity_factor * top_k * tokens / num_experts))."),
      OPTION(moe.drop_order,
             "Which choices over capacity go first. probs: the least probable, which lets a token "
             "displace an earlier one (not causal); position: first choices before second, then "
             "earlier tokens before later."),
      OPTION(moe.capacity_scope, "Tokens over which the capacity is taken."),
      OPTION(moe.capacity_factor, "Capacity relative to perfect balance.", above(0)),
      OPTION(moe.min_capacity, "Smallest capacity of an expert.", at_least(0)),
      OPTION(moe.eval_capacity_factor,
             "Capacity factor in validation and sampling. Default: dropless there.", above(0)),
      OPTION(moe.num_shared_experts, "Experts that serve every token beside the chosen ones.",
             at_least(0)),
      OPTION(moe.shared_expert_intermediate_size,
             "Width of all shared experts together. Default: num_shared_experts * "
             "moe_intermediate_size.",
             at_least(1)),
      OPTION(moe.force_balanced,
             "Tests and benchmarks only: experts in turn, whatever the router "
             "says."),
      OPTION(moe.max_received_tokens_factor,
             "Bound on the rows a rank receives, relative to perfect balance; 0: none.",
             at_least(0)),

      with_example(OPTION(data.path,
                          "Prefix of the token files PATH.bin and PATH.idx, made by "
                          "`switchyard prepare`."),
                   "data/tokens"),
      OPTION(data.tokenizer, "What made the tokens."),
      OPTION(data.eod_token_id, "The token that ends a document.", at_least(0)),
      OPTION(data.sequence_length, "Tokens per sequence.", at_least(1)),
      OPTION(data.validation_fraction, "Part of the tokens, at their end, held out.",
             fraction_below_one()),
      OPTION(data.document_mask, "Attention and positions start anew at each document."),
      OPTION(data.eod_mask_loss, "No loss where the input token ends a document."),

      OPTION(optimizer.type, "AdamW; Adam means the same, as in DeepSpeed."),
      OPTION(optimizer.params.lr, "Learning rate (the peak, with a scheduler).", at_least(0)),
      OPTION(optimizer.params.betas, "Decay of the first and of the second moment.",
             fraction_below_one()),
      OPTION(optimizer.params.eps, "Added to the root of the second moment.", above(0)),
      OPTION(optimizer.params.weight_decay,
             "Decoupled; not applied to norms, biases and the router.", at_least(0)),

      OPTION(scheduler.type, "Learning rate over the steps."),
      OPTION(scheduler.params.warmup_min_lr, "Learning rate at the start of the warm-up.",
             at_least(0)),
      OPTION(scheduler.params.warmup_max_lr,
             "Learning rate at the end of the warm-up. Default: optimizer.params.lr; for WarmupLR "
             "and WarmupDecayLR, where DeepSpeed would take 0.001 instead, it must be given if the "
             "two differ.",
             at_least(0)),
      OPTION(scheduler.params.warmup_num_steps, "Steps of the warm-up.", at_least(0)),
      OPTION(scheduler.params.warmup_type, "Shape of the warm-up."),
      OPTION(scheduler.params.total_num_steps, "End of the decay. Default: training.max_steps.",
             at_least(1)),
      OPTION(scheduler.params.warmup_min_ratio, "WarmupCosineLR: first learning rate / peak.",
             between(0, 1)),
      OPTION(scheduler.params.cos_min_ratio, "WarmupCosineLR: last learning rate / peak.",
             between(0, 1)),
      OPTION(scheduler.params.decay_num_steps,
             "WarmupStableDecayLR: steps of the linear decay at the end. Default: a tenth of "
             "total_num_steps.",
             at_least(1)),
      OPTION(scheduler.params.decay_min_ratio, "WarmupStableDecayLR: last learning rate / peak.",
             between(0, 1)),

      OPTION(training.max_steps, "Optimizer steps of the run.", at_least(1)),
      OPTION(training.output_dir, "The run directory: config, metrics, weights."),
      OPTION(training.seed, "Of the initial weights, the data order and all other randomness.",
             at_least(0)),
      OPTION(training.eval_interval, "Steps between validations; 0: only at the end.", at_least(0)),
      OPTION(training.eval_num_batches, "Global micro-batches of a validation during the run.",
             at_least(1)),
      OPTION(training.ngram_baselines,
             "Print what byte bigram and trigram models reach on the held-out text."),
      OPTION(training.num_threads, "Per rank; 0: the cores it is bound to.", at_least(0)),
      OPTION(training.trainable,
             "Patterns over parameter names; only what matches is trained. * is any text, {3,5} a "
             "choice, {10..12} a range. Empty: everything."),
      OPTION(training.frozen, "Patterns of what is not trained, whatever `trainable` says."),

      OPTION(zero_optimization.stage,
             "What data-parallel ranks share out: 0 nothing, 1 the "
             "optimizer's state, 2 the gradients as well.",
             between(0, 2)),
      OPTION(
          zero_optimization.overlap_comm,
          "Reduce gradients while the backward runs, gather weights while the next forward does."),
      OPTION(zero_optimization.reduce_once_per_step,
             "Stage 2 with accumulation: one reduction per step, not per micro-batch; every rank "
             "then holds a full gradient, as in stage 1."),
      OPTION(activation_checkpointing.policy,
             "What the backward computes again instead of having kept it. selective: attention's "
             "core and the activations of feed-forwards and experts; full: whole blocks."),
      OPTION(bf16.enabled, "bf16 weights and activations with f32 master weights."),
      OPTION(fp64.enabled, "Everything in f64: slow, for proofs."),
  };
}
#undef OPTION

bool in_range(const Range& range, double value) {
  return std::isfinite(value) && (range.excludes_min ? value > range.min : value >= range.min) &&
         (range.excludes_max ? value < range.max : value <= range.max);
}

// Also 1e6 and 3.0, but not 3.9.
bool is_integer(const Json& value) {
  if (value.is_number_integer()) return true;
  if (!value.is_number_float()) return false;
  const double number = value.get<double>();
  return std::trunc(number) == number && std::abs(number) <= 0x1p53;
}

bool is_exact_number(const Json& value) {
  if (value.is_number_float()) return true;
  if (value.is_number_unsigned()) return value.get<uint64_t>() <= (1ULL << 53);
  return value.is_number_integer() && std::abs(value.get<int64_t>()) <= (1LL << 53);
}

bool fits(const Option& option, const Json& value) {
  const auto all = [&](auto&& predicate) {
    return value.is_array() && std::all_of(value.begin(), value.end(), predicate);
  };
  const auto integer = [&](const Json& item) {
    return is_integer(item) && in_range(option.range, item.get<double>());
  };
  const auto number = [&](const Json& item) {
    return is_exact_number(item) && in_range(option.range, item.get<double>());
  };
  switch (option.kind) {
    case OptionKind::kBoolean:
      return value.is_boolean();
    case OptionKind::kStringList:
      return all([](const Json& item) { return item.is_string(); });
    case OptionKind::kString:
      return value.is_string();
    case OptionKind::kInteger:
      return integer(value);
    case OptionKind::kNumber:
      return number(value);
    case OptionKind::kNumberList:
      return all(number);
    case OptionKind::kIntegerList:
      return all(integer);
    case OptionKind::kIntegerOrList:
      return integer(value) || (all(integer) && !value.empty());
    case OptionKind::kChoice:
      return value.is_string() && std::find(option.choices.begin(), option.choices.end(),
                                            value.get<std::string>()) != option.choices.end();
  }
  return false;
}

std::string range_text(const Range& range, double type_max) {
  const bool has_min = std::isfinite(range.min), has_max = range.max < type_max;
  const std::string min =
      fmt::format("{} {}", range.excludes_min ? "above" : "of at least", range.min);
  const std::string max = fmt::format("{} {}", range.excludes_max ? "below" : "at most", range.max);
  if (has_min && has_max) return fmt::format(" {} and {}", min, max);
  if (has_min) return " " + min;
  return has_max ? " " + max : "";
}

}  // namespace

const std::vector<Option>& all_options() {
  static const std::vector<Option> options = make_options();
  return options;
}

const std::vector<Section>& all_sections() {
  static const std::vector<Section> sections = {
      {"/model", "The transformer, in the names of Hugging Face's config.json."},
      {"/parallelism", "The process grid."},
      {"/pipeline", "How the stages of the pipeline are cut and scheduled."},
      {"/moe", "The Mixture-of-Experts layers."},
      {"/data", "The tokens."},
      {"/optimizer", "As in DeepSpeed."},
      {"/optimizer/params", ""},
      {"/scheduler",
       "As in DeepSpeed, and WarmupStableDecayLR. Left out: a constant learning rate."},
      {"/scheduler/params", ""},
      {"/training", "The run."},
      {"/zero_optimization", "As in DeepSpeed."},
      {"/activation_checkpointing", "Memory for time: activations that are computed again."},
      {"/bf16", "As in DeepSpeed."},
      {"/fp64", ""},
  };
  return sections;
}

const Option* find_option(std::string_view pointer) {
  for (const Option& option : all_options())
    if (option.pointer == pointer) return &option;
  return nullptr;
}

bool is_section(std::string_view pointer) {
  const auto& sections = all_sections();
  return pointer.empty() ||
         std::any_of(sections.begin(), sections.end(),
                     [&](const Section& section) { return section.pointer == pointer; });
}

std::string expectation(const Option& option) {
  switch (option.kind) {
    case OptionKind::kBoolean:
      return "true or false";
    case OptionKind::kString:
      return "a string";
    case OptionKind::kChoice:
      return fmt::format("one of \"{}\"", fmt::join(option.choices, "\", \""));
    case OptionKind::kInteger:
      return "an integer" + range_text(option.range, 2147483647.0);
    case OptionKind::kNumber:
      return "a number" + range_text(option.range, HUGE_VAL);
    case OptionKind::kNumberList:
      return "a list of numbers" + range_text(option.range, HUGE_VAL);
    case OptionKind::kStringList:
      return "a list of strings";
    case OptionKind::kIntegerList:
      return "a list of integers" + range_text(option.range, 2147483647.0);
    case OptionKind::kIntegerOrList:
      return fmt::format("an integer{0}, or a list of such",
                         range_text(option.range, 2147483647.0));
  }
  return "";
}

std::optional<std::string> problem_with(const Option& option, const Json& value) {
  if (fits(option, value)) return std::nullopt;
  return fmt::format("found {}, expected {}", value.dump(), expectation(option));
}

std::string_view parent_of(std::string_view pointer) {
  return pointer.substr(0, pointer.rfind('/'));
}
std::string_view key_of(std::string_view pointer) { return pointer.substr(pointer.rfind('/') + 1); }

}  // namespace switchyard
