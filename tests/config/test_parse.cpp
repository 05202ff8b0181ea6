// Strict reading of one file: every kind of mistake, where it stands, and what is said of it.
#include "config/config_text.h"
#include "support/catch.h"

using namespace switchyard;
using namespace switchyard::test;

TEST_CASE("comments, nested sections, integers written as floats and both forms of layer_freq") {
  const RunConfig config = load(config_with(R"(/* a
    comment */ "training": {"max_steps": 1e3, "seed": 3.0}, // another
    "model": {"num_hidden_layers": 4, "rope_theta": 500000},
    "optimizer": {"type": "Adam", "params": {"betas": [0.9, 0.95]}},
    "moe": {"enabled": true, "layer_freq": 2, "token_drop_policy": "capacity"})"));
  CHECK(config.training.max_steps == 1000);
  CHECK(config.training.seed == 3);
  CHECK(config.model.rope_theta == 500000.0);
  CHECK(config.optimizer.params.betas == std::vector<double>{0.9, 0.95});
  CHECK(config.moe.layer_freq == std::vector<int>{1, 0, 1, 0});
  CHECK(config.moe.token_drop_policy == TokenDropPolicy::kCapacity);
  CHECK(
      load(config_with(R"("moe": {"enabled": true, "layer_freq": [0, 1, 1, 0]})")).moe.layer_freq ==
      std::vector<int>{0, 1, 1, 0});
}

TEST_CASE("unknown keys are named with line, column and a guess") {
  const auto said = [](const std::string& more) { return message_of(config_with(more)); };
  CHECK(said(R"(  "modle": {})") == "c.json:3:3: /modle: unknown key; did you mean \"model\"?");
  CHECK(said("\"moe\": {\n  \"top_kk\": 2}") ==
        "c.json:4:3: /moe/top_kk: unknown key; did you mean \"top_k\"?");
  CHECK(said(R"("moe": {"tpo_k": 2})") ==
        "c.json:3:9: /moe/tpo_k: unknown key; did you mean \"top_k\"?");
  CHECK(said(R"("model": {"num_experts": 2})") ==
        "c.json:3:11: /model/num_experts: unknown key; did you mean moe.num_experts?");
  CHECK(said(R"("moe": {"qqqqqqqq": 2})") == "c.json:3:9: /moe/qqqqqqqq: unknown key");
  CHECK(said(R"("moe/top_k": 2)") == "c.json:3:1: /moe~1top_k: unknown key");
  CHECK(said(R"("a\"b": 2)") == "c.json:3:1: /a\"b: unknown key");
}

TEST_CASE("names known from other frameworks lead to ours") {
  const std::vector<std::pair<std::string, std::string>> names = {
      {"ep_size", "parallelism.expert_parallel_size"},
      {"moe_ep_size", "parallelism.expert_parallel_size"},
      {"moe_tp_size", "parallelism.expert_tensor_parallel_size"},
      {"num_local_experts", "moe.num_experts"},
      {"num_experts_per_tok", "moe.top_k"},
      {"router_aux_loss_coef", "moe.load_balancing_loss_coef"},
      {"max_position_embeddings", "data.sequence_length"},
      {"micro_batch_size", "train_micro_batch_size_per_gpu"},
      {"virtual_pipeline_model_parallel_size", "pipeline.virtual_stages"},
      {"num_layers_per_virtual_pipeline_stage", "pipeline.layers_per_stage"},
      {"recompute_granularity", "activation_checkpointing.policy"},
      {"overlap_grad_reduce", "zero_optimization.overlap_comm"},
      {"use_distributed_optimizer", "zero_optimization.stage"},
      {"num_expert_groups", "moe.n_group"},
      {"scoring_func", "moe.router"},
      {"grad_reduce_in_bf16", "communication_data_type"},
      {"lr", "optimizer.params.lr"}};
  for (const auto& [foreign, ours] : names)
    for (const std::string section : {"model", "moe", "parallelism"})
      if (foreign != "lr")
        CHECK(message_of(config_with("\"" + section + "\": {\"" + foreign + "\": 1}")) ==
              "c.json:3:" + std::to_string(section.size() + 6) + ": /" + section + "/" + foreign +
                  ": unknown key; it is called " + ours + " here");
}

TEST_CASE("hyphens of a command line are read as underscores") {
  CHECK(message_of(config_with(R"("sequence-parallel": true)")) ==
        "c.json:3:1: /sequence-parallel: unknown key; did you mean parallelism.sequence_parallel?");
  CHECK_THAT(message_of(config_with(R"("moe": {"overlap-grad-reduce": true})")),
             contains_text("it is called zero_optimization.overlap_comm here"));
}

TEST_CASE("wrong types, lossy numbers and values out of range") {
  const auto said = [](const std::string& more) { return message_of(config_with(more)); };
  CHECK(said(R"("moe": {"top_k": 3.9})") ==
        "c.json:3:9: /moe/top_k: found 3.9, expected an integer of at least 1");
  CHECK(said(R"("moe": {"top_k": "2"})") ==
        "c.json:3:9: /moe/top_k: found \"2\", expected an integer of at least 1");
  CHECK(said(R"("moe": {"top_k": 0})") ==
        "c.json:3:9: /moe/top_k: found 0, expected an integer of at least 1");
  CHECK_THAT(said(R"("moe": {"top_k": 3000000000})"), contains_text("found 3000000000"));
  CHECK_THAT(said(R"("training": {"seed": 18446744073709551615})"), contains_text("found 1844"));
  CHECK_THAT(said(R"("training": {"seed": -1})"), contains_text("found -1"));
  CHECK_THAT(said(R"("training": {"max_steps": 1e300})"), contains_text("found 1e+300"));
  CHECK_THAT(said(R"("model": {"rope_theta": 9007199254740993})"), contains_text("found 9007"));
  CHECK_THAT(said(R"("model": {"rope_theta": 1e999})"), contains_text("not valid JSON"));
  CHECK_THAT(said(R"("model": {"rope_theta": 0})"), contains_text("expected a number above 0"));
  CHECK_THAT(said(R"("model": {"hidden_size": null})"), contains_text("found null"));
  CHECK_THAT(said(R"("moe": {"enabled": 1})"), contains_text("found 1, expected true or false"));
  CHECK_THAT(said(R"("moe": {"top_k": [2]})"), contains_text("found [2]"));
  CHECK_THAT(said(R"("moe": {"top_k": {}})"), contains_text("found an object"));
  CHECK_THAT(said(R"("moe": 3)"), contains_text("/moe: found 3, expected an object"));
  CHECK_THAT(said(R"("moe": {"layer_freq": [[1]]})"), contains_text("found [[1]]"));
  CHECK_THAT(said(R"("moe": {"layer_freq": []})"), contains_text("found []"));
  CHECK_THAT(said(R"("optimizer": {"params": {"betas": [0.9, 1.0]}})"), contains_text("below 1"));
  CHECK_THAT(
      said(R"("moe": {"token_drop_policy": "droples"})"),
      contains_text("expected one of \"dropless\", \"capacity\"; did you mean \"dropless\"?"));
}

TEST_CASE("a duplicate key is an error, not the last one's victory") {
  CHECK(message_of(config_with("\"moe\": {\"top_k\": 1,\n \"top_k\": 2}")) ==
        "c.json:4:2: /moe/top_k: this key was given before; remove one of the two");
  CHECK_THAT(message_of(config_with("\"moe\": {},\n\"moe\": {}")),
             contains_text("c.json:4:1: /moe"));
}

TEST_CASE("all errors come together") {
  const std::string message = message_of(R"({"modle": {}, "train_batch_size": "many",
    "moe": {"enabled": true, "num_experts": 9, "top_k": 10},
    "parallelism": {"expert_parallel_size": 2}})",
                                         2);
  CHECK_THAT(message, contains_text("5 errors in the configuration\n"));
  for (const std::string part :
       {"/modle: unknown", "/train_batch_size: found \"many\"", "/moe/top_k: 10",
        "2 does not divide num_experts 9", "/data/path: missing"})
    CHECK_THAT(message, contains_text(part));
}

