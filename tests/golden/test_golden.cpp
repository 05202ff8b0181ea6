// The whole model, forward and backward in f64, against one that was written independently in NumPy
// (tools/reference_model.py, which says what the golden files hold). Each <case>.json is an
// ordinary configuration; <case>.safetensors has the weights, the batch and what must come out.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <string>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "backend/ops.h"
#include "checkpoint/safetensors.h"
#include "comm/self_communicator.h"
#include "config/config.h"
#include "data/tokenizer.h"
#include "model/moe/routing_log.h"
#include "model/stage.h"
#include "optim/zero_optimizer.h"
#include "support/catch.h"

using namespace switchyard;
using namespace switchyard::test;
namespace fs = std::filesystem;

namespace {

const fs::path kGolden = fs::path(SWITCHYARD_SOURCE_DIR) / "tests" / "golden";
constexpr double kTolerance = 1e-8;  // of the larger of 1 and the largest element

std::vector<std::string> case_names() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(kGolden))
    if (entry.path().extension() == ".json") names.push_back(entry.path().stem().string());
  std::sort(names.begin(), names.end());
  return names;
}

RunConfig config_of(const std::string& name) {
  const fs::path path = kGolden / (name + ".json");
  std::ifstream file(path);
  const std::string text(std::istreambuf_iterator<char>(file), {});
  return load_config({.name = path.filename().string(), .text = text}, 1);
}

// max |found - expected| / max(1, max |expected|)
double error_of(const std::vector<double>& found, const std::vector<double>& expected) {
  if (found.size() != expected.size()) return INFINITY;
  double difference = 0, scale = 1;
  for (size_t i = 0; i < found.size(); ++i) {
    if (!std::isfinite(found[i])) return INFINITY;
    difference = std::max(difference, std::abs(found[i] - expected[i]));
    scale = std::max(scale, std::abs(expected[i]));
  }
  return difference / scale;
}

std::vector<double> values_of(Tensor tensor) {
  const auto values = tensor.span<double>();
  return {values.begin(), values.end()};
}

double sum_of(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum;
}

// The batch of a case, with its documents found by walking back from each token.
struct GoldenBatch {
  std::vector<int32_t> token_ids, targets, positions, first_visible;
  double num_targets = 0;

  GoldenBatch(const SafetensorsFile& file, const RunConfig& config)
      : token_ids(file.read_as<int32_t>("input.token_ids")),
        targets(file.read_as<int32_t>("input.targets")) {
    const auto S = static_cast<int32_t>(config.data.sequence_length);
    for (int32_t row = 0; row < static_cast<int32_t>(token_ids.size()); ++row) {
      int32_t begin = row;
      while (begin % S != 0 &&
             !(config.data.document_mask &&
               token_ids[static_cast<size_t>(begin - 1)] == ByteTokenizer::kEndOfDocument))
        --begin;
      first_visible.push_back(begin);
      positions.push_back(row - begin);
      num_targets += targets[static_cast<size_t>(row)] != kIgnoredTarget ? 1 : 0;
    }
  }

  MicroBatch view(const RunConfig& config) {
    const auto T = static_cast<int64_t>(token_ids.size());
    return {.num_sequences = T / config.data.sequence_length,
            .sequence_length = config.data.sequence_length,
            .first_row = 0,
            .global_rows = T,
            .token_ids = Tensor(token_ids.data(), DType::kI32, {T}),
            .targets = Tensor(targets.data(), DType::kI32, {T}),
            .positions = Tensor(positions.data(), DType::kI32, {T}),
            .first_visible = Tensor(first_visible.data(), DType::kI32, {T})};
  }
};

