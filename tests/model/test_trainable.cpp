// What is frozen: patterns over names, the same choice on every grid, and training that leaves it
// alone and does no work for it.
#include <algorithm>
#include <set>

#include "checkpoint/weights.h"
#include "comm/thread_communicator.h"
#include "config/config.h"
#include "equivalence/layouts.h"
#include "model/moe/experts.h"
#include "model/name_pattern.h"
#include "model/trainable.h"
#include "support/catch.h"
#include "support/host_tensor.h"
#include "support/training_job.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

std::string message_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    CHECK(error.code() == ExitCode::kConfig);
    return error.what();
  }
  return "";
}

// Tied embeddings, a router, an attention, and experts in the middle and at the end are frozen.
RunConfig partly_frozen(RunConfig config) {
  config.training.frozen = {"model.embed_tokens.weight",
                            "model.layers.{0,2}.mlp.experts.{2..4,7}.*", "*.layers.1.self_attn.*",
                            "model.layers.0.mlp.gate.weight"};
  return config;
}

RunConfig tied_config(const TokenFixture& tokens) {
  RunConfig config = small_job_config(tokens.prefix());
  config.model.tie_word_embeddings = true;
  config.moe.num_shared_experts = 1;
  config.parallelism = Layout{}.parallelism();
  return config;
}

// partly_frozen() without patterns: of element `i` of `size` elements.
bool is_frozen(const std::string& name, size_t i, size_t size) {
  if (name == "model.embed_tokens.weight" || name == "model.layers.0.mlp.gate.weight") return true;
  if (name.find(".experts.") != std::string::npos)
    return std::set<size_t>{2, 3, 4, 7}.contains(i / (size / 8));
  return name.find("layers.1.self_attn") != std::string::npos;
}

size_t num_elements(const std::map<std::string, std::vector<double>>& tensors) {
  size_t count = 0;
  for (const auto& [name, values] : tensors) count += values.size();
  return count;
}

}  // namespace

TEST_CASE("patterns: any text, choices and ranges, over the whole name") {
  struct Case {
    const char* pattern;
    std::vector<const char*> matching, others;
  };
  const std::vector<Case> cases = {
      {"a.b", {"a.b"}, {"a.bc", "xa.b", "", "axb"}},
      {"*", {"", "a", "a.b"}, {}},
      {"a*", {"a", "a.b"}, {"ba"}},
      {"*.b.*", {"a.b.c", ".b.", "a.b.b.c"}, {"a.b", "b.c"}},
      {"*ab", {"ab", "aab", "abab"}, {"aba"}},
      {"e.{3,5}.w", {"e.3.w", "e.5.w"}, {"e.4.w", "e.35.w", "e.3,5.w", "e..w"}},
      {"e.{10..12}.w", {"e.10.w", "e.11.w", "e.12.w"}, {"e.1.w", "e.9.w", "e.13.w", "e.011.w"}},
      {"{0,4..6}{0,1}", {"00", "01", "40", "61"}, {"0", "10", "31", "70"}},
      {"{gate,up}_proj", {"gate_proj", "up_proj"}, {"down_proj", "_proj"}},
      {"{1,12}2", {"12", "122"}, {"1", "2", "22"}},
      {"{1..20}1*", {"11", "121", "201x"}, {"1", "02", "012"}},
  };
  for (const Case& what : cases) {
    const NamePattern pattern(what.pattern);
    for (const char* name : what.matching) {
      CAPTURE(what.pattern, name);
      CHECK(pattern.matches(name));
    }
    for (const char* name : what.others) {
      CAPTURE(what.pattern, name);
      CHECK_FALSE(pattern.matches(name));
    }
  }
}

TEST_CASE("patterns: what is wrong with one is said") {
  const auto message_for = [](const char* text) {
    return message_of([&] { NamePattern pattern(text); });
  };
  for (const char* text : {"a.{1", "a.{1,{2}}", "{"})
    CHECK_THAT(message_for(text), contains_text("a brace is not closed"));
  CHECK_THAT(message_for("a}b"), contains_text("closes that was not opened"));
  for (const char* text : {"{}", "{1,}", "{,1}", "{a*}"})
    CHECK_THAT(message_for(text), contains_text("braces hold names or numbers"));
  for (const char* text : {"{3..1}", "{a..b}", "{1..}", "{..2}", "{1..2..3}", "{-1..2}", "{01..2}"})
    CHECK_THAT(message_for(text), contains_text("is not a range"));
  CHECK(message_for("a.*.{0,2..4}").empty());
}

