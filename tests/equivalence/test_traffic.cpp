// No hidden traffic: what every rank hands to each communicator in a step is the closed form, for
// every layout and variant.
#include <mutex>
#include <optional>

#include "comm/thread_communicator.h"
#include "equivalence/expected_traffic.h"
#include "equivalence/layouts.h"
#include "support/catch.h"
#include "support/training_job.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

std::vector<Communicator*> groups_of(const ProcessGrid& grid) {
  return {&grid.tp(),  &grid.dp(),    &grid.pp(),    &grid.ep(), &grid.etp(),
          &grid.edp(), &grid.stage(), &grid.world(), &grid.kv(), &grid.tied()};
}

Elements elements_of(const TrafficReport& report) {
  return {.all_to_all = report.all_to_all.others.elements,
          .all_gather = report.all_gather.others.elements,
          .reduce_scatter = report.reduce_scatter.others.elements,
          .all_reduce = report.all_reduce.others.elements,
          .point_to_point = report.point_to_point.others.elements};
}

// The second step of the job: what differs from the closed form, on any rank; empty if nothing.
std::string difference_from_form(const RunConfig& config, int ranks, const RoutingLog& routing) {
  std::mutex mutex;
  std::string difference;
  run_ranks(ranks, [&](Communicator& world) {
    TrainerOnRank on_rank(config, world);
    on_rank.trainer.train_step();
    std::vector<TrafficReport> before;
    for (Communicator* group : groups_of(on_rank.grid)) before.push_back(group->traffic());
    on_rank.trainer.train_step();
    const TrafficForms forms(on_rank.config, on_rank.grid, on_rank.trainer.parameters(), routing,
                             *on_rank.config.gradient_accumulation_steps);
    for (size_t i = 0; i < before.size(); ++i) {
      const Communicator& group = *groups_of(on_rank.grid)[i];
      const Elements found = elements_of(group.traffic() - before[i]);
      const auto form = forms.expected().find(group.name());
      const Elements expected = form == forms.expected().end() ? Elements{} : form->second;
      if (found == expected) continue;
      const std::scoped_lock lock(mutex);
      difference += fmt::format("rank {}, {}: found {}, expected {}\n", world.rank(), group.name(),
                                found.text(), expected.text());
    }
  });
  return difference;
}

void check_all(RunConfig config, std::initializer_list<int> rank_counts) {
  config.parallelism = Layout{}.parallelism();
  RoutingLog routing;
  run_job_on_threads(config, 1, {.steps = 2, .gradient_steps = {}, .routing = &routing});
  size_t index = 0;
  for (const int ranks : rank_counts)
    for (const Layout& layout : layouts_of(ranks, config)) {
      RunConfig varied = config;
      varied.parallelism = layout.parallelism();
      const Variant variant(index++);
      variant.apply(varied);
      CAPTURE(layout.name(), variant.name());
      CHECK(difference_from_form(varied, ranks, routing) == "");
    }
}

}  // namespace

TEST_CASE("the payload of every layout is the closed form") {
  const TokenFixture tokens(900, 8, 29);
  RunConfig config = small_job_config(tokens.prefix());
  config.train_batch_size = 16;
  config.gradient_accumulation_steps = 2;
  config.moe.num_shared_experts = 1;
  check_all(config, {1, 2, 4, 8});
}

TEST_CASE("the payload with capacity, wide scopes and tied embeddings is the closed form") {
  const TokenFixture tokens(900, 8, 29);
  RunConfig config = small_job_config(tokens.prefix());
  config.train_batch_size = 16;
  config.gradient_accumulation_steps = 4;
  config.model.tie_word_embeddings = true;
  config.moe.token_drop_policy = TokenDropPolicy::kCapacity;
  config.moe.load_balancing_scope = config.moe.capacity_scope = BalanceScope::kMicroBatch;
  check_all(config, {2, 4});
}
