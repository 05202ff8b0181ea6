// Every layer on its own: gradient of its input and of its parameters against central differences
// in f64, with the loss sum(c * y) for random c.
#include <functional>
#include <numeric>
#include <optional>

#include "model/block.h"
#include "model/embedding.h"
#include "model/lm_head.h"
#include "support/catch.h"
#include "support/gradient_check.h"
#include "support/host_tensor.h"
#include "support/tiny_model.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

// What every layer test needs: a device, a grid of one rank, memory for parameters, and a pass.
class LayerBench {
 public:
  explicit LayerBench(RunConfig unresolved = tiny_config())
      : config(std::move(unresolved)),
        backend(1),
        world("world"),
        grid((resolve(config, 1), world), GridSizes{}),
        tp(backend, grid.tp(), false),
        statistics(backend, 4, config.moe.num_experts),
        activations(backend),
        scratch(backend),
        recomputed(backend),
        host(2, config.data.sequence_length, config.model.vocab_size),
        scalars({kNumStepScalars}, 0.1) {
    batch = host.view();
  }

  int64_t num_tokens() const { return static_cast<int64_t>(host.token_ids.size()); }

  Pass pass() {
    statistics.clear(backend.compute_queue());
    return Pass{.queue = backend.compute_queue(),
                .activations = activations,
                .scratch = scratch,
                .kept = activations,
                .recomputed = recomputed,
                .batch = batch,
                .statistics = statistics.statistics(),
                .scalars = scalars.view(),
                .routing = &routing};
  }

  void allocate(const ParameterList& parameters) {
    RunConfig initial = config;
    initial.model.initializer_range = 0.4;
    optimizer.emplace(backend, grid, initial, parameters);
    for (Parameter* parameter : parameters)  // norms start at one: move them away from it
      for (double& w : parameter->weight.span<double>()) w += 0.1;
  }

  RunConfig config;
  CpuBackend backend;
  SelfCommunicator world;
  ProcessGrid grid;
  TensorParallel tp;
  StatisticsBuffer statistics;
  Arena activations, scratch, recomputed;
  HostBatch host;
  MicroBatch batch;
  HostTensor<double> scalars;
  RoutingLog routing;
  std::optional<ZeroOptimizer> optimizer;  // owns the parameters of allocate()
};

using Forward = std::function<Tensor(Pass&, Tensor x)>;
using Backward = std::function<Tensor(Pass&, Tensor dy)>;

double weighted_sum(Tensor y, const std::vector<double>& c) {
  const auto values = y.span<double>();
  return std::inner_product(values.begin(), values.end(), c.begin(), 0.0);
}

// Checks dx and every parameter's gradient. forward and backward share the layer's Saved.
void check_layer(LayerBench& bench, const ParameterList& parameters, const Forward& forward,
                 const Backward& backward) {
  const int64_t T = bench.num_tokens(), D = bench.config.model.hidden_size;
  auto x = random_tensor<double>("x", {T, D});
  const auto loss = [&](const std::vector<double>& c) {
    Arena::Scope slot(bench.activations);
    Pass pass = bench.pass();
    return weighted_sum(forward(pass, x.view()), c);
  };
  Arena::Scope slot(bench.activations);
  Pass pass = bench.pass();
  Tensor y = forward(pass, x.view());
  auto dy = random_tensor<double>("dy", {y.numel()});
  Tensor dx = backward(pass, Tensor(dy.values.data(), DType::kF64, y.shape()));
  bench.routing.start_replay();

  CHECK(gradient_error(dx.span<double>(),
                       numeric_gradient(x.values, [&] { return loss(dy.values); })) <= 1e-6);
  for (Parameter* parameter : parameters) {
    INFO(parameter->name);
    const auto numeric =
        numeric_gradient(parameter->weight.span<double>(), [&] { return loss(dy.values); });
    CHECK(gradient_error(parameter->gradient().span<double>(), numeric) <= 1e-6);
  }
}

}  // namespace

TEST_CASE("gradients of Linear") {
  LayerBench bench;
  Linear layer(bench.backend, dense_parameter("linear", {7, bench.config.model.hidden_size}));
  bench.allocate({&layer.weight()});
  Linear::Saved saved;
  check_layer(
      bench, {&layer.weight()}, [&](Pass& pass, Tensor x) { return layer.forward(pass, x, saved); },
      [&](Pass& pass, Tensor dy) { return layer.backward(pass, dy, saved); });
}

TEST_CASE("gradients of RmsNorm, alone and of a residual sum") {
  for (const bool of_sum : {false, true}) {
    LayerBench bench;
    RmsNorm layer(bench.backend, bench.tp, "norm", bench.config.model.hidden_size, 1e-5);
    bench.allocate({&layer.weight()});
    RmsNorm::Saved saved;
    auto delta =
        random_tensor<double>("delta", {bench.num_tokens(), bench.config.model.hidden_size});
    check_layer(
        bench, {&layer.weight()},
        [&](Pass& pass, Tensor x) {
          return of_sum ? layer.forward_of_sum(pass, x, delta, saved)
                        : layer.forward(pass, x, saved);
        },
        [&](Pass& pass, Tensor dy) { return layer.backward(pass, dy, Tensor(), saved); });
  }
}