TEST_CASE("patterns: distance is the edits of the plain text") {
  CHECK(NamePattern("a.b.c").distance("a.b.c") == 0);
  CHECK(NamePattern("layer.*.w").distance("layers.0.w") == 1);
  CHECK(NamePattern("a.{7..9}.w").distance("a.2.w") == 0);
  CHECK(NamePattern("abc").distance("") == 3);
  CHECK(NamePattern("").distance("ab") == 2);
}

TEST_CASE("trainable: a rank's rows are the longest runs of its experts that are trained") {
  const TokenFixture tokens(320, 8, 29);
  RunConfig config = small_job_config(tokens.prefix());
  config.parallelism.expert_parallel_size = 2;
  config.training.trainable = {"*.experts.{1..2,4,6,7}.*"};
  config.training.frozen = {"*.experts.6.*", "*.experts.*.up_proj.weight"};
  using Runs = std::vector<std::pair<int64_t, int64_t>>;
  run_ranks(2, [&](Communicator& world) {
    TrainerOnRank on_rank(config, world);
    const Runs expected = world.rank() == 0 ? Runs{{1, 2}} : Runs{{0, 1}, {3, 1}};
    for (const Parameter* parameter : on_rank.trainer.parameters()) {
      Runs runs;
      for (const TrainableRows& rows : parameter->trainable)
        runs.emplace_back(rows.begin, rows.count);
      const bool is_trained = parameter->group == ReplicaGroup::kExpert &&
                              parameter->name.find("up_proj") == std::string::npos;
      SY_CHECK(runs == (is_trained ? expected : Runs{}), "{} on rank {}", parameter->name,
               world.rank());
    }
  });
}

TEST_CASE("trainable: a pattern that matches nothing and a model without a trained tensor") {
  const TokenFixture tokens(320, 8, 29);
  // On every rank of a pipeline, though each holds a part of the names only.
  const auto message_for = [&](std::vector<std::string> trainable,
                               std::vector<std::string> frozen) {
    RunConfig config = small_job_config(tokens.prefix());
    config.parallelism.pipeline_parallel_size = 2;
    config.training.trainable = std::move(trainable);
    config.training.frozen = std::move(frozen);
    return message_of(
        [&] { run_ranks(2, [&](Communicator& world) { TrainerOnRank on_rank(config, world); }); });
  };
  CHECK(message_for({"lm_head.weight"}, {"model.layers.0.*"}).empty());
  CHECK_THAT(message_for({}, {"lm_head.weight", "model.layer.0.mlp.gate.weight"}),
             contains_text("training.frozen: \"model.layer.0.mlp.gate.weight\" matches none of the "
                           "model's 74 tensors; did you mean one of "
                           "\"model.layers.0.mlp.gate.weight\", "));
  CHECK_THAT(message_for({"model.layers.0.mlp.experts.gate_proj.weight"}, {}),
             contains_text("\"model.layers.0.mlp.experts.0.gate_proj.weight\""));
  CHECK_THAT(message_for({"model.layers.{10..12}.mlp.experts.3.up_proj.weight"}, {}),
             contains_text("\"model.layers.0.mlp.experts.3.up_proj.weight\""));
  CHECK_THAT(message_for({}, {"*.experts.8.*"}), contains_text("matches none"));
  CHECK_THAT(message_for({"lm_head.weight"}, {"lm*"}), contains_text("leave nothing to train"));
  CHECK_THAT(message_for({}, {"a{"}), contains_text("a brace is not closed"));
}

