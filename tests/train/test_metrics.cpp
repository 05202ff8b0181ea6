// The line of metrics.jsonl that a step leaves.
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "support/catch.h"
#include "train/metrics.h"

using namespace switchyard;

TEST_CASE("a step is one JSON object with these keys, in this order") {
  StepReport report;
  report.step = 3;
  report.tokens = 4096;
  report.lm_loss = 0.1;
  report.all_to_all_bytes = 12345;
  report.peak_memory_bytes = 1 << 20;
  const auto json = nlohmann::ordered_json::parse(to_json_line(report));
  std::vector<std::string> keys;
  for (const auto& [key, value] : json.items()) keys.push_back(key);
  CHECK(keys == std::vector<std::string>{"step",
                                         "tokens",
                                         "lm_loss",
                                         "load_balancing_loss",
                                         "z_loss",
                                         "grad_norm",
                                         "learning_rate",
                                         "step_time_s",
                                         "tokens_per_s",
                                         "tflops",
                                         "mfu",
                                         "all_to_all_time_s",
                                         "all_to_all_bytes",
                                         "expert_load_max_over_mean",
                                         "dropped_fraction",
                                         "moe_layers",
                                         "peak_memory_bytes",
                                         "arena_growths",
                                         "skipped_steps",
                                         "consecutive_skipped_steps"});
  CHECK(json["step"] == 3);
  CHECK(json["all_to_all_bytes"].is_number_integer());
}

TEST_CASE("a skipped step says why") {
  StepReport report;
  report.outcome = StepOutcome::kNotFinite;
  report.skip_reason = "the loss is not finite on rank 1";
  report.skipped_steps = 3;
  report.consecutive_skipped_steps = 2;
  const auto json = nlohmann::json::parse(to_json_line(report));
  CHECK(json["skip_reason"] == report.skip_reason);
  CHECK(json["skipped_steps"] == 3);
  CHECK(json["consecutive_skipped_steps"] == 2);
}

TEST_CASE("what each MoE layer did") {
  StepReport report;
  report.moe.layers = {{.layer = 1,
                        .expert_load_max_over_mean = 1.5,
                        .router_entropy = 0.25,
                        .dead_experts = 2,
                        .dropped_fraction = 0.125},
                       {.layer = 3}};
  const auto layers = nlohmann::json::parse(to_json_line(report))["moe_layers"];
  REQUIRE(layers.size() == 2);
  CHECK(layers[0] == nlohmann::json::parse(R"({"layer": 1, "expert_load_max_over_mean": 1.5,
    "router_entropy": 0.25, "dead_experts": 2, "dropped_fraction": 0.125})"));
  CHECK(layers[1]["layer"] == 3);
}

TEST_CASE("numbers are the shortest text that reads back to the same bits") {
  StepReport report;
  report.lm_loss = 0.1;
  report.grad_norm = 1.0 / 3.0;
  const std::string line = to_json_line(report);
  CHECK(line.find("\"lm_loss\":0.1,") != std::string::npos);
  CHECK(nlohmann::json::parse(line)["grad_norm"].get<double>() == report.grad_norm);
}

TEST_CASE("what JSON cannot say as a number is a string") {
  StepReport report;
  report.lm_loss = std::numeric_limits<double>::quiet_NaN();
  report.grad_norm = std::numeric_limits<double>::infinity();
  report.moe.z_loss = -std::numeric_limits<double>::infinity();
  const auto json = nlohmann::json::parse(to_json_line(report));
  CHECK(json["lm_loss"] == "NaN");
  CHECK(json["grad_norm"] == "Infinity");
  CHECK(json["z_loss"] == "-Infinity");
}
