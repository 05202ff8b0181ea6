#include "optim/plain_adamw.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "core/random.h"

namespace switchyard::test {

double gradient_part(const std::string& name, int64_t index, int step, int part) {
  const uint64_t key = random_key(static_cast<uint64_t>(step), name);
  const double u = random_uniform(key, static_cast<uint64_t>(index), static_cast<uint64_t>(part));
  return std::floor(16 * u - 8) / 8;
}

PlainAdamW::PlainAdamW(const std::vector<Declaration>& declarations, DType real) {
  for (const Declaration& declaration : declarations) {
    if (states_.contains(declaration.name)) continue;  // held by several stages
    State& state = states_[declaration.name];
    state.declaration = declaration;
    state.row_numel = std::accumulate(declaration.shape.begin() + 1, declaration.shape.end(),
                                      int64_t{1}, std::multiplies<>());
    state.decay = declaration.weight_decay ? kDecay : 0.0;
    const auto numel = static_cast<size_t>(declaration.shape[0] * state.row_numel);
    for (size_t i = 0; i < numel; ++i) {
      double value = declaration.init == Init::kOnes ? 1 : 0;
      if (declaration.init == Init::kNormal)
        value = kInitializerRange * random_normal(random_key(kSeed, declaration.name), i);
      if (real == DType::kBF16) value = static_cast<float>(BFloat16(static_cast<float>(value)));
      state.weight.push_back(value);
    }
    state.gradient.assign(numel, 0.0);
    state.m.assign(numel, 0.0);
    state.v.assign(numel, 0.0);
  }
}

double PlainAdamW::step(int number, double max_norm) {
  double squares = 0;
  for (auto& [name, state] : states_)
    for (size_t i = 0; i < state.weight.size(); ++i) {
      const auto index = static_cast<int64_t>(i);
      double& g = state.gradient[i] = 0;
      if (!state.declaration.trains(index / state.row_numel)) continue;
      for (int part = 0; part < kParts; ++part) g += gradient_part(name, index, number, part);
      squares += g * g;
    }
  const double norm = std::sqrt(squares);
  const double clip = max_norm > 0 ? std::min(1.0, max_norm / (norm + 1e-6)) : 1.0;
  for (auto& [name, state] : states_)
    for (size_t i = 0; i < state.weight.size(); ++i) {
      if (!state.declaration.trains(static_cast<int64_t>(i) / state.row_numel)) continue;
      const double g = clip * state.gradient[i];
      state.m[i] = kBeta1 * state.m[i] + (1 - kBeta1) * g;
      state.v[i] = kBeta2 * state.v[i] + (1 - kBeta2) * g * g;
      const double m_hat = state.m[i] / (1 - std::pow(kBeta1, number));
      const double v_hat = state.v[i] / (1 - std::pow(kBeta2, number));
      state.weight[i] -=
          kRate * (m_hat / (std::sqrt(v_hat) + kEps) + state.decay * state.weight[i]);
    }
  return norm;
}

}  // namespace switchyard::test