TEST_CASE("trainable: parameters are counted once each, on any grid") {
  const TokenFixture tokens(320, 8, 29);
  RunConfig config = partly_frozen(tied_config(tokens));
  const JobResult job = run_job_on_threads(config, 1, {.steps = 0});
  int64_t frozen = 0;
  for (const auto& [name, values] : job.weights)
    for (size_t i = 0; i < values.size(); ++i) frozen += is_frozen(name, i, values.size()) ? 1 : 0;
  CpuBackend backend(1);
  for (const Layout& layout : layouts_of(4, config)) {
    CAPTURE(layout.name());
    RunConfig on_grid = config;
    on_grid.parallelism = layout.parallelism();
    resolve(on_grid, 4);
    const ParameterCount count = count_parameters(on_grid, backend);
    CHECK(count.frozen == frozen);
    CHECK(count.trained + count.frozen == static_cast<int64_t>(num_elements(job.weights)));
  }
}

TEST_CASE("frozen: the gradients of everything else are those of the whole model") {
  const TokenFixture tokens(320, 8, 29);
  const JobOptions options = {.steps = 1, .gradient_steps = {1}};
  const auto check = [&](RunConfig config, int ranks) {
    const auto whole = run_job_on_threads(config, ranks, options).gradients.at(1);
    const auto part = run_job_on_threads(partly_frozen(config), ranks, options).gradients.at(1);
    double worst = 0;
    size_t num_frozen = 0;
    REQUIRE(whole.size() == part.size());
    for (const auto& [name, values] : whole)
      for (size_t i = 0; i < values.size(); ++i) {
        const bool frozen = is_frozen(name, i, values.size());
        num_frozen += frozen ? 1 : 0;
        worst = std::max(worst, std::abs(part.at(name)[i] - (frozen ? 0.0 : values[i])));
      }
    CHECK(worst <= 1e-12);
    CHECK(num_frozen > 4000);
  };
  RunConfig config = tied_config(tokens);
  for (const RecomputePolicy policy :
       {RecomputePolicy::kNone, RecomputePolicy::kSelective, RecomputePolicy::kFull}) {
    config.activation_checkpointing.policy = policy;
    CAPTURE(static_cast<int>(policy));
    check(config, 1);
  }
  config.train_batch_size = 16;
  config.gradient_accumulation_steps = 2;
  config.pipeline.schedule = ScheduleKind::kZeroBubbleH1;
  for (const Layout& layout : {Layout{.pp = 2}, Layout{.dp = 2, .ep = 2}, Layout{.tp = 2, .etp = 2},
                               Layout{.tp = 2, .pp = 2, .ep = 2}}) {
    config.parallelism = layout.parallelism();
    CAPTURE(layout.name());
    check(config, layout.dp * layout.tp * layout.pp);
  }
}

TEST_CASE("frozen: five steps leave it as it was, to the bit, and every grid agrees") {
  const TokenFixture tokens(320, 8, 29);
  const RunConfig base = partly_frozen(tied_config(tokens));
  const auto initial = run_job_on_threads(base, 1, {.steps = 0}).weights;
  const JobOptions options = {.steps = 5, .gradient_steps = {5}};
  const JobResult reference = run_job_on_threads(base, 1, options);
  for (int stage = 0; stage <= 2; ++stage)
    for (const int ranks : {1, 2, 4}) {
      RunConfig config = base;
      config.zero_optimization.stage = stage;
      for (const Layout& layout : layouts_of(ranks, config)) {
        config.parallelism = layout.parallelism();
        CAPTURE(stage, layout.name());
        const JobResult job = run_job_on_threads(config, ranks, options);
        std::string where;
        const double worst = worst_difference(job, reference, where);
        CAPTURE(where);
        CHECK(worst <= 1e-9);
        size_t num_wrong = 0;
        for (const auto& [name, values] : job.weights)
          for (size_t i = 0; i < values.size(); ++i)
            num_wrong += (values[i] == initial.at(name)[i]) != is_frozen(name, i, values.size());
        CHECK(num_wrong == 0);
      }
    }
}

