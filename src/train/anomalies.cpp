#include "train/anomalies.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>

#include "backend/ops.h"

namespace switchyard {
namespace {

constexpr double kSmallestDeviation = 1e-6;  // relative to the mean

// A parameter with something that is not finite; no name: there is none.
struct Place {
  std::string name = {};
  int unit = 0;  // of the model, in the order of the forward pass

  // The forward pass comes to it before `other`.
  bool is_before(const Place& other) const {
    return !name.empty() && (other.name.empty() || unit < other.unit);
  }
  // So does the backward pass.
  bool is_before_on_the_way_back(const Place& other) const {
    return !name.empty() && (other.name.empty() || unit > other.unit);
  }
};

// What one rank found.
struct Findings {
  bool is_loss_finite = true;
  Place weight = {}, gradient = {};      // the first ones
  std::set<std::string> gradients = {};  // all of them
};

std::string to_text(const Findings& findings) {
  return nlohmann::json::array({findings.is_loss_finite, findings.weight.name, findings.weight.unit,
                                findings.gradient.name, findings.gradient.unit, findings.gradients})
      .dump();
}

Findings from_text(const std::string& text) {
  const nlohmann::json json = nlohmann::json::parse(text);
  return {.is_loss_finite = json[0],
          .weight = {.name = json[1], .unit = json[2]},
          .gradient = {.name = json[3], .unit = json[4]},
          .gradients = json[5]};
}

struct Part {
  const Parameter* parameter;
  Tensor values;  // flat
};

// Parameters in which something is not finite, or too large to be squared.
std::vector<Place> not_finite(Backend& backend, const std::vector<Part>& parts) {
  const Queue queue = backend.compute_queue();
  const auto n = static_cast<int64_t>(parts.size());
  const Buffer memory(backend, n * static_cast<int64_t>(sizeof(double)));
  const Tensor squares = memory.tensor(DType::kF64, {n});
  backend.ops().fill(queue, squares, 0.0);
  for (int64_t i = 0; i < n; ++i)
    backend.ops().squared_norm_add(queue, squares.rows(i, 1), parts[static_cast<size_t>(i)].values);
  std::vector<double> sums(parts.size());
  backend.download(queue, sums.data(), squares);
  backend.host_wait(backend.record(queue));
  std::vector<Place> places;
  for (size_t i = 0; i < parts.size(); ++i)
    if (!std::isfinite(sums[i]))
      places.push_back({.name = parts[i].parameter->name, .unit = parts[i].parameter->unit});
  return places;
}

Findings look(Backend& backend, ZeroOptimizer& optimizer, const ParameterList& parameters,
              double loss_sum) {
  Findings findings = {.is_loss_finite = std::isfinite(loss_sum)};
  optimizer.wait_for_params();
  std::vector<Part> weights, gradients;
  for (const Parameter* parameter : parameters)
    weights.push_back({parameter, parameter->weight.flat()});
  for (const FlatBuffer& group : optimizer.groups())
    for (const FlatBuffer::Update& update : group.updates())
      gradients.push_back({update.parameter, update.gradient});
  for (const Place& place : not_finite(backend, weights))
    if (place.is_before(findings.weight)) findings.weight = place;
  for (const Place& place : not_finite(backend, gradients)) {
    findings.gradients.insert(place.name);
    if (place.is_before_on_the_way_back(findings.gradient)) findings.gradient = place;
  }
  return findings;
}

std::string summary(const std::vector<Findings>& ranks) {
  std::vector<std::string> parts;
  const auto bad_loss = std::ranges::find(ranks, false, &Findings::is_loss_finite);
  if (bad_loss != ranks.end())
    parts.push_back(fmt::format("the loss is not finite on rank {}", bad_loss - ranks.begin()));
  size_t weight = 0, gradient = 0;
  std::set<std::string> all;
  for (size_t rank = 0; rank < ranks.size(); ++rank) {
    if (ranks[rank].weight.is_before(ranks[weight].weight)) weight = rank;
    if (ranks[rank].gradient.is_before_on_the_way_back(ranks[gradient].gradient)) gradient = rank;
    all.insert(ranks[rank].gradients.begin(), ranks[rank].gradients.end());
  }
  const Place& first_weight = ranks[weight].weight;
  const Place& first_gradient = ranks[gradient].gradient;
  if (!first_weight.name.empty())
    parts.push_back(
        fmt::format("weights of {} are not finite on rank {}", first_weight.name, weight));
  if (!first_gradient.name.empty())
    parts.push_back(fmt::format(
        "the gradient of {} is not finite on rank {}{}", first_gradient.name, gradient,
        all.size() == 1 ? "" : fmt::format(", the first of {} on the way back", all.size())));
  return parts.empty() ? "the gradient norm overflows" : fmt::format("{}", fmt::join(parts, "; "));
}

}  // namespace

double loss_limit(const LossSpikeConfig& config, const std::vector<double>& accepted) {
  const auto n = static_cast<double>(accepted.size());
  if (config.policy == SpikePolicy::kOff || n < static_cast<double>(config.window))
    return std::numeric_limits<double>::infinity();
  const double mean = std::accumulate(accepted.begin(), accepted.end(), 0.0) / n;
  double squares = 0;
  for (const double loss : accepted) squares += (loss - mean) * (loss - mean);
  const double deviation = std::max(std::sqrt(squares / n), kSmallestDeviation * std::abs(mean));
  return mean + config.z_score * deviation;
}

void accept_loss(const LossSpikeConfig& config, std::vector<double>& accepted, double loss) {
  accepted.push_back(loss);
  const auto window = static_cast<size_t>(config.window);
  if (accepted.size() > window)
    accepted.erase(accepted.begin(), accepted.end() - static_cast<ptrdiff_t>(window));
}

std::string describe_spike(const LossSpikeConfig& config, double loss, double limit) {
  return fmt::format(
      "the loss {:.6g} is above {:.6g}, the limit of loss_spike: {} standard deviations above the "
      "mean of {} losses",
      loss, limit, config.z_score, config.window);
}

std::string describe_not_finite(Backend& backend, Communicator& world, ZeroOptimizer& optimizer,
                                const ParameterList& parameters, double loss_sum) {
  const Findings mine = look(backend, optimizer, parameters, loss_sum);
  std::vector<Findings> ranks;
  for (const std::string& text : world.gather_host(to_text(mine), 0))
    ranks.push_back(from_text(text));
  std::string result = world.rank() == 0 ? summary(ranks) : "";
  world.broadcast_host(result, 0);
  return result;
}

}  // namespace switchyard
