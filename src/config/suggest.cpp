#include "config/suggest.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "config/options.h"

namespace switchyard {
namespace {

// Names that people know from DeepSpeed, Megatron-LM, Hugging Face and others.
constexpr std::array kForeignNames = std::to_array<std::pair<std::string_view, std::string_view>>({
    {"ep_size", "parallelism.expert_parallel_size"},
    {"moe_ep_size", "parallelism.expert_parallel_size"},
    {"expert_model_parallel_size", "parallelism.expert_parallel_size"},
    {"moe_tp_size", "parallelism.expert_tensor_parallel_size"},
    {"etp_size", "parallelism.expert_tensor_parallel_size"},
    {"expert_tensor_parallel_degree", "parallelism.expert_tensor_parallel_size"},
    {"tp_size", "parallelism.tensor_parallel_size"},
    {"autotp_size", "parallelism.tensor_parallel_size"},
    {"tensor_model_parallel_size", "parallelism.tensor_parallel_size"},
    {"pp_size", "parallelism.pipeline_parallel_size"},
    {"pipeline_model_parallel_size", "parallelism.pipeline_parallel_size"},
    {"dp_size", "parallelism.data_parallel_size"},
    {"tensor_parallel", "parallelism.tensor_parallel_size"},
    {"model_parallel_size", "parallelism.tensor_parallel_size"},
    {"tp_degree", "parallelism.tensor_parallel_size"},
    {"pp_degree", "parallelism.pipeline_parallel_size"},
    {"stages", "parallelism.pipeline_parallel_size"},
    {"enable_sequence_parallel", "parallelism.sequence_parallel"},
    {"sp", "parallelism.sequence_parallel"},
    {"pipeline_schedule", "pipeline.schedule"},
    {"pipeline_parallel_schedule", "pipeline.schedule"},
    {"virtual_pipeline_model_parallel_size", "pipeline.virtual_stages"},
    {"num_virtual_stages_per_pipeline_rank", "pipeline.virtual_stages"},
    {"num_layers_per_virtual_pipeline_stage", "pipeline.layers_per_stage"},
    {"pipeline_model_parallel_layout", "pipeline.layers_per_stage"},
    {"decoder_first_pipeline_num_layers", "pipeline.layers_per_stage"},
    {"decoder_last_pipeline_num_layers", "pipeline.layers_per_stage"},
    {"zero_stage", "zero_optimization.stage"},
    {"zero", "zero_optimization"},
    {"overlap_grad_reduce", "zero_optimization.overlap_comm"},
    {"overlap_param_gather", "zero_optimization.overlap_comm"},
    {"use_distributed_optimizer", "zero_optimization.stage"},
    {"recompute_granularity", "activation_checkpointing.policy"},
    {"recompute_method", "activation_checkpointing.policy"},
    {"gradient_checkpointing", "activation_checkpointing.policy"},
    {"recompute", "activation_checkpointing"},
    {"grad_reduce_in_bf16", "communication_data_type"},
    {"reduce_dtype", "communication_data_type"},
    {"moe_router_num_groups", "moe.n_group"},
    {"num_expert_groups", "moe.n_group"},
    {"moe_router_group_topk", "moe.topk_group"},
    {"num_limited_groups", "moe.topk_group"},
    {"moe_router_topk_scaling_factor", "moe.routed_scaling_factor"},
    {"route_scale", "moe.routed_scaling_factor"},
    {"moe_router_bias_update_rate", "moe.router_bias_update_rate"},
    {"bias_update_speed", "moe.router_bias_update_rate"},
    {"moe_router_score_function", "moe.router"},
    {"scoring_func", "moe.router"},
    {"score_func", "moe.router"},
    {"moe_router_load_balancing_type", "moe.load_balancing_scope"},
    {"hidden_act", "moe.expert_activation"},
    {"activation_func", "moe.expert_activation"},
    {"num_local_experts", "moe.num_experts"},
    {"n_routed_experts", "moe.num_experts"},
    {"num_moe_experts", "moe.num_experts"},
    {"n_experts", "moe.num_experts"},
    {"num_experts_per_tok", "moe.top_k"},
    {"num_experts_per_token", "moe.top_k"},
    {"moe_router_topk", "moe.top_k"},
    {"k", "moe.top_k"},
    {"n_shared_experts", "moe.num_shared_experts"},
    {"router_aux_loss_coef", "moe.load_balancing_loss_coef"},
    {"aux_loss_alpha", "moe.load_balancing_loss_coef"},
    {"moe_aux_loss_coeff", "moe.load_balancing_loss_coef"},
    {"router_z_loss_coef", "moe.z_loss_coef"},
    {"moe_z_loss_coeff", "moe.z_loss_coef"},
    {"router_jitter_noise", "moe.input_jitter_eps"},
    {"moe_input_jitter_eps", "moe.input_jitter_eps"},
    {"moe_layer_freq", "moe.layer_freq"},
    {"decoder_sparse_step", "moe.layer_freq"},
    {"moe_expert_capacity_factor", "moe.capacity_factor"},
    {"drop_tokens", "moe.token_drop_policy"},
    {"moe_token_drop_policy", "moe.drop_order"},
    {"moe_ffn_hidden_size", "model.moe_intermediate_size"},
    {"ffn_hidden_size", "model.intermediate_size"},
    {"num_layers", "model.num_hidden_layers"},
    {"n_layer", "model.num_hidden_layers"},
    {"n_embd", "model.hidden_size"},
    {"n_head", "model.num_attention_heads"},
    {"num_query_groups", "model.num_key_value_heads"},
    {"kv_channels", "model.head_dim"},
    {"rotary_base", "model.rope_theta"},
    {"norm_epsilon", "model.rms_norm_eps"},
    {"init_method_std", "model.initializer_range"},
    {"padded_vocab_size", "model.vocab_size"},
    {"max_position_embeddings", "data.sequence_length"},
    {"seq_length", "data.sequence_length"},
    {"seq_len", "data.sequence_length"},
    {"data_path", "data.path"},
    {"eos_token_id", "data.eod_token_id"},
    {"reset_attention_mask", "data.document_mask"},
    {"global_batch_size", "train_batch_size"},
    {"micro_batch_size", "train_micro_batch_size_per_gpu"},
    {"per_device_train_batch_size", "train_micro_batch_size_per_gpu"},
    {"learning_rate", "optimizer.params.lr"},
    {"lr", "optimizer.params.lr"},
    {"clip_grad", "gradient_clipping"},
    {"max_grad_norm", "gradient_clipping"},
    {"train_iters", "training.max_steps"},
    {"num_train_steps", "training.max_steps"},
    {"log_interval", "steps_per_print"},
    {"save", "training.output_dir"},
    {"fp16", "bf16"},
    {"bfloat16", "bf16"},
});

// Optimal string alignment: insertions, deletions, substitutions and swaps of neighbours.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::vector<size_t>> d(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) d[i][0] = i;
  for (size_t j = 0; j <= b.size(); ++j) d[0][j] = j;
  for (size_t i = 1; i <= a.size(); ++i)
    for (size_t j = 1; j <= b.size(); ++j) {
      d[i][j] =
          std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
    }
  return d[a.size()][b.size()];
}

std::string dotted(std::string_view pointer) {
  std::string name(pointer.substr(1));
  std::replace(name.begin(), name.end(), '/', '.');
  return name;
}

std::vector<std::string> keys_of_section(std::string_view section) {
  std::vector<std::string> keys;
  const auto add = [&](std::string_view pointer) {
    if (parent_of(pointer) == section) keys.emplace_back(key_of(pointer));
  };
  for (const Option& option : all_options()) add(option.pointer);
  for (const Section& other : all_sections()) add(other.pointer);
  return keys;
}

}  // namespace

