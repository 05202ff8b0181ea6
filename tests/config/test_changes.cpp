// What may change between the checkpoint of a run and the job that resumes it.
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "config/changes.h"
#include "config/config_text.h"
#include "support/catch.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

Json saved(const RunConfig& config) { return Json::parse(to_json(config)); }

// The message of the refusal, "" when the resume is allowed.
std::string refusal(const RunConfig& before, const RunConfig& now,
                    const std::vector<std::string>& overrides = {}) {
  try {
    check_changes(saved(before), now, overrides);
  } catch (const Error& error) {
    return error.code() == ExitCode::kConfig ? error.what() : "wrong exit code";
  }
  return "";
}

RunConfig with(const std::string& more, int num_ranks = 1) {
  return load(config_with(more), num_ranks);
}

std::vector<std::string> keys_of(const std::vector<ConfigChange>& changes) {
  std::vector<std::string> keys;
  for (const ConfigChange& change : changes) keys.push_back(change.pointer);
  return keys;
}

// Any other value that the key takes.
Json another_value(const Option& option, const Json& value) {
  switch (option.kind) {
    case OptionKind::kBoolean:
      return !value.is_null() && value.get<bool>() ? Json(false) : Json(true);
    case OptionKind::kString:
      return "something else";
    case OptionKind::kChoice:
      return value == option.choices.back() ? option.choices.front() : option.choices.back();
    case OptionKind::kIntegerList:
    case OptionKind::kIntegerOrList:
      return Json::array({0, 1, 0, 1, 1});
    case OptionKind::kNumberList:
      return Json::array({0.25, 0.5});
    case OptionKind::kStringList:
      return Json::array({"*"});
    case OptionKind::kInteger:
    case OptionKind::kNumber:
      for (const double candidate : {1.0, 2.0, 0.5, 3.0})
        if (!problem_with(option, candidate) &&
            (value.is_null() || value.get<double>() != candidate))
          return candidate;
  }
  return nullptr;
}

}  // namespace

TEST_CASE("the class of every key") {
  // Sections whose keys are all of one class, and single keys; a new key has to be entered here.
  const std::map<std::string, OptionClass> classes = {
      {"/model", OptionClass::kModel},
      {"/model/rope_theta", OptionClass::kMathematics},
      {"/model/rms_norm_eps", OptionClass::kMathematics},
      {"/model/initializer_range", OptionClass::kMathematics},
      {"/parallelism", OptionClass::kLayout},
      {"/pipeline", OptionClass::kLayout},
      {"/zero_optimization", OptionClass::kLayout},
      {"/activation_checkpointing", OptionClass::kLayout},
      {"/device", OptionClass::kLayout},
      {"/train_micro_batch_size_per_gpu", OptionClass::kLayout},
      {"/train_batch_size", OptionClass::kMathematics},
      {"/gradient_accumulation_steps", OptionClass::kMathematics},
      {"/gradient_clipping", OptionClass::kMathematics},
      {"/communication_data_type", OptionClass::kMathematics},
      {"/steps_per_print", OptionClass::kOperations},
      {"/moe", OptionClass::kMathematics},
      {"/moe/enabled", OptionClass::kModel},
      {"/moe/num_experts", OptionClass::kModel},
      {"/moe/expert_activation", OptionClass::kModel},
      {"/moe/layer_freq", OptionClass::kModel},
      {"/moe/num_shared_experts", OptionClass::kModel},
      {"/moe/shared_expert_intermediate_size", OptionClass::kModel},
      {"/moe/max_received_tokens_factor", OptionClass::kOperations},
      {"/data", OptionClass::kMathematics},
      {"/optimizer/type", OptionClass::kMathematics},
      {"/optimizer/params", OptionClass::kMathematics},
      {"/scheduler/type", OptionClass::kMathematics},
      {"/scheduler/params", OptionClass::kMathematics},
      {"/training/seed", OptionClass::kMathematics},
      {"/training/trainable", OptionClass::kModel},
      {"/training/frozen", OptionClass::kModel},
      {"/training/max_steps", OptionClass::kOperations},
      {"/training/output_dir", OptionClass::kOperations},
      {"/training/eval_interval", OptionClass::kOperations},
      {"/training/eval_num_batches", OptionClass::kOperations},
      {"/training/ngram_baselines", OptionClass::kOperations},
      {"/training/num_threads", OptionClass::kOperations},
      {"/training/max_wall_time", OptionClass::kOperations},
      {"/training/stop_margin", OptionClass::kOperations},
      {"/training/max_skipped_steps", OptionClass::kOperations},
      {"/training/replica_check_interval", OptionClass::kOperations},
      {"/checkpoint", OptionClass::kOperations},
      {"/watchdog", OptionClass::kOperations},
      {"/loss_spike", OptionClass::kMathematics},
      {"/bf16", OptionClass::kModel},
      {"/fp64", OptionClass::kModel},
  };
  for (const Option& option : all_options()) {
    CAPTURE(option.pointer);
    auto found = classes.find(option.pointer);
    if (found == classes.end()) found = classes.find(std::string(parent_of(option.pointer)));
    REQUIRE(found != classes.end());
    CHECK(found->second == option.option_class);
  }
}

