// RunConfig: everything a user can choose, one struct per section of the JSON file. Read and
// validated once (config/config.h); nothing later checks it again.
//
// Keys are DeepSpeed's where DeepSpeed has the key (names and defaults of version 0.19.6), Hugging
// Face's in `model`. The table that binds keys, defaults, ranges and descriptions to these fields
// is config/options.cpp. std::optional fields may be left out by the user; resolve() fills each of
// them, unless its comment says otherwise.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/dtype.h"

namespace switchyard {

struct ModelConfig {         // "model": names of Hugging Face's config.json
  int64_t vocab_size = 257;  // 256 bytes and the end-of-document token
  int64_t hidden_size = 256;
  int num_hidden_layers = 4;
  int num_attention_heads = 8;
  std::optional<int> num_key_value_heads = {};        // default: num_attention_heads
  std::optional<int64_t> head_dim = {};               // default: hidden_size / num_attention_heads
  int64_t intermediate_size = 1024;                   // of the dense feed-forward
  std::optional<int64_t> moe_intermediate_size = {};  // of one expert; default: intermediate_size
  double rope_theta = 10000.0;
  double rms_norm_eps = 1e-5;
  double initializer_range = 0.02;
  bool tie_word_embeddings = false;
};

struct ParallelismConfig {                     // "parallelism"
  std::optional<int> data_parallel_size = {};  // default: ranks / (tp * pp)
  int tensor_parallel_size = 1;
  int pipeline_parallel_size = 1;
  int expert_parallel_size = 1;
  std::optional<int> expert_tensor_parallel_size = {};  // default: tensor_parallel_size
  std::optional<bool> sequence_parallel = {};           // default: tensor_parallel_size > 1
};

enum class ScheduleKind { kGPipe, k1F1B, kInterleaved1F1B, kZeroBubbleH1 };  // "gpipe", "1f1b", ...

struct PipelineConfig {  // "pipeline"
  ScheduleKind schedule = ScheduleKind::k1F1B;
  int virtual_stages = 1;  // model chunks per rank; above 1 for interleaved_1f1b only
  // Blocks of each chunk in the order of the model (pp * virtual_stages entries). Empty as parsed:
  // balanced; resolve() fills it.
  std::vector<int64_t> layers_per_stage = {};
};

enum class TokenDropPolicy { kDropless, kCapacity };  // "dropless", "capacity"
enum class DropOrderConfig { kProbs, kPosition };     // "probs", "position"
enum class BalanceScope {
  kSequence,
  kMicroBatch,
  kGlobalBatch
};  // "sequence", "micro_batch", "global_batch"
enum class RouterKind { kSoftmax, kSigmoid, kSinkhorn };  // "softmax", "sigmoid", "sinkhorn"
enum class ExpertActivation { kSwiGLU, kReLU, kGELU };    // "swiglu", "relu", "gelu"

struct MoeConfig {  // "moe"
  bool enabled = false;
  int num_experts = 8;
  int top_k = 2;
  RouterKind router = RouterKind::kSoftmax;
  bool norm_topk_prob = true;          // weights renormalised over the chosen k; never for k = 1
  double routed_scaling_factor = 1.0;  // of the gate weights, after the renormalisation
  // Group-limited choice (arXiv 2412.19437): experts of the best topk_group of n_group groups only.
  int n_group = 1;
  int topk_group = 1;
  double router_bias_update_rate = 0;  // balancing without a loss (arXiv 2408.15664); 0: off
  int sinkhorn_iterations = 8;         // router "sinkhorn"
  ExpertActivation expert_activation = ExpertActivation::kSwiGLU;
  // Which layers are MoE: one number n (layers 0, n, 2n, ...), or one 0/1 per layer. As parsed:
  // a single entry is n, several entries are the list. resolve() expands it to one 0/1 per layer.
  std::vector<int> layer_freq = {1};
  double load_balancing_loss_coef = 1e-2;
  BalanceScope load_balancing_scope = BalanceScope::kSequence;
  double z_loss_coef = 0.0;
  double input_jitter_eps = 0.0;
  TokenDropPolicy token_drop_policy = TokenDropPolicy::kDropless;
  DropOrderConfig drop_order = DropOrderConfig::kProbs;
  BalanceScope capacity_scope = BalanceScope::kSequence;
  double capacity_factor = 1.0;
  int64_t min_capacity = 4;
  std::optional<double> eval_capacity_factor =
      {};  // stays empty: dropless in validation and sampling
  int num_shared_experts = 0;
  std::optional<int64_t> shared_expert_intermediate_size =
      {};                       // of all shared experts together;
                                // default: num_shared * moe_intermediate
  bool force_balanced = false;  // tests and benchmarks: round-robin routing
  double max_received_tokens_factor =
      0;  // bound on rows received / rows of perfect balance; 0: none
};

enum class TokenizerKind { kByte };  // "byte"

struct DataConfig {  // "data"
  std::string path;  // prefix of the .bin/.idx pair
  TokenizerKind tokenizer = TokenizerKind::kByte;
  int32_t eod_token_id = 256;  // end of document; of the byte tokenizer: 256
  int64_t sequence_length = 256;
  double validation_fraction = 0.05;  // of the token stream, at its end
  bool document_mask = false;         // attention and positions start anew at document borders
  bool eod_mask_loss = false;         // no loss where the input token is the end of a document
};

struct AdamWParams {  // "optimizer": {"params"}
  double lr = 1e-3;
  std::vector<double> betas = {0.9, 0.999};
  double eps = 1e-8;
  double weight_decay = 0.0;
};
enum class OptimizerType { kAdamW };  // "AdamW", "Adam"
struct OptimizerConfig {              // "optimizer"
  OptimizerType type = OptimizerType::kAdamW;
  AdamWParams params;
};

enum class SchedulerType {
  kConstant,
  kWarmupLR,
  kWarmupDecayLR,
  kWarmupCosineLR,
  kWarmupStableDecayLR
};
enum class WarmupType { kLog, kLinear };
struct SchedulerParams {  // "scheduler": {"params"}
  double warmup_min_lr = 0.0;
  std::optional<double> warmup_max_lr = {};  // default: see config/resolve.cpp
  int64_t warmup_num_steps = 1000;
  WarmupType warmup_type = WarmupType::kLog;
  std::optional<int64_t> total_num_steps = {};  // default: training.max_steps
  double warmup_min_ratio = 0.0;                // WarmupCosineLR
  double cos_min_ratio = 1e-4;                  // WarmupCosineLR
  std::optional<int64_t> decay_num_steps = {};  // WarmupStableDecayLR; default: total / 10
  double decay_min_ratio = 0.0;                 // WarmupStableDecayLR
};
struct SchedulerConfig {  // "scheduler"; type "Constant" when the section is left out
  SchedulerType type = SchedulerType::kConstant;
  SchedulerParams params;
};

struct TrainingConfig {  // "training"
  int64_t max_steps = 100;
  std::string output_dir = "runs/default";  // the run directory
  uint64_t seed = 1234;
  int64_t eval_interval = 0;     // steps between validations; 0: only at the end
  int64_t eval_num_batches = 8;  // global micro-batches per periodic validation
  bool ngram_baselines = false;  // print byte bigram and trigram baselines beside the validation
  int num_threads = 0;           // per rank; 0: the cores of its affinity mask
  // Patterns over parameter names; resolve() leaves them as they are (model/trainable.h).
  std::vector<std::string> trainable = {};  // only what matches is trained; empty: everything
  std::vector<std::string> frozen = {};     // what matches is not, whatever `trainable` says
  double max_wall_time = 0;                 // seconds after which to save and stop; 0: none
  double stop_margin = 120;  // seconds before max_wall_time, or the end of a SLURM job, to stop at
  int64_t max_skipped_steps = 10;        // in a row, before the run ends
  int64_t replica_check_interval = 100;  // steps between comparisons of replicas; 0: never
};

struct CheckpointConfig {      // "checkpoint"
  int64_t interval_steps = 0;  // 0: only the first step and the last
  double interval_minutes = 0;
  int64_t keep_last = 3;
  int64_t keep_every = 0;     // steps; 0: none for ever
  bool async = true;          // write beside training
  double save_timeout = 600;  // seconds after which a save counts as failed
};

struct WatchdogConfig {  // "watchdog"
  bool enabled = true;
  double timeout = 30;             // seconds without progress, at least
  double gap_factor = 10;          // or this many times the longest gap seen in the phase
  bool check_collectives = false;  // debug mode: compare calls before they are made
};

enum class SpikePolicy { kOff, kSkip, kRollback };  // "off", "skip", "rollback"
struct LossSpikeConfig {                            // "loss_spike"
  SpikePolicy policy = SpikePolicy::kOff;
  double z_score = 6;    // standard deviations above the mean of the window
  int64_t window = 128;  // accepted losses; judged once the window is full
};

struct ZeroConfig {  // "zero_optimization"
  int stage = 0;
  bool overlap_comm = true;  // reduce while the backward runs, gather while the forward does
  bool reduce_once_per_step = false;  // stage 2 with accumulation: fewer messages, a full gradient
};

enum class ReductionType { kFP32, kBF16 };  // "fp32", "bf16"

enum class RecomputePolicy { kNone, kSelective, kFull };  // "none", "selective", "full"
struct ActivationCheckpointingConfig {                    // "activation_checkpointing"
  RecomputePolicy policy = RecomputePolicy::kNone;
};

struct PrecisionConfig {  // "bf16", "fp64"
  bool enabled = false;
};

enum class Device { kCpu, kCuda };  // "cpu", "cuda"

struct RunConfig {
  std::optional<int64_t> train_batch_size = {};  // sequences per step; the batch triple:
  std::optional<int64_t> train_micro_batch_size_per_gpu = {};  // train = micro * accumulation * dp
  std::optional<int64_t> gradient_accumulation_steps = {};
  double gradient_clipping = 0.0;                                // 0: no clipping
  ReductionType communication_data_type = ReductionType::kFP32;  // of gradients, with bf16 only
  int64_t steps_per_print = 10;
  std::optional<Device> device = {};  // stays empty: the command chooses (cli/device_choice.h)
  ModelConfig model;
  ParallelismConfig parallelism;
  PipelineConfig pipeline;
  MoeConfig moe;
  DataConfig data;
  OptimizerConfig optimizer;
  SchedulerConfig scheduler;
  TrainingConfig training;
  ZeroConfig zero_optimization;
  ActivationCheckpointingConfig activation_checkpointing;
  CheckpointConfig checkpoint;
  WatchdogConfig watchdog;
  LossSpikeConfig loss_spike;
  PrecisionConfig bf16;
  PrecisionConfig fp64;

  // Of weights and activations. Gradients, moments and statistics have accumulator_of(real()).
  DType real() const {
    if (fp64.enabled) return DType::kF64;
    return bf16.enabled ? DType::kBF16 : DType::kF32;
  }
};

}  // namespace switchyard