std::string nearest(std::string_view word, const std::vector<std::string>& candidates) {
  constexpr size_t kLongestMistake = 100;
  if (word.size() > kLongestMistake) return "";  // no name is like it, and finding out takes long
  std::string best;
  size_t best_distance = std::max<size_t>(1, word.size() / 3) + 1;
  for (const std::string& candidate : candidates)
    if (const size_t distance = edit_distance(word, candidate); distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  return best;
}

std::string hint_for_unknown_key(std::string_view pointer) {
  std::string key(key_of(pointer));
  std::replace(key.begin(), key.end(), '-', '_');  // as on Megatron-LM's command line
  for (const auto& [foreign, ours] : kForeignNames)
    if (key == foreign) return fmt::format("; it is called {} here", ours);
  for (const Option& option : all_options())
    if (key_of(option.pointer) == key)
      return fmt::format("; did you mean {}?", dotted(option.pointer));
  if (const std::string near = nearest(key, keys_of_section(parent_of(pointer))); !near.empty())
    return fmt::format("; did you mean \"{}\"?", near);
  std::vector<std::string> everywhere;
  for (const Option& option : all_options()) everywhere.emplace_back(key_of(option.pointer));
  if (const std::string near = nearest(key, everywhere); !near.empty())
    for (const Option& option : all_options())
      if (key_of(option.pointer) == near)
        return fmt::format("; did you mean {}?", dotted(option.pointer));
  return "";
}

}  // namespace switchyard