// The model of a case, with its weights, after one forward and backward pass over its batch.
class GoldenModel {
 public:
  GoldenModel(const RunConfig& config, const SafetensorsFile& file)
      : config_(config), host_(file, config) {
    for (Parameter* parameter : stage_.parameters()) {
      const std::vector<double> values = file.read_as<double>(parameter->name);
      SY_CHECK(file.info(parameter->name).shape == parameter->shape, "{} has another shape",
               parameter->name);
      std::copy(values.begin(), values.end(), parameter->weight.data<double>());
    }
    for (const StateTensor& state : stage_.state()) {
      const std::vector<double> values = file.read_as<double>(state.name);
      std::copy(values.begin(), values.end(), state.tensor.data<double>());
    }
    run();
  }

  StateList state() const { return stage_.state(); }
  ParameterList parameters() { return stage_.parameters(); }
  int num_moe_layers() const { return switchyard::num_moe_layers(config_); }
  const RoutingLog::Routes& routes(int moe_layer) const { return routing_.at(0, moe_layer); }
  const std::vector<double>& logits() const { return logits_; }
  const std::vector<double>& hidden() const { return hidden_; }

  double lm_loss() const { return values_.loss_sum / host_.num_targets; }
  double load_balancing_loss() const {
    const bool by_sequence = config_.moe.load_balancing_scope == BalanceScope::kSequence;
    const double num_scopes = by_sequence ? num_tokens() / sequence_length() : 1;
    return mean_over_layers(values_.balance_sum) / num_scopes;
  }
  double z_loss() const { return mean_over_layers(values_.z_sum) / num_tokens(); }
  double dropped() const {
    const auto num_columns = static_cast<size_t>(config_.moe.num_experts) + 1;
    double dropped = 0;
    for (size_t i = num_columns; i <= values_.expert_load.size(); i += num_columns)
      dropped += values_.expert_load[i - 1];
    return dropped;
  }

 private:
  void run() {
    std::vector<double> scalars(static_cast<size_t>(kNumStepScalars), 0.0);
    scalars[static_cast<size_t>(StepScalar::kInverseTargetCount)] = 1 / host_.num_targets;
    const MicroBatch batch = host_.view(config_);
    Arena activations(backend_), scratch(backend_), recomputed(backend_);
    Arena::Scope slot(activations);
    Pass pass{.queue = backend_.compute_queue(),
              .activations = activations,
              .scratch = scratch,
              .kept = activations,
              .recomputed = recomputed,
              .batch = batch,
              .statistics = statistics_.statistics(),
              .scalars = Tensor(scalars.data(), DType::kF64, {kNumStepScalars}),
              .routing = &routing_};
    Stage::Saved saved;
    statistics_.clear(pass.queue);
    optimizer_.begin_step();
    stage_.forward(pass, Tensor(), saved);
    values_ = statistics_.download(pass.queue);
    hidden_ = values_of(saved.head.x_TD);
    stage_.backward(pass, Tensor(), saved);
    logits_ = values_of(stage_.logits(pass, saved));  // forward() has put gradients in their place
  }

  double num_tokens() const { return static_cast<double>(host_.token_ids.size()); }
  double sequence_length() const { return static_cast<double>(config_.data.sequence_length); }
  double mean_over_layers(const std::vector<double>& values) const {
    return values.empty() ? 0 : sum_of(values) / static_cast<double>(values.size());
  }

  const RunConfig& config_;
  GoldenBatch host_;
  CpuBackend backend_{1};
  SelfCommunicator world_{"world"};
  ProcessGrid grid_{world_, GridSizes{}};
  Stage stage_{backend_, grid_, config_, whole_model(config_)};
  ZeroOptimizer optimizer_{backend_, grid_, config_, stage_.parameters()};
  StatisticsBuffer statistics_{backend_, switchyard::num_moe_layers(config_),
                               config_.moe.num_experts};
  RoutingLog routing_;
  StatisticsBuffer::Values values_;
  std::vector<double> logits_, hidden_;
};

