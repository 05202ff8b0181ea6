#include "verify/report.h"

#include <algorithm>
#include <cmath>

namespace switchyard {
namespace {

constexpr size_t kWorst = 10;

double relative(double a, double b) { return a == b ? 0 : std::abs(a - b) / std::abs(b); }

std::string steps_text(const Verification& verification) {
  std::string text =
      fmt::format("{:>4}  {:>18}  {:>18}  {:>10}  {:>18}  {:>18}  {:>10}\n", "step", "loss",
                  "on one rank", "difference", "gradient norm", "on one rank", "difference");
  for (size_t i = 0; i < verification.layout.size(); ++i) {
    const StepReport &mine = verification.layout[i], &theirs = verification.one_rank[i];
    text +=
        fmt::format("{:>4}  {:>18.14g}  {:>18.14g}  {:>10.1e}  {:>18.14g}  {:>18.14g}  {:>10.1e}\n",
                    mine.step, mine.lm_loss, theirs.lm_loss, relative(mine.lm_loss, theirs.lm_loss),
                    mine.grad_norm, theirs.grad_norm, relative(mine.grad_norm, theirs.grad_norm));
  }
  return text;
}

std::string check_text(const Check& check) {
  const std::string when = check.step == 0 ? "" : fmt::format(", step {}", check.step);
  const std::string group = check.parameter.empty() ? "" : check.group.text();
  return fmt::format("{:>10.1e}  {:>8.1e}  {:<4}  {:<24}  {:<56}  {}\n", check.difference,
                     check.bound, check.ok() ? "ok" : "FAIL", check.what + when,
                     check.parameter.empty() ? "-" : check.parameter, group);
}

// bf16: a layout as a whole.
std::string all_gradients_text(const std::vector<Check>& checks) {
  std::string text;
  for (const Check& check : checks)
    if (check.what == kAllGradients)
      text += fmt::format(
          "\nall gradients of step 1 together: off f64 by {:.3e}, at most {:.3e} (1.5 times "
          "what one rank is off): {}\n",
          check.difference, check.bound, check.ok() ? "ok" : "FAIL");
  return text;
}

std::string checks_text(const std::vector<Check>& checks, bool all_checks) {
  std::string text, lines;
  size_t shown = 0;
  for (const Check& check : checks) {
    if (!all_checks && shown >= kWorst && check.ok()) break;  // sorted: all others are ok, too
    lines += check_text(check);
    ++shown;
  }
  text = fmt::format("\n{} checks, worst first", checks.size());
  if (shown < checks.size()) text += fmt::format("; {} shown, --all shows all", shown);
  return text +
         fmt::format("\n{:>10}  {:>8}  {:<4}  {:<24}  {:<56}  {}\n", "difference", "bound", "",
                     "of", "parameter", "group (summed over)") +
         lines;
}

std::string isolated_text(const std::vector<IsolatedLayout>& isolated) {
  std::string text = "\none dimension at a time, one step\n";
  for (const IsolatedLayout& layout : isolated)
    text += layout.not_valid.empty()
                ? fmt::format("  {:<4} {:<6} {}\n", layout.dimension,
                              layout.num_failed == 0 ? "ok" : "FAIL", layout.grid)
                : fmt::format("  {:<4} not tried: {}\n", layout.dimension, layout.not_valid);
  return text;
}

}  // namespace

std::string report_text(const Verification& verification, bool all_checks) {
  const std::vector<Check>& checks = verification.checks;
  std::string text =
      steps_text(verification) + all_gradients_text(checks) + checks_text(checks, all_checks);
  if (verification.ok)
    return text + fmt::format("\nOK: {} computes what one rank computes\n", verification.grid);
  const auto failed =
      std::count_if(checks.begin(), checks.end(), [](const Check& check) { return !check.ok(); });
  return text + isolated_text(verification.isolated) +
         fmt::format("\nFAIL: {} of {} checks on {}; at fault: {}\n", failed, checks.size(),
                     verification.grid, verification.at_fault);
}

}  // namespace switchyard
