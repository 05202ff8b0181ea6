#include "cli/plan.h"

#include "plan/memory.h"
#include "plan/report.h"

namespace switchyard {

int run_plan(const PlanOptions& options) {
  const RunConfig config = read_config(options.config, options.num_ranks);
  FailureRates failures = with_save_times(
      options.failures, options.speeds, static_cast<double>(checkpoint_bytes(config).total()),
      held_bytes_of_largest_rank(config), config.checkpoint.async);
  failures.save_s = options.save_s.value_or(failures.save_s);
  failures.persist_s = options.persist_s.value_or(failures.persist_s);
  fmt::print("{}{}", plan_text(config), checkpoint_interval_text(failures, options.num_ranks));
  return 0;
}

}  // namespace switchyard