TEST_CASE("gradients of Attention, with a document border") {
  LayerBench bench;
  Attention layer(bench.backend, bench.tp, "attention", bench.config.model, false);
  ParameterList parameters;
  layer.append_parameters(parameters);
  bench.allocate(parameters);
  Attention::Saved saved;
  check_layer(
      bench, parameters, [&](Pass& pass, Tensor x) { return layer.forward(pass, x, saved); },
      [&](Pass& pass, Tensor dy) { return layer.backward(pass, dy, saved); });
}

TEST_CASE("gradients of FeedForward") {
  LayerBench bench;
  FeedForward layer(bench.backend, bench.tp, "mlp", bench.config.model.hidden_size, 6, false);
  ParameterList parameters;
  layer.append_parameters(parameters);
  bench.allocate(parameters);
  FeedForward::Saved saved;
  check_layer(
      bench, parameters, [&](Pass& pass, Tensor x) { return layer.forward(pass, x, saved); },
      [&](Pass& pass, Tensor dy) { return layer.backward(pass, dy, saved); });
}

TEST_CASE("gradients of MoeLayer without its auxiliary losses") {
  RunConfig config = tiny_config();
  config.moe.load_balancing_loss_coef = config.moe.z_loss_coef = 0;
  config.moe.num_shared_experts = 1;
  LayerBench bench(config);
  MoeLayer layer(bench.backend, bench.grid, bench.tp, "mlp", bench.config, 0);
  ParameterList parameters;
  layer.append_parameters(parameters);
  bench.allocate(parameters);
  MoeLayer::Saved saved;
  check_layer(
      bench, parameters, [&](Pass& pass, Tensor x) { return layer.forward(pass, x, saved); },
      [&](Pass& pass, Tensor dy) { return layer.backward(pass, dy, saved); });
}

TEST_CASE("gradients of a dense and an MoE Block") {
  for (const bool is_moe : {false, true}) {
    RunConfig config = tiny_config();
    config.moe.load_balancing_loss_coef = config.moe.z_loss_coef = 0;
    LayerBench bench(config);
    Block layer(bench.backend, bench.grid, bench.tp, 0, bench.config,
                is_moe ? std::optional(0) : std::nullopt);
    ParameterList parameters;
    layer.append_parameters(parameters);
    bench.allocate(parameters);
    Block::Saved saved;
    check_layer(
        bench, parameters, [&](Pass& pass, Tensor x) { return layer.forward(pass, x, saved); },
        [&](Pass& pass, Tensor dy) { return layer.backward(pass, dy, saved); });
  }
}

TEST_CASE("gradient of Embedding") {
  LayerBench bench;
  Embedding embedding(bench.backend, bench.tp, bench.config.model.vocab_size,
                      bench.config.model.hidden_size);
  bench.allocate({&embedding.table()});
  const auto dy = random_tensor<double>("dy", {bench.num_tokens(), bench.config.model.hidden_size});
  const auto loss = [&] {
    Arena::Scope slot(bench.activations);
    Pass pass = bench.pass();
    return weighted_sum(embedding.forward(pass), dy.values);
  };
  Pass pass = bench.pass();
  embedding.backward(pass, Tensor(const_cast<double*>(dy.values.data()), DType::kF64,
                                  {bench.num_tokens(), bench.config.model.hidden_size}));
  CHECK(gradient_error(embedding.table().gradient().span<double>(),
                       numeric_gradient(embedding.table().weight.span<double>(), loss)) <= 1e-6);
}

TEST_CASE(
    "gradients of LmHead with its own and with the embedding's weight; some targets ignored") {
  for (const bool tied : {false, true}) {
    CAPTURE(tied);
    LayerBench bench;
    const int64_t V = bench.config.model.vocab_size, D = bench.config.model.hidden_size;
    Embedding embedding(bench.backend, bench.tp, V, D);
    LmHead head = tied ? LmHead(bench.backend, bench.tp, &embedding.table())
                       : LmHead(bench.backend, bench.tp, dense_parameter("lm_head.weight", {V, D}));
    ParameterList parameters = {&embedding.table()};
    head.append_parameters(parameters);
    CHECK(parameters.size() == (tied ? 1 : 2));
    bench.allocate(parameters);
    Parameter& weight = *parameters.back();

    auto x = random_tensor<double>("x", {bench.num_tokens(), D});
    const double inverse_count =
        bench.scalars.values[static_cast<size_t>(StepScalar::kInverseTargetCount)];
    LmHead::Saved saved;
    const auto loss = [&] {
      Arena::Scope slot(bench.activations);
      Pass pass = bench.pass();
      head.forward(pass, x.view(), saved);
      return inverse_count * bench.statistics.download(pass.queue).loss_sum;
    };
    Arena::Scope slot(bench.activations);
    Pass pass = bench.pass();
    head.forward(pass, x.view(), saved);
    Tensor dx = head.backward(pass, saved);
    CHECK(gradient_error(dx.span<double>(), numeric_gradient(x.values, loss)) <= 1e-6);
    CHECK(gradient_error(weight.gradient().span<double>(),
                         numeric_gradient(weight.weight.span<double>(), loss)) <= 1e-6);
  }
}