TEST_CASE("frozen: it costs the memory of its weights alone") {
  const TokenFixture tokens(320, 8, 29);
  // Whole experts of 64 * n elements, so that nothing is padding.
  RunConfig config = small_job_config(tokens.prefix());
  config.parallelism.data_parallel_size = 2;
  const int64_t frozen = int64_t{2} * 3 * 8 * 16 * 16;
  for (int stage = 0; stage <= 2; ++stage) {
    config.zero_optimization.stage = stage;
    const int64_t bytes = stage == 0 ? 24 : stage == 1 ? 8 + 16 / 2 : 24 / 2;  // f64, dp 2
    run_ranks(2, [&](Communicator& world) {
      RunConfig without_experts = config;
      without_experts.training.frozen = {"*.experts.*"};
      TrainerOnRank all(config, world), part(without_experts, world);
      const int64_t saved = all.backend.memory().bytes_in_use - part.backend.memory().bytes_in_use;
      const int64_t saved_in_flight =
          all.trainer.optimizer().bytes_in_flight() - part.trainer.optimizer().bytes_in_flight();
      SY_CHECK(saved == frozen * bytes + saved_in_flight, "stage {}: {} bytes saved, {} in flight",
               stage, saved, saved_in_flight);
      SY_CHECK((saved_in_flight > 0) == (stage == 2), "{} in flight", saved_in_flight);
    });
  }
}

// Experts 0 and 2 are trained: all of the second rank's are frozen.
TEST_CASE("frozen: a rank whose experts are all frozen does no weight-gradient work") {
  const TokenFixture tokens(320, 8, 29);
  RunConfig config = small_job_config(tokens.prefix());
  config.parallelism.expert_parallel_size = 2;
  for (const RecomputePolicy policy : {RecomputePolicy::kNone, RecomputePolicy::kSelective}) {
    config.activation_checkpointing.policy = policy;
    RunConfig partly = config;
    partly.training.trainable = {"*.experts.{0,2}.*"};
    run_ranks(2, [&](Communicator& world) {
      struct Outcome {
        std::vector<double> dx;
        size_t num_additions;
        int64_t kept_bytes;
      };
      const auto run = [&](RunConfig what) -> Outcome {
        resolve(what, 2);
        CpuBackend backend(1);
        const ProcessGrid grid(world, grid_sizes(what), &backend);
        Experts experts(backend, grid, "model.layers.0.mlp.experts", what);
        ParameterList parameters;
        experts.append_parameters(parameters);
        select_trainable(what, backend, parameters);
        const std::vector<Buffer> memory = allocate_weights(parameters, backend, DType::kF64);
        for (Parameter* parameter : parameters)
          backend.upload(backend.compute_queue(), parameter->weight,
                         random_tensor<double>(parameter->name, {4, 16, 16}).values.data());

        Arena activations(backend), scratch(backend), kept(backend), recomputed(backend);
        StatisticsBuffer statistics(backend, 2, 8);
        WeightWork work;
        const MicroBatch batch;
        Pass pass{.queue = backend.compute_queue(),
                  .activations = activations,
                  .scratch = scratch,
                  .kept = kept,
                  .recomputed = recomputed,
                  .batch = batch,
                  .statistics = statistics.statistics(),
                  .scalars = Tensor(),
                  .weight_work = &work};
        auto x = random_tensor<double>("x", {9, 16}), dy = random_tensor<double>("dy", {9, 16});
        auto gate = random_tensor<double>("gate", {9});
        HostTensor<int32_t> begin({5});
        begin.values = {0, 3, 4, 4, 9};
        Dispatcher::Plan plan;
        plan.expert_begin_L1 = begin.view();
        plan.gate_R = gate.view();
        Experts::Saved saved;
        experts.forward(pass, x.view(), plan, saved);
        const Tensor dx = experts.backward(pass, dy.view(), plan, saved).dx_RD;
        return {{dx.span<double>().begin(), dx.span<double>().end()},
                work.size(),
                kept.capacity_bytes()};
      };
      const Outcome all = run(config), part = run(partly);
      SY_CHECK(part.dx == all.dx, "rank {}: another input gradient", world.rank());
      SY_CHECK(all.num_additions == 3 && all.kept_bytes > 0, "{} additions", all.num_additions);
      const bool is_idle = world.rank() == 1;
      SY_CHECK(part.num_additions == (is_idle ? 0u : 3u), "rank {}: {} additions", world.rank(),
               part.num_additions);
      SY_CHECK((part.kept_bytes == 0) == is_idle, "rank {}: {} bytes kept for them", world.rank(),
               part.kept_bytes);
    });
  }
}
