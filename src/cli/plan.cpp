#include "cli/plan.h"

#include "plan/report.h"

namespace switchyard {

int run_plan(const PlanOptions& options) {
  fmt::print("{}{}", plan_text(read_config(options.config, options.num_ranks)),
             checkpoint_interval_text(options.failures, options.num_ranks));
  return 0;
}

}  // namespace switchyard