// Runs `check(name, config, file)` for each case.
template <typename Check>
void for_each_case(Check check) {
  const std::vector<std::string> names = case_names();
  REQUIRE(names.size() >= 19);
  for (const std::string& name : names) {
    INFO("case " << name);
    const RunConfig config = config_of(name);
    const SafetensorsFile file((kGolden / (name + ".safetensors")).string());
    GoldenModel model(config, file);
    check(config, file, model);
  }
}

}  // namespace

TEST_CASE("golden: the model has the tensors of the reference, no more and no less") {
  for_each_case([](const RunConfig&, const SafetensorsFile& file, GoldenModel& model) {
    std::set<std::string> expected, found;
    for (const std::string& name : file.names())
      if (name.rfind("input.", 0) != 0 && name.rfind("output.", 0) != 0 &&
          name.rfind("gradient.", 0) != 0)
        expected.insert(name);
    for (const Parameter* parameter : model.parameters()) found.insert(parameter->name);
    for (const StateTensor& state : model.state()) found.insert(state.name);
    CHECK(found == expected);
  });
}

TEST_CASE("golden: routing, drops, hidden states, logits and losses are those of the reference") {
  for_each_case([](const RunConfig& config, const SafetensorsFile& file, GoldenModel& model) {
    int moe_layer = 0;
    for (int layer = 0; layer < config.model.num_hidden_layers; ++layer) {
      const std::string name = "output.layers." + std::to_string(layer);
      const bool is_moe = config.moe.enabled && config.moe.layer_freq[static_cast<size_t>(layer)];
      CAPTURE(layer);
      REQUIRE(file.contains(name + ".experts") == is_moe);
      if (!is_moe) continue;
      const RoutingLog::Routes& routes = model.routes(moe_layer++);
      CHECK(routes.expert == file.read_as<int32_t>(name + ".experts"));
      CHECK(routes.kept == file.read_as<int32_t>(name + ".kept"));
    }
    CHECK(model.num_moe_layers() == moe_layer);
    CHECK(model.dropped() == file.read_as<double>("output.dropped")[0]);

    const auto output_error = [&](const std::string& name, const std::vector<double>& found) {
      return error_of(found, file.read_as<double>("output." + name));
    };
    CHECK(output_error("hidden", model.hidden()) <= kTolerance);
    CHECK(output_error("logits", model.logits()) <= kTolerance);
    CHECK(output_error("lm_loss", {model.lm_loss()}) <= kTolerance);
    CHECK(output_error("load_balancing_loss", {model.load_balancing_loss()}) <= kTolerance);
    CHECK(output_error("z_loss", {model.z_loss()}) <= kTolerance);
  });
}

TEST_CASE("golden: gradients are the reference's finite differences") {
  for_each_case([](const RunConfig&, const SafetensorsFile& file, GoldenModel& model) {
    for (const Parameter* parameter : model.parameters()) {
      std::vector<double> found;
      for (const int32_t index : file.read_as<int32_t>("gradient.index." + parameter->name))
        found.push_back(parameter->gradient().span<double>()[static_cast<size_t>(index)]);
      const std::vector<double> expected =
          file.read_as<double>("gradient.value." + parameter->name);
      INFO(parameter->name);
      CHECK(error_of(found, expected) <= kTolerance);
    }
  });
}

TEST_CASE("golden: the cases drop tokens, mask documents and ignore targets") {
  // What the files do not exercise, the tests above would not see.
  int with_drops = 0, with_documents = 0, with_ignored = 0;
  for_each_case([&](const RunConfig& config, const SafetensorsFile& file, GoldenModel& model) {
    with_drops += model.dropped() > 0 ? 1 : 0;
    const GoldenBatch batch(file, config);
    for (size_t row = 0; row < batch.positions.size(); ++row)
      if (batch.first_visible[row] % config.data.sequence_length != 0) {
        ++with_documents;
        break;
      }
    with_ignored += batch.num_targets < static_cast<double>(batch.targets.size()) ? 1 : 0;
  });
  CHECK(with_drops >= 5);
  CHECK(with_documents >= 1);
  CHECK(with_ignored >= 19);
}
