// What verify says is at fault, from made-up checks; which layouts it tries one by one.
#include "config/config.h"
#include "support/catch.h"
#include "verify/diagnosis.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

const ParameterGroup kDense = {.name = "dense", .summed_over = {"dp"}};
const ParameterGroup kNorms = {.name = "copies over tp", .summed_over = {"dp", "tp"}};
const ParameterGroup kExperts = {.name = "experts", .summed_over = {"edp"}};

Check gradient(const ParameterGroup& group, bool ok) {
  return {.what = kGradientOf,
          .step = 1,
          .parameter = "w",
          .group = group,
          .difference = ok ? 0 : 1.0,
          .bound = 1e-9};
}

Check loss(bool ok) {
  return {.what = kLoss, .step = 1, .difference = ok ? 0 : 1.0, .bound = 1e-9};
}

std::string verdict(const std::vector<Check>& checks,
                    const std::vector<IsolatedLayout>& isolated = {}) {
  return what_is_at_fault(checks, isolated);
}

}  // namespace

TEST_CASE("wrong gradients name the sum that they share") {
  CHECK(verdict({loss(true), gradient(kDense, true), gradient(kNorms, true),
                 gradient(kExperts, false)}) == "gradients of experts: their sum over edp");
  CHECK(verdict({loss(true), gradient(kDense, false), gradient(kNorms, false),
                 gradient(kExperts, true)}) ==
        "gradients of copies over tp, dense: their sum over dp");
  CHECK(verdict({loss(true), gradient(kDense, true), gradient(kNorms, false),
                 gradient(kExperts, true)}) == "gradients of copies over tp: their sum over tp");
  const ParameterGroup tied = {.name = "tied embedding", .summed_over = {"dp", "tied"}};
  CHECK(verdict(
            {loss(true), gradient(kDense, true), gradient(kNorms, false), gradient(tied, false)}) ==
        "gradients of copies over tp, tied embedding: their sum over tied, tp");
  // Sums over all gradients say nothing by themselves.
  for (const char* sum : {kGradientNorm, kAllGradients})
    CHECK_THAT(verdict({loss(true),
                        {.what = sum, .step = 1, .difference = 1},
                        gradient(kDense, true),
                        gradient(kExperts, false)}),
               contains_text("edp"));
}

TEST_CASE("a wrong loss, or gradients without a common sum, name the dimension that fails alone") {
  const std::vector<IsolatedLayout> isolated = {{.dimension = "dp"},
                                                {.dimension = "ep", .num_failed = 3}};
  const std::string ep = "ep: wrong without any other dimension";
  CHECK(verdict({loss(false), gradient(kExperts, false), gradient(kDense, true)}, isolated) == ep);
  CHECK(verdict({loss(true), gradient(kDense, false), gradient(kNorms, true)}, isolated) == ep);
  CHECK_THAT(verdict({loss(false)}, {{.dimension = "dp"}}), contains_text("a combination"));
  CHECK_THAT(verdict({loss(false)}, {{.dimension = "tp", .not_valid = "why"}}),
             contains_text("tp, or a combination"));
}

TEST_CASE("values that are wrong to begin with come before everything else") {
  CHECK(verdict({loss(false),
                 gradient(kExperts, false),
                 {.what = kInitialValueOf, .group = kDense, .difference = 1}}) ==
        "initial values of dense (dp), to begin with");
}

TEST_CASE("a right first step with wrong values behind it is the optimizer's") {
  const std::string said = "weights after the first step: the update or the gathering of ";
  const auto wrong_value = [](int64_t step) {
    return Check{.what = kValueOf, .step = step, .group = kExperts, .difference = 1};
  };
  for (const int64_t step : {1, 3})
    CHECK(verdict({loss(true), gradient(kExperts, true), wrong_value(step)}) ==
          said + "experts (edp)");
  CHECK(verdict(
            {loss(true), gradient(kExperts, true), {.what = kLoss, .step = 2, .difference = 1}}) ==
        said + "some of them");
}

TEST_CASE("each dimension is tried alone, on as many ranks, with the batch of the whole") {
  RunConfig config;
  config.data.path = "unused";
  config.train_batch_size = 8;
  config.gradient_accumulation_steps = 2;
  config.moe.enabled = true;
  config.model.num_hidden_layers = 5;
  config.parallelism = {.data_parallel_size = 2,
                        .tensor_parallel_size = 2,
                        .pipeline_parallel_size = 2,
                        .expert_parallel_size = 4,
                        .expert_tensor_parallel_size = 1};
  config.pipeline.layers_per_stage = {4, 1};
  resolve(config, 8);
  std::string dimensions;
  for (const IsolatedLayout& layout : isolated_layouts(config)) {
    dimensions += layout.dimension + " ";
    CHECK(layout.not_valid.empty());
    const ParallelismConfig& grid = layout.config.parallelism;
    CHECK(layout.ranks ==
          *grid.data_parallel_size * grid.tensor_parallel_size * grid.pipeline_parallel_size);
    CHECK(*layout.config.train_batch_size == 8);
    CHECK(*layout.config.gradient_accumulation_steps == 2);
    if (layout.dimension == "pp")
      CHECK(layout.config.pipeline.layers_per_stage == std::vector<int64_t>{4, 1});
  }
  CHECK(dimensions == "dp tp pp ep ");

  config.gradient_accumulation_steps = 4;  // two sequences at a time: too few for ep 4
  config.train_micro_batch_size_per_gpu.reset();
  resolve(config, 8);
  CHECK_THAT(isolated_layouts(config).back().not_valid, contains_text("/train_batch_size"));
}