TEST_CASE("text that is not JSON is located") {
  CHECK_THAT(message_of("{\"a\": 1,\n  }"),
             contains_text("c.json:2:3: not valid JSON: syntax error"));
  CHECK_THAT(message_of(""), contains_text("c.json:1:1: not valid JSON"));
  CHECK_THAT(message_of("[1]"), contains_text("expected an object"));
  CHECK_THAT(message_of("{} x"), contains_text("c.json:1:4: not valid JSON"));
  CHECK_THAT(message_of(config_with(R"("moe": [{"top_k": 1}])")), contains_text("inside a list"));
  CHECK_THAT(message_of("{\"a\": \"\xff\"}"), contains_text("not valid JSON"));
}

TEST_CASE("what would cost time or memory out of proportion is refused at once") {
  std::string objects = "{", lists = "{\"a\":";
  for (int i = 0; i < 10'000; ++i) objects += "\"a\":{";
  CHECK_THAT(message_of(objects), contains_text("nested more than 64 deep"));
  CHECK_THAT(message_of(lists + std::string(100'000, '[')),
             contains_text("c.json:1:69: nested more than 64 deep"));
  CHECK_THAT(message_of("{}", 1, {"model.name=\xff"}), contains_text("not UTF-8"));
  CHECK_THAT(message_of("{}", 1, {std::string(100'000, '.') + "=1"}),
             contains_text("nested more than 64 deep"));
  CHECK_THAT(message_of("{}", 1, {"model.num_hidden_layers=2147483647"}),
             contains_text("found 2147483647"));
  CHECK_THAT(message_of("{}", 1, {"model.hidden_size=2147483647"}),
             contains_text("found 2147483647"));
}

TEST_CASE("--set overrides values, makes sections, and is checked alike") {
  const std::string text = config_with(R"("moe": {"enabled": true, "top_k": 1})");
  const RunConfig config = load(text, 1,
                                {"moe.top_k=2", "optimizer.params.betas=[0.8, 0.9]",
                                 "training.output_dir=runs/a", "moe.top_k=3"});
  CHECK(config.moe.top_k == 3);
  CHECK(config.optimizer.params.betas == std::vector<double>{0.8, 0.9});
  CHECK(config.training.output_dir == "runs/a");
  CHECK(message_of(text, 1, {"moe.topk=2"}) ==
        "--set moe.topk=2: /moe/topk: unknown key; did you mean \"top_k\"?");
  CHECK_THAT(message_of(text, 1, {"moe.top_k=many"}), contains_text("--set moe.top_k=many"));
  CHECK_THAT(message_of(text, 1, {"moe.top_k"}), contains_text("expected KEY=VALUE"));
  CHECK_THAT(message_of(text, 1, {"train_batch_size.x=1"}), contains_text("is not a section"));
}
