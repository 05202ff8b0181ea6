#include "verify/checks.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace switchyard {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kBoundF64 = 1e-9, kBoundF32 = 1e-5;
constexpr double kErrorRatioBF16 = 1.5, kFloorBF16 = 1.0 / 512;

double ratio(double difference, double scale) {
  if (difference == 0) return 0;
  return scale == 0 ? kInfinity : difference / scale;
}

// What reports say, by name.
struct Scalar {
  const char* name;
  double (*value)(const StepReport& report);
};
constexpr Scalar kScalars[] = {
    {kLoss, [](const StepReport& report) { return report.lm_loss; }},
    {kGradientNorm, [](const StepReport& report) { return report.grad_norm; }},
    {"balance loss", [](const StepReport& report) { return report.moe.load_balancing_loss; }},
    {"z-loss", [](const StepReport& report) { return report.moe.z_loss; }},
    {"dropped fraction", [](const StepReport& report) { return report.moe.dropped_fraction; }}};

const char* name_of(Quantity quantity) {
  switch (quantity) {
    case Quantity::kInitialValue:
      return kInitialValueOf;
    case Quantity::kFirstGradient:
    case Quantity::kLastGradient:
      return kGradientOf;
    case Quantity::kFinalValue:
      break;
  }
  return kValueOf;
}

}  // namespace

double Check::badness() const {
  if (difference == 0) return 0;
  return bound == 0 ? kInfinity : difference / bound;
}

double max_difference(std::span<const double> a, std::span<const double> b, bool keeps_zeros) {
  if (a.size() != b.size()) return kInfinity;
  double difference = 0, scale = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (!std::isfinite(a[i]) || !std::isfinite(b[i])) return kInfinity;
    if (keeps_zeros && b[i] == 0 && a[i] != 0) return kInfinity;
    difference = std::max(difference, std::abs(a[i] - b[i]));
    scale = std::max(scale, std::abs(b[i]));
  }
  return ratio(difference, scale);
}

double rms_difference(std::span<const double> a, std::span<const double> b) {
  if (a.size() != b.size()) return kInfinity;
  double difference = 0, scale = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    scale += b[i] * b[i];
  }
  const double result = ratio(std::sqrt(difference), std::sqrt(scale));
  return std::isfinite(result) ? result : kInfinity;
}

void JointError::add(std::span<const double> grid, std::span<const double> one_rank,
                     std::span<const double> f64) {
  if (grid.size() != f64.size()) on_grid = kInfinity;
  for (size_t i = 0; i < std::min(grid.size(), f64.size()); ++i) {
    on_grid += (grid[i] - f64[i]) * (grid[i] - f64[i]);
    on_one_rank += (one_rank[i] - f64[i]) * (one_rank[i] - f64[i]);
    exact += f64[i] * f64[i];
  }
}

Check Judge::judged(std::span<const double> a, std::span<const double> same,
                    std::span<const double> exact, bool keeps_zeros) const {
  if (reference_.dtype == DType::kBF16) {
    const double scatter = 1 + 2 / std::sqrt(static_cast<double>(exact.size()));
    const double allowed = kErrorRatioBF16 * scatter * rms_difference(same, exact);
    return {.difference = rms_difference(a, exact), .bound = std::max(allowed, kFloorBF16)};
  }
  const bool is_exact = reference_.dtype == DType::kF64;
  return {.difference = max_difference(a, same, is_exact && keeps_zeros),
          .bound = is_exact ? kBoundF64 : kBoundF32};
}

Check Judge::judged_tensor(Quantity quantity, const std::string& name,
                           const std::vector<double>& values) const {
  const auto& all = reference_.same.tensors.at(quantity);
  if (!all.contains(name)) return {.difference = kInfinity};
  const std::vector<double>& same = all.at(name);
  if (quantity == Quantity::kInitialValue)
    return {.difference = max_difference(values, same, true)};
  const bool is_rounded = reference_.dtype == DType::kBF16;
  return judged(values, same, is_rounded ? reference_.exact.tensors.at(quantity).at(name) : same,
                true);
}

void Judge::add(Quantity quantity, const GlobalTensors& tensors) {
  if (tensors.copy_difference != 0)
    checks_.push_back({.what = kCopiesOf,
                       .step = step_of(quantity),
                       .parameter = tensors.copy_difference_in,
                       .difference = tensors.copy_difference});
  for (const auto& [name, values] : tensors.values) {
    seen_[quantity].insert(name);
    if (!is_judged(quantity)) continue;
    Check check = judged_tensor(quantity, name, values);
    check.what = name_of(quantity);
    check.step = step_of(quantity);
    check.parameter = name;
    checks_.push_back(std::move(check));
    if (reference_.dtype == DType::kBF16 && quantity == Quantity::kFirstGradient)
      add_to_all_gradients(name, values);
  }
}

void Judge::add_to_all_gradients(const std::string& name, const std::vector<double>& values) {
  const auto &same = reference_.same.tensors.at(Quantity::kFirstGradient),
             &exact = reference_.exact.tensors.at(Quantity::kFirstGradient);
  if (same.contains(name)) all_gradients_.add(values, same.at(name), exact.at(name));
}

void Judge::judge_all_gradients() {
  const double error = ratio(std::sqrt(all_gradients_.on_grid), std::sqrt(all_gradients_.exact));
  checks_.push_back({.what = kAllGradients,
                     .step = 1,
                     .difference = std::isfinite(error) ? error : kInfinity,
                     .bound = kErrorRatioBF16 * ratio(std::sqrt(all_gradients_.on_one_rank),
                                                      std::sqrt(all_gradients_.exact))});
}

void Judge::add_reports(const std::vector<StepReport>& reports) {
  for (size_t i = 0; i < reports.size(); ++i)
    for (const Scalar& scalar : kScalars) {
      const double mine = scalar.value(reports[i]), same = scalar.value(reference_.same.reports[i]),
                   exact = reference_.dtype == DType::kBF16
                               ? scalar.value(reference_.exact.reports[i])
                               : same;
      Check check = judged({&mine, 1}, {&same, 1}, {&exact, 1}, false);
      check.what = scalar.name;
      check.step = static_cast<int64_t>(i) + 1;
      checks_.push_back(std::move(check));
    }
}

std::vector<Check> Judge::finish(const JobResult& result) {
  add_reports(result.reports);
  if (reference_.dtype == DType::kBF16 && seen_.contains(Quantity::kFirstGradient))
    judge_all_gradients();
  for (const auto& [quantity, names] : seen_)
    for (const auto& [name, values] : reference_.same.tensors.at(quantity))
      if (!names.contains(name))
        checks_.push_back({.what = name_of(quantity),
                           .step = step_of(quantity),
                           .parameter = name,
                           .difference = kInfinity});
  for (Check& check : checks_)
    if (result.groups.contains(check.parameter)) check.group = result.groups.at(check.parameter);
  std::stable_sort(checks_.begin(), checks_.end(),
                   [](const Check& a, const Check& b) { return a.badness() > b.badness(); });
  return std::move(checks_);
}

bool Judge::is_judged(Quantity quantity) const {
  return reference_.dtype == DType::kF64 || quantity == Quantity::kInitialValue ||
         quantity == Quantity::kFirstGradient;
}

int64_t Judge::step_of(Quantity quantity) const {
  if (quantity == Quantity::kInitialValue) return 0;
  if (quantity == Quantity::kFirstGradient) return 1;
  return static_cast<int64_t>(reference_.same.reports.size());
}

}  // namespace switchyard
