#include "optim/optimizer_job.h"

#include <algorithm>
#include <cmath>
#include <map>

namespace switchyard::test {
namespace {

double relative_difference(double a, double b) {
  if (!std::isfinite(a)) return INFINITY;
  return std::abs(a - b) / std::max(1.0, std::abs(b));
}

// All ranks of `group` have the same number.
void check_same(Communicator& group, int64_t number, const std::string& what) {
  for (const int64_t other : group.all_gather_host(number))
    SY_CHECK(other == number, "{}: ranks of {} differ", what, group.name());
}

void check_padding_rows(const Parameter& parameter) {
  const int64_t item = parameter.weight.bytes() / std::max<int64_t>(1, parameter.numel());
  const auto* bytes = static_cast<const std::byte*>(parameter.weight.raw());
  for (int64_t i = parameter.numel() * item; i < parameter.padded_numel() * item; ++i)
    SY_CHECK(bytes[i] == std::byte{0}, "{}: padding is not zero", parameter.name);
}

// All weights, unit by unit, as the next forward pass would find them.
std::map<std::string, std::vector<double>> weights_as_layers_read(OptimizerJob& job) {
  std::map<std::string, std::vector<double>> weights;
  const UnitHooks hooks = job.optimizer().hooks();
  for (int unit = 0; unit < DeclaredParameters::kNumUnits; ++unit) {
    hooks.before_forward(unit);
    for (const Parameter& parameter : job.parameters().all())
      if (parameter.unit == unit) weights[parameter.name] = to_doubles(parameter.weight);
  }
  return weights;
}

// `read`: the weight as layers read it.
void check_parameter(OptimizerJob& job, const Parameter& parameter, const std::vector<double>& read,
                     const PlainAdamW& plain, DType real, const std::string& text) {
  const double tolerance = real == DType::kF64 ? 1e-12 : 1e-5;
  const PlainAdamW::State& expected = plain.state(parameter.name);
  const std::vector<double> gradient = job.optimizer().gradient_of(parameter);
  const std::vector<double> weight = job.optimizer().weight_of(parameter);
  for_each_element(parameter, [&](size_t i, int64_t whole) {
    const auto w = static_cast<size_t>(whole);
    SY_CHECK(gradient[i] == expected.gradient[w], "{}: gradient of {}[{}] is {}, not {}", text,
             parameter.name, whole, gradient[i], expected.gradient[w]);
    SY_CHECK(relative_difference(weight[i], expected.weight[w]) <= tolerance,
             "{}: weight {}[{}] is {}, not {}", text, parameter.name, whole, weight[i],
             expected.weight[w]);
    const bool is_rounded = real == DType::kBF16;
    const float rounding = static_cast<float>(BFloat16(static_cast<float>(weight[i])));
    SY_CHECK(read[i] == (is_rounded ? rounding : weight[i]),
             "{}: layers read {} in {}[{}], but the weight is {}", text, read[i], parameter.name,
             whole, weight[i]);
  });
  check_padding_rows(parameter);
  const bool is_dense = parameter.group == ReplicaGroup::kDense;
  const int64_t hash = hash_of(parameter.weight);
  check_same(is_dense ? job.grid().dp() : job.grid().edp(), hash, parameter.name);
  if (parameter.copies == Copies::kTensor) check_same(job.grid().tp(), hash, parameter.name);
  if (parameter.copies == Copies::kKeyValue) check_same(job.grid().kv(), hash, parameter.name);
  if (parameter.copies == Copies::kTied) check_same(job.grid().tied(), hash, parameter.name);
}

}  // namespace

RunConfig OptimizerCase::config() const {
  RunConfig config;
  config.fp64.enabled = real == DType::kF64;
  config.bf16.enabled = real == DType::kBF16;
  config.communication_data_type = messages;
  config.gradient_clipping = max_norm;
  config.model.initializer_range = kInitializerRange;
  config.training.seed = kSeed;
  config.optimizer.params = {
      .lr = kRate, .betas = {kBeta1, kBeta2}, .eps = kEps, .weight_decay = kDecay};
  config.zero_optimization = {
      .stage = stage, .overlap_comm = overlap, .reduce_once_per_step = reduce_once_per_step};
  return config;
}

std::string OptimizerCase::text() const {
  return fmt::format(
      "dp {} tp {} pp {} ep {} etp {}, stage {}{}{}, {}, {}accumulation {}, max_norm {}{}",
      sizes.dp, sizes.tp, sizes.pp, sizes.ep, sizes.etp, stage,
      reduce_once_per_step ? " once per step" : "", overlap ? "" : " without overlap",
      name_of(real), messages == ReductionType::kBF16 ? "bf16 messages, " : "", accumulation,
      max_norm, freezing == Freezing::kNothing ? "" : ", some experts frozen");
}

Tensor Scalars::begin_step(int step) {
  values_.assign(static_cast<size_t>(kNumStepScalars), 0.0);
  at(StepScalar::kLearningRate) = kRate;
  at(StepScalar::kBiasCorrection1) = 1 - std::pow(kBeta1, step);
  at(StepScalar::kBiasCorrection2) = 1 - std::pow(kBeta2, step);
  at(StepScalar::kLossLimit) = INFINITY;
  return Tensor(values_.data(), DType::kF64, {kNumStepScalars});
}

OptimizerJob::OptimizerJob(Communicator& world, const OptimizerCase& what)
    : what_(what),
      config_(what.config()),
      grid_(world, what.sizes, &backend_),
      parameters_(what.sizes, grid_.me(), what.freezing),
      optimizer_(backend_, grid_, config_, parameters_.list()) {}

void OptimizerJob::run_backward(int number) {
  const UnitHooks hooks = optimizer_.hooks();
  for (int m = 0; m < what_.accumulation; ++m) {
    for (int unit = 0; unit < DeclaredParameters::kNumUnits; ++unit) hooks.before_forward(unit);
    for (int unit = DeclaredParameters::kNumUnits; unit-- > 0;) {
      const bool is_last = m + 1 == what_.accumulation;
      hooks.before_gradients(unit);
      add_gradients(unit, number, m);
      if (is_last && spoil_) spoil_(parameters_);
      hooks.after_gradients(unit, is_last);
    }
  }
}

double OptimizerJob::step(int number, const std::function<void(DeclaredParameters&)>& spoil) {
  const Tensor scalars = scalars_.begin_step(number);
  spoil_ = spoil;
  optimizer_.begin_step();
  run_backward(number);
  optimizer_.finish_reduction();
  optimizer_.clip_grads(scalars, scalars_.loss_sum());
  optimizer_.adamw_step(scalars);
  optimizer_.all_gather_params();
  return scalars_.at(StepScalar::kGradNorm);
}

// Parts are dealt out to the ranks that share the parameter, and to their micro-batches. Copies
// with partial gradients share each part element by element.
void OptimizerJob::add_gradients(int unit, int step, int micro_batch) {
  for (Parameter& parameter : parameters_.all()) {
    if (parameter.unit != unit) continue;
    const Communicator& sharers =
        parameter.group == ReplicaGroup::kDense ? grid_.dp() : grid_.edp();
    const Communicator& copies = parameter.copies == Copies::kTensor     ? grid_.tp()
                                 : parameter.copies == Copies::kKeyValue ? grid_.kv()
                                                                         : grid_.tied();
    for (TrainableRows& rows : parameter.trainable) {
      const int64_t first = rows.begin * parameter.row_numel();
      for_each_element(parameter, [&](size_t local, int64_t whole) {
        const int64_t i = static_cast<int64_t>(local) - first;
        if (i < 0 || i >= rows.count * parameter.row_numel()) return;
        for (int part = 0; part < kParts; ++part) {
          if (part % sharers.size() != sharers.rank()) continue;
          if (part / sharers.size() % what_.accumulation != micro_batch) continue;
          if (parameter.is_partial && (whole + part) % copies.size() != copies.rank()) continue;
          const double value = gradient_part(parameter.name, whole, step, part);
          if (rows.gradient.dtype() == DType::kF64)
            rows.gradient.data<double>()[i] += value;
          else
            rows.gradient.data<float>()[i] += static_cast<float>(value);
        }
      });
    }
  }
}

void check_follows_plain(Communicator& world, const OptimizerCase& what, int steps) {
  OptimizerJob job(world, what);
  std::vector<Declaration> declarations;
  for (int stage = 0; stage < what.sizes.pp; ++stage)
    for (Declaration& declaration : DeclaredParameters::declarations(stage, what.freezing))
      declarations.push_back(std::move(declaration));
  PlainAdamW plain(declarations, what.real);
  for (int step = 1; step <= steps; ++step) {
    const double norm = job.step(step), plain_norm = plain.step(step, what.max_norm);
    const std::string text = fmt::format("{}, step {}", what.text(), step);
    SY_CHECK(relative_difference(norm, plain_norm) <= 1e-12, "{}: norm {}, not {}", text, norm,
             plain_norm);
    std::vector<double>& scalars = job.scalars().values();
    check_same(world, hash_of(Tensor(scalars.data(), DType::kF64, {kNumStepScalars})), text);
    const auto read = weights_as_layers_read(job);
    for (const Parameter& parameter : job.parameters().all())
      check_parameter(job, parameter, read.at(parameter.name), plain, what.real, text);
  }
}

int64_t hash_of(Tensor tensor) {
  uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a
  const auto* bytes = static_cast<const uint8_t*>(tensor.raw());
  for (int64_t i = 0; i < tensor.bytes(); ++i) hash = (hash ^ bytes[i]) * 0x100000001b3u;
  return static_cast<int64_t>(hash);
}

std::vector<double> to_doubles(Tensor tensor) {
  std::vector<double> values(static_cast<size_t>(tensor.numel()));
  for (size_t i = 0; i < values.size(); ++i) {
    if (tensor.dtype() == DType::kF64)
      values[i] = tensor.data<double>()[i];
    else if (tensor.dtype() == DType::kF32)
      values[i] = tensor.data<float>()[i];
    else
      values[i] = static_cast<float>(tensor.data<BFloat16>()[i]);
  }
  return values;
}

}  // namespace switchyard::test
