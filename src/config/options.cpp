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
template <>
constexpr std::array kNamesOf<SpikePolicy> = {"off", "skip", "rollback"};

namespace {

// Far beyond any model, and small enough that numbers of weights and products fit 63 bits.
constexpr double kMaxHiddenSize = 1 << 20, kMaxWidth = 1 << 24, kMaxCount = 1 << 16;
constexpr double kMaxPerToken = 1 << 10, kMaxLayers = 10'000;

constexpr Range at_least(double min) { return {.min = min}; }
constexpr Range above(double min) { return {.min = min, .excludes_min = true}; }
constexpr Range between(double min, double max) { return {.min = min, .max = max}; }
constexpr Range fraction_below_one() { return {.min = 0, .max = 1, .excludes_max = true}; }

Option with_example(Option option, Json example) {
  option.example = std::move(example);
  return option;
}

// OPTION(moe.top_k, kMathematics, "Experts per token.", between(1, kMaxPerToken)): no key without a
// class.
#define OPTION(field, option_class, ...)                                                     \
  bind(                                                                                      \
      #field, OptionClass::option_class, [](auto& config) -> auto& { return config.field; }, \
      __VA_ARGS__)

std::vector<Option> make_options() {
  return {
      with_example(
          OPTION(
              train_batch_size, kMathematics,
              "Sequences per step, over all ranks. train_batch_size = "
              "train_micro_batch_size_per_gpu * gradient_accumulation_steps * data_parallel_size; "
              "give one of the first two, the rest is derived or checked.",
              at_least(1)),
          16),
      OPTION(train_micro_batch_size_per_gpu, kLayout, "Sequences per forward pass of one rank.",
             at_least(1)),
      OPTION(gradient_accumulation_steps, kMathematics, "Micro-batches per step.", at_least(1)),
      OPTION(gradient_clipping, kMathematics, "Largest global gradient norm; 0: no clipping.",
             at_least(0)),
      OPTION(communication_data_type, kMathematics,
             "Type in which gradients travel when bf16 is enabled; sums are f32 in either."),
      OPTION(steps_per_print, kOperations, "Steps between two log lines.", at_least(1)),
      OPTION(device, kLayout,
             "Where the mathematics runs. Default: cuda if this build can and every rank sees a "
             "GPU, else cpu."),

      OPTION(model.vocab_size, kModel,
             "Token ids; the byte tokenizer has 257: 256 bytes and the end of document.",
             between(2, kMaxWidth)),
      OPTION(model.hidden_size, kModel, "Width of the residual stream.",
             between(1, kMaxHiddenSize)),
      OPTION(model.num_hidden_layers, kModel, "Transformer blocks.", between(1, kMaxLayers)),
      OPTION(model.num_attention_heads, kModel, "Query heads.", between(1, kMaxCount)),
      OPTION(model.num_key_value_heads, kModel,
             "Key and value heads (grouped-query attention). Default: num_attention_heads.",
             between(1, kMaxCount)),
      OPTION(model.head_dim, kModel,
             "Width of one head, even. Default: hidden_size / num_attention_heads.",
             between(2, kMaxCount)),
      OPTION(model.intermediate_size, kModel, "Width of the dense feed-forward (SwiGLU).",
             between(1, kMaxWidth)),
      OPTION(model.moe_intermediate_size, kModel,
             "Width of one expert. Default: intermediate_size.", between(1, kMaxWidth)),
      OPTION(model.rope_theta, kMathematics, "Base of the rotary position embedding.", above(0)),
      OPTION(model.rms_norm_eps, kMathematics, "Added to the mean square in RMSNorm.", above(0)),
      OPTION(model.initializer_range, kMathematics, "Standard deviation of the initial weights.",
             above(0)),
      OPTION(model.tie_word_embeddings, kModel, "The LM head is the embedding, transposed."),

      OPTION(parallelism.data_parallel_size, kLayout,
             "Default: ranks / (tensor_parallel_size * pipeline_parallel_size).", at_least(1)),
      OPTION(parallelism.tensor_parallel_size, kLayout, "Ranks that share every dense matrix.",
             at_least(1)),
      OPTION(parallelism.pipeline_parallel_size, kLayout, "Stages of consecutive layers.",
             at_least(1)),
      OPTION(parallelism.expert_parallel_size, kLayout,
             "Ranks over which the experts are dealt out; divides num_experts.", at_least(1)),
      OPTION(parallelism.expert_tensor_parallel_size, kLayout,
             "Ranks that share every expert. Default: tensor_parallel_size.", at_least(1)),
      OPTION(parallelism.sequence_parallel, kLayout,
             "Between blocks, tensor-parallel ranks hold a slice of the tokens each. Default: true "
             "when tensor_parallel_size > 1."),

      OPTION(pipeline.schedule, kLayout, "Order of forward and backward passes over the stages."),
      OPTION(pipeline.virtual_stages, kLayout,
             "Model chunks per rank; above 1 with interleaved_1f1b, 1 without.", at_least(1)),
      OPTION(pipeline.layers_per_stage, kLayout,
             "Blocks of each chunk in the order of the model, pipeline_parallel_size * "
             "virtual_stages entries. Default: balanced, the embedding and the head counted.",
             at_least(0)),

      OPTION(moe.enabled, kModel, "false: all layers are dense."),
      OPTION(moe.num_experts, kModel, "Experts per MoE layer.", between(1, kMaxCount)),
      OPTION(moe.top_k, kMathematics, "Experts per token.", at_least(1)),
      OPTION(moe.router, kMathematics, "Scores of the experts."),
      OPTION(moe.norm_topk_prob, kMathematics,
             "Gate weights are renormalised over the chosen top_k. Never done for top_k = 1."),
      OPTION(moe.routed_scaling_factor, kMathematics, "Factor of the gate weights.", above(0)),
      OPTION(moe.n_group, kMathematics,
             "Groups of experts; a token's experts come from topk_group of them (1: no limit).",
             at_least(1)),
      OPTION(moe.topk_group, kMathematics,
             "Groups a token may choose from: those whose two best scores have the largest sum.",
             at_least(1)),
      OPTION(moe.router_bias_update_rate, kMathematics,
             "Balancing without a loss: after each step an expert's bias in the choice moves by "
             "this much towards even load. 0: no bias.",
             at_least(0)),
      OPTION(moe.sinkhorn_iterations, kMathematics,
             "router sinkhorn: iterations, always this many.", at_least(1)),
      OPTION(moe.expert_activation, kModel,
             "swiglu: three matrices; relu and gelu: two, as in Switch."),
      OPTION(moe.layer_freq, kModel,
             "Which layers are MoE: n (layers 0, n, 2n, ...), or one 0 or 1 per layer.",
             at_least(0)),
      OPTION(moe.load_balancing_loss_coef, kMathematics,
             "Weight of the balance loss of each MoE layer.", at_least(0)),
      OPTION(moe.load_balancing_scope, kMathematics,
             "Tokens over which one balance loss is taken."),
      OPTION(moe.z_loss_coef, kMathematics, "Weight of the router's z-loss of each MoE layer.",
             at_least(0)),
      OPTION(moe.input_jitter_eps, kMathematics,
             "The router's input is multiplied by random numbers from 1 - eps to 1 + eps.",
             fraction_below_one()),
      OPTION(moe.token_drop_policy, kMathematics,
             "dropless: every choice is served; capacity: an expert serves at most "
             "max(min_capacity, ceil(capacity_factor * top_k * tokens / num_experts))."),
      OPTION(moe.drop_order, kMathematics,
             "Which choices over capacity go first. probs: the least probable, which lets a token "
             "displace an earlier one (not causal); position: first choices before second, then "
             "earlier tokens before later."),
      OPTION(moe.capacity_scope, kMathematics, "Tokens over which the capacity is taken."),
      OPTION(moe.capacity_factor, kMathematics, "Capacity relative to perfect balance.", above(0)),
      OPTION(moe.min_capacity, kMathematics, "Smallest capacity of an expert.", at_least(0)),
      OPTION(moe.eval_capacity_factor, kMathematics,
             "Capacity factor in validation and sampling. Default: dropless there.", above(0)),
      OPTION(moe.num_shared_experts, kModel,
             "Experts that serve every token beside the chosen ones.", between(0, kMaxPerToken)),
      OPTION(moe.shared_expert_intermediate_size, kModel,
             "Width of all shared experts together. Default: num_shared_experts * "
             "moe_intermediate_size.",
             between(1, kMaxWidth)),
      OPTION(moe.force_balanced, kMathematics,
             "Tests and benchmarks only: experts in turn, whatever the router "
             "says."),
      OPTION(moe.max_received_tokens_factor, kOperations,
             "Bound on the rows a rank receives, relative to perfect balance; 0: none.",
             at_least(0)),

      with_example(OPTION(data.path, kMathematics,
                          "Prefix of the token files PATH.bin and PATH.idx, made by "
                          "`switchyard prepare`."),
                   "data/tokens"),
      OPTION(data.tokenizer, kMathematics, "What made the tokens."),
      OPTION(data.eod_token_id, kMathematics, "The token that ends a document.", at_least(0)),
      OPTION(data.sequence_length, kMathematics, "Tokens per sequence.", between(1, kMaxWidth)),
      OPTION(data.validation_fraction, kMathematics, "Part of the tokens, at their end, held out.",
             fraction_below_one()),
      OPTION(data.document_mask, kMathematics,
             "Attention and positions start anew at each document."),
      OPTION(data.eod_mask_loss, kMathematics, "No loss where the input token ends a document."),

      OPTION(optimizer.type, kMathematics, "AdamW; Adam means the same, as in DeepSpeed."),
      OPTION(optimizer.params.lr, kMathematics, "Learning rate (the peak, with a scheduler).",
             at_least(0)),
      OPTION(optimizer.params.betas, kMathematics, "Decay of the first and of the second moment.",
             fraction_below_one()),
      OPTION(optimizer.params.eps, kMathematics, "Added to the root of the second moment.",
             above(0)),
      OPTION(optimizer.params.weight_decay, kMathematics,
             "Decoupled; not applied to norms, biases and the router.", at_least(0)),

      OPTION(scheduler.type, kMathematics, "Learning rate over the steps."),
      OPTION(scheduler.params.warmup_min_lr, kMathematics,
             "Learning rate at the start of the warm-up.", at_least(0)),
      OPTION(scheduler.params.warmup_max_lr, kMathematics,
             "Learning rate at the end of the warm-up. Default: optimizer.params.lr; for WarmupLR "
             "and WarmupDecayLR, where DeepSpeed would take 0.001 instead, it must be given if the "
             "two differ.",
             at_least(0)),
      OPTION(scheduler.params.warmup_num_steps, kMathematics, "Steps of the warm-up.", at_least(0)),
      OPTION(scheduler.params.warmup_type, kMathematics, "Shape of the warm-up."),
      OPTION(scheduler.params.total_num_steps, kMathematics,
             "End of the decay. Default: training.max_steps.", at_least(1)),
      OPTION(scheduler.params.warmup_min_ratio, kMathematics,
             "WarmupCosineLR: first learning rate / peak.", between(0, 1)),
      OPTION(scheduler.params.cos_min_ratio, kMathematics,
             "WarmupCosineLR: last learning rate / peak.", between(0, 1)),
      OPTION(scheduler.params.decay_num_steps, kMathematics,
             "WarmupStableDecayLR: steps of the linear decay at the end. Default: a tenth of "
             "total_num_steps.",
             at_least(1)),
      OPTION(scheduler.params.decay_min_ratio, kMathematics,
             "WarmupStableDecayLR: last learning rate / peak.", between(0, 1)),

      OPTION(training.max_steps, kOperations, "Optimizer steps of the run.", at_least(1)),
      OPTION(training.output_dir, kOperations, "The run directory: config, metrics, weights."),
      OPTION(training.seed, kMathematics,
             "Of the initial weights, the data order and all other randomness.", at_least(0)),
      OPTION(training.eval_interval, kOperations, "Steps between validations; 0: only at the end.",
             at_least(0)),
      OPTION(training.eval_num_batches, kOperations,
             "Global micro-batches of a validation during the run.", at_least(1)),
      OPTION(training.ngram_baselines, kOperations,
             "Print what byte bigram and trigram models reach on the held-out text."),
      OPTION(training.num_threads, kOperations, "Per rank; 0: the cores it is bound to.",
             at_least(0)),
      OPTION(training.trainable, kModel,
             "Patterns over parameter names; only what matches is trained. * is any text, {3,5} a "
             "choice, {10..12} a range. Empty: everything."),
      OPTION(training.frozen, kModel,
             "Patterns of what is not trained, whatever `trainable` says."),

      OPTION(training.max_wall_time, kOperations,
             "Seconds of wall time after which the run saves and stops (exit code 75); 0: none.",
             at_least(0)),
      OPTION(training.stop_margin, kOperations,
             "Seconds before max_wall_time, or before the end of the SLURM job, at which to stop.",
             at_least(0)),
      OPTION(training.max_skipped_steps, kOperations,
             "Steps in a row that are skipped (loss or gradient not finite, loss spikes), and "
             "rollbacks to "
             "the same checkpoint, before the run ends (77).",
             at_least(1)),
      OPTION(training.replica_check_interval, kOperations,
             "Steps between comparisons of state that several ranks hold; 0: never.", at_least(0)),

      OPTION(checkpoint.interval_steps, kOperations,
             "Steps between checkpoints; 0: only before the first step and after the last.",
             at_least(0)),
      OPTION(checkpoint.interval_minutes, kOperations,
             "Minutes between checkpoints, as well; 0: none.", at_least(0)),
      OPTION(checkpoint.keep_last, kOperations, "Newest checkpoints that are kept, two at least.",
             at_least(2)),
      OPTION(checkpoint.keep_every, kOperations,
             "Checkpoints of multiples of this step stay for ever; 0: none.", at_least(0)),
      OPTION(checkpoint.async, kOperations, "Write beside training, from a copy of the state."),
      OPTION(checkpoint.save_timeout, kOperations,
             "Seconds after which a save that hangs counts as failed. Three failed saves in a row "
             "end the run.",
             above(0)),

      OPTION(watchdog.enabled, kOperations,
             "Ends the job (exit code 76) when a rank makes no progress."),
      OPTION(watchdog.timeout, kOperations, "Seconds without progress before the alarm, at least.",
             above(0)),
      OPTION(watchdog.gap_factor, kOperations,
             "And at least this many times the longest pause seen in the same phase.", at_least(1)),
      OPTION(watchdog.check_collectives, kOperations,
             "For debugging: before each collective, ranks compare what they are about to call."),

      OPTION(loss_spike.policy, kMathematics,
             "What follows a loss that leaps: nothing, the step is skipped, or training goes back "
             "to the last checkpoint and passes over the samples since."),
      OPTION(loss_spike.z_score, kMathematics,
             "Standard deviations above the mean of the window that make a spike.", above(0)),
      OPTION(loss_spike.window, kMathematics,
             "Accepted losses to compare with; none is judged before it is full.", at_least(2)),

      OPTION(zero_optimization.stage, kLayout,
             "What data-parallel ranks share out: 0 nothing, 1 the "
             "optimizer's state, 2 the gradients as well.",
             between(0, 2)),
      OPTION(
          zero_optimization.overlap_comm, kLayout,
          "Reduce gradients while the backward runs, gather weights while the next forward does."),
      OPTION(zero_optimization.reduce_once_per_step, kLayout,
             "Stage 2 with accumulation: one reduction per step, not per micro-batch; every rank "
             "then holds a full gradient, as in stage 1."),
      OPTION(activation_checkpointing.policy, kLayout,
             "What the backward computes again instead of having kept it. selective: attention's "
             "core and the activations of feed-forwards and experts; full: whole blocks."),
      OPTION(bf16.enabled, kModel, "bf16 weights and activations with f32 master weights."),
      OPTION(fp64.enabled, kModel, "Everything in f64: slow, for proofs."),
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
      {"/checkpoint", "When and how the state of the run is saved."},
      {"/watchdog", "Finds ranks that hang."},
      {"/loss_spike", "What to do when the loss leaps."},
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