TEST_CASE("every key: a change of it alone is found, and treated as its class says") {
  const RunConfig before = with(R"("scheduler": {"type": "WarmupCosineLR"})");
  int tried = 0;
  for (const Option& option : all_options()) {
    if (option.choices.size() == 1) continue;  // cannot change
    RunConfig now = before;
    // Its parameters are read by this type of scheduler only.
    const std::string_view key = key_of(option.pointer);
    RunConfig base = before;
    if (key == "decay_num_steps" || key == "decay_min_ratio" || key == "warmup_min_lr" ||
        key == "warmup_max_lr")
      base.scheduler.type = SchedulerType::kWarmupStableDecayLR;
    now = base;
    const Json value = another_value(option, option.get(base));
    CAPTURE(option.pointer, value.dump());
    REQUIRE(!value.is_null());
    option.set(now, value);
    CHECK(keys_of(compare(saved(base), now)) == std::vector<std::string>{option.pointer});
    std::string name = option.pointer.substr(1);
    std::replace(name.begin(), name.end(), '/', '.');
    const bool is_free = option.option_class == OptionClass::kLayout ||
                         option.option_class == OptionClass::kOperations;
    CHECK(refusal(base, now).empty() == is_free);
    const bool may_be_named = is_free || option.option_class == OptionClass::kMathematics;
    CHECK(refusal(base, now, {name}).empty() == may_be_named);
    CHECK(check_changes(saved(base), base, {}).empty());
    ++tried;
  }
  CHECK(tried > 100);
}

TEST_CASE("a refusal lists every change with both values, and the options that allow it") {
  const RunConfig before = with(R"("optimizer": {"params": {"lr": 0.5}})");
  RunConfig now = with(R"("optimizer": {"params": {"lr": 0.25, "betas": [0.5, 0.75]}},
                          "model": {"hidden_size": 128}, "training": {"num_threads": 3})");
  const std::string message = refusal(before, now, {"optimizer.params.betas"});
  CHECK_THAT(message, contains_text("optimizer.params.lr: 0.5 -> 0.25"));
  CHECK_THAT(message, contains_text("model.hidden_size: 256 -> 128"));
  CHECK_THAT(message, contains_text("--override optimizer.params.lr"));
  CHECK_THAT(message, !contains_text("betas"));
  CHECK_THAT(message, !contains_text("num_threads"));
  CHECK_THAT(message, !contains_text("scheduler"));  // a constant rate reads none of it
  now.model.hidden_size = 256;
  now.model.head_dim = before.model.head_dim;
  CHECK(refusal(before, now, {"optimizer.params.betas", "optimizer.params.lr"}).empty());
  const auto allowed =
      check_changes(saved(before), now,
                    std::vector<std::string>{"optimizer.params.betas", "optimizer.params.lr"});
  CHECK(keys_of(allowed) == std::vector<std::string>{"/optimizer/params/lr",
                                                     "/optimizer/params/betas",
                                                     "/training/num_threads"});
}

