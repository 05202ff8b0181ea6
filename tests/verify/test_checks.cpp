// The measures and bounds of verify, on made-up jobs.
#include <algorithm>
#include <cmath>

#include "support/catch.h"
#include "verify/checks.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

const std::string kName = "w";

JobRecord record(std::vector<double> gradient, double loss = 2) {
  JobRecord job;
  job.reports = {StepReport{.lm_loss = loss}, StepReport{.lm_loss = loss}};
  for (const Quantity quantity : {Quantity::kInitialValue, Quantity::kFirstGradient,
                                  Quantity::kLastGradient, Quantity::kFinalValue})
    job.tensors[quantity][kName] = gradient;
  return job;
}

// The checks of a job with these values.
std::vector<Check> checks_of(const Reference& reference, Quantity quantity,
                             std::vector<double> values, double loss = 2) {
  Judge judge(reference);
  judge.add(quantity, {.values = {{kName, std::move(values)}}});
  return judge.finish({.reports = {StepReport{.lm_loss = loss}},
                       .groups = {{kName, {.name = "dense", .summed_over = {"dp"}}}}});
}

const Check& check_of(const std::vector<Check>& checks, const std::string& what) {
  return *std::find_if(checks.begin(), checks.end(),
                       [&](const Check& check) { return check.what == what; });
}

bool passes(const Reference& reference, Quantity quantity, std::vector<double> values,
            double loss = 2) {
  return checks_of(reference, quantity, std::move(values), loss).front().ok();
}

}  // namespace

TEST_CASE("differences are relative to the largest element, or to the root mean square") {
  const std::vector<double> b = {1, -4, 0};
  CHECK(max_difference(std::vector<double>{1, -4, 0}, b, true) == 0);
  CHECK(max_difference(std::vector<double>{2, -4, 0}, b, true) == 0.25);
  CHECK(max_difference(std::vector<double>{1, -4, 1e-30}, b, false) == 2.5e-31);
  CHECK(std::isinf(max_difference(std::vector<double>{1, -4, 1e-30}, b, true)));
  CHECK(std::isinf(max_difference(std::vector<double>{1, -4}, b, false)));
  CHECK(std::isinf(max_difference(std::vector<double>{1, NAN, 0}, b, false)));
  CHECK(rms_difference(std::vector<double>{4, -4, 4}, std::vector<double>{3, -4, 0}) ==
        std::sqrt(17.0) / 5);
  CHECK(std::isinf(rms_difference(std::vector<double>{1, NAN, 0}, b)));
  CHECK(std::isinf(rms_difference(std::vector<double>{1}, std::vector<double>{0})));
}

TEST_CASE("f64 and f32 have bounds of their own, and f32 judges no values after a step") {
  Reference f64 = {.dtype = DType::kF64, .same = record({1, 2, 0})};
  Reference f32 = {.dtype = DType::kF32, .same = record({1, 2, 0})};
  for (const Quantity quantity :
       {Quantity::kFirstGradient, Quantity::kLastGradient, Quantity::kFinalValue}) {
    CHECK(passes(f64, quantity, {1 + 1e-9, 2, 0}));
    CHECK_FALSE(passes(f64, quantity, {1 + 3e-9, 2, 0}));
    CHECK_FALSE(passes(f64, quantity, {1, 2, 1e-20}));
  }
  CHECK(passes(f32, Quantity::kFirstGradient, {1 + 1e-5, 2, 1e-9}));
  CHECK_FALSE(passes(f32, Quantity::kFirstGradient, {1 + 3e-5, 2, 0}));
  CHECK(passes(f32, Quantity::kLastGradient, {9, 9, 9}));
  CHECK(passes(f32, Quantity::kFinalValue, {9, 9, 9}));
  for (const Reference* reference : {&f64, &f32}) {
    CHECK(passes(*reference, Quantity::kInitialValue, {1, 2, 0}));
    CHECK_FALSE(passes(*reference, Quantity::kInitialValue, {1, 2 + 1e-15, 0}));
  }
  CHECK_FALSE(passes(f64, Quantity::kInitialValue, {1, 2, 0}, 2 + 4e-9));
  CHECK(passes(f32, Quantity::kInitialValue, {1, 2, 0}, 2 + 4e-9));
}

TEST_CASE("bf16 may be off by what bf16 on one rank is off, a tensor by a little more") {
  const std::vector<double> exact(400, 1.0);
  Reference reference = {.dtype = DType::kBF16,
                         .same = record(std::vector<double>(400, 1.01)),
                         .exact = record(exact)};
  const auto passes_as = [&](const char* what, double value) {
    const std::vector<double> values(400, value);
    return check_of(checks_of(reference, Quantity::kFirstGradient, values), what).ok();
  };
  CHECK(passes_as(kAllGradients, 0.9851));
  CHECK_FALSE(passes_as(kAllGradients, 0.9849));
  CHECK_FALSE(passes_as(kAllGradients, NAN));
  // 400 elements: 1.5 * (1 + 2 / 20) = 1.65.
  CHECK(passes_as(kGradientOf, 0.984));
  CHECK_FALSE(passes_as(kGradientOf, 0.983));
  reference.same = record(exact);
  CHECK(passes_as(kGradientOf, 1 + 0.9 / 512));
  CHECK_FALSE(passes_as(kGradientOf, 1 + 1.1 / 512));
}

TEST_CASE("all gradients of bf16 are judged together, whatever their sizes") {
  Reference reference = {.dtype = DType::kBF16, .same = record({3.03}), .exact = record({3})};
  for (JobRecord* job : {&reference.same, &reference.exact})
    job->tensors[Quantity::kFirstGradient]["v"] = {0, 4};
  Judge judge(reference);
  judge.add(Quantity::kFirstGradient, {.values = {{kName, {3}}}});
  judge.add(Quantity::kFirstGradient, {.values = {{"v", {0.02, 4}}}});
  const std::vector<Check> checks = judge.finish({});
  const Check& all = check_of(checks, kAllGradients);
  CHECK_THAT(all.difference, Catch::Matchers::WithinRel(0.02 / 5, 1e-12));
  CHECK_THAT(all.bound, Catch::Matchers::WithinRel(1.5 * 0.03 / 5, 1e-9));
  CHECK(all.step == 1);
  CHECK(all.parameter.empty());
}

TEST_CASE("copies that differ and tensors that nobody has fail; the worst comes first") {
  const Reference reference = {.same = record({1, 2})};
  Judge judge(reference);
  judge.add(Quantity::kFirstGradient,
            {.values = {{kName, {1, 2}}}, .copy_difference = 1e-18, .copy_difference_in = kName});
  std::vector<Check> checks =
      judge.finish({.reports = {StepReport{.lm_loss = 2}}, .groups = {{kName, {.name = "dense"}}}});
  CHECK(checks.front().what == kCopiesOf);
  CHECK(checks.front().group.name == "dense");
  CHECK_FALSE(checks.front().ok());
  CHECK(checks[1].ok());

  Judge empty(reference);
  empty.add(Quantity::kFirstGradient, {});
  empty.add(Quantity::kInitialValue, {.values = {{"unknown", {1, 2}}}});
  checks = empty.finish({});
  CHECK(std::count_if(checks.begin(), checks.end(), [](const Check& c) { return !c.ok(); }) == 2);
}
