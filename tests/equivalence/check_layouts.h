// One job on many grids against the same on one rank, in f64.
#pragma once

#include <initializer_list>
#include <string>

#include "equivalence/layouts.h"
#include "support/catch.h"
#include "support/training_job.h"

namespace switchyard::test {

// Runs `config` on every `stride`-th layout of these numbers of ranks, each with the next Variant,
// and checks all of JobResult to 1e-9 against one rank, whose result is returned.
inline JobResult check_layouts(RunConfig config, std::initializer_list<int> rank_counts,
                               size_t stride = 1, const JobOptions& options = {}) {
  config.parallelism = Layout{}.parallelism();
  const JobResult reference = run_job_on_threads(config, 1, options);
  size_t index = 0;
  for (const int ranks : rank_counts) {
    const std::vector<Layout> layouts = layouts_of(ranks, config);
    for (size_t i = 0; i < layouts.size(); i += stride) {
      RunConfig varied = config;
      varied.parallelism = layouts[i].parallelism();
      const Variant variant(index++);
      variant.apply(varied);
      CAPTURE(layouts[i].name(), variant.name());
      std::string where;
      const double worst =
          worst_difference(run_job_on_threads(varied, ranks, options), reference, where);
      CAPTURE(where);
      CHECK(worst <= 1e-9);
    }
  }
  return reference;
}

}  // namespace switchyard::test