TEST_CASE("a longer run is free, unless the learning rate decays until its end") {
  const auto steps = [](const std::string& type, int max_steps, const std::string& more = "") {
    return with(R"("scheduler": {"type": ")" + type + R"(", "params": {"warmup_max_lr": 0.001)" +
                more + R"(}}, "training": {"max_steps": )" + std::to_string(max_steps) + "}");
  };
  CHECK(refusal(steps("Constant", 100), steps("Constant", 200)).empty());
  CHECK(refusal(steps("WarmupLR", 100), steps("WarmupLR", 200)).empty());
  for (const char* type : {"WarmupDecayLR", "WarmupCosineLR", "WarmupStableDecayLR"})
    CHECK_THAT(refusal(steps(type, 100), steps(type, 200)),
               contains_text("scheduler.params.total_num_steps: 100 -> 200"));
  const std::string total = R"(, "total_num_steps": 100)";
  CHECK(refusal(steps("WarmupCosineLR", 100, total), steps("WarmupCosineLR", 200, total)).empty());
}

TEST_CASE("another data-parallel size keeps the batch, or is told the micro-batch that does") {
  const auto batch = [](int dp, int micro, int train) {
    return load(R"({"data": {"path": "x"}, "train_batch_size": )" + std::to_string(train) +
                    R"(, "train_micro_batch_size_per_gpu": )" + std::to_string(micro) + "}",
                dp);
  };
  const RunConfig before = batch(2, 4, 16);  // accumulation 2
  CHECK(refusal(before, batch(4, 2, 16)).empty());
  CHECK(refusal(before, batch(1, 8, 16)).empty());
  CHECK_THAT(refusal(before, batch(4, 4, 16)),  // accumulation 1
             contains_text("train_batch_size 16, gradient_accumulation_steps 2, "
                           "train_micro_batch_size_per_gpu 2"));
  CHECK_THAT(refusal(before, batch(1, 4, 16)),  // accumulation 4
             contains_text("train_micro_batch_size_per_gpu 8"));
  CHECK_THAT(refusal(before, batch(4, 4, 32)),  // a larger batch
             contains_text("train_micro_batch_size_per_gpu 2"));
  CHECK_THAT(refusal(before, batch(3, 4, 24)),
             contains_text("choose a data_parallel_size that divides 8"));
  // A change elsewhere says nothing of the batch.
  RunConfig now = before;
  now.training.seed = 1;
  CHECK_THAT(refusal(before, now), !contains_text("micro"));
}

TEST_CASE("a configuration saved by another version") {
  const RunConfig now = with("\"steps_per_print\": 3");
  Json json = saved(now);
  json["moe"].erase("top_k");  // came later: has its default
  CHECK(compare(json, now).empty());
  RunConfig other = now;
  other.moe.top_k = 1;
  CHECK(keys_of(compare(json, other)) == std::vector<std::string>{"/moe/top_k"});

  const auto code_of = [&](const Json& broken) {
    try {
      compare(broken, now);
    } catch (const Error& error) {
      return error.code();
    }
    return ExitCode::kOk;
  };
  Json unknown = saved(now);
  unknown["moe"]["from_the_future"] = 1;
  CHECK(code_of(unknown) == ExitCode::kData);
  Json wrong = saved(now);
  wrong["moe"]["top_k"] = "two";
  CHECK(code_of(wrong) == ExitCode::kData);
  CHECK(code_of(Json::array()) == ExitCode::kData);
}

TEST_CASE("--override with a key that does not exist is refused with a hint") {
  const RunConfig config = with("\"steps_per_print\": 3");
  CHECK_THAT(refusal(config, config, {"optimizer.params.lrr"}), contains_text("did you mean"));
  CHECK(refusal(config, config, {"optimizer.params.lr"}).empty());
}
