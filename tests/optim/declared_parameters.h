// DeclaredParameters: parameters of awkward sizes, dense ones and experts, as layers would declare
// them on one rank of the expert-parallel group.
#pragma once

#include <string>
#include <vector>

#include "core/math.h"
#include "model/parameter.h"

namespace switchyard::test {

class DeclaredParameters {
 public:
  static constexpr int64_t kNumExperts = 4;

  explicit DeclaredParameters(int ep_rank = 0, int ep_size = 1) {
    add(dense_parameter("embedding", {13, 5}));
    add_experts("experts.up", 3, 7, ep_rank, ep_size);
    add(dense_parameter("matrix", {8, 8}));
    Parameter norm = dense_parameter("norm", {5});
    norm.init = Init::kOnes;
    norm.weight_decay = false;
    add(norm);
    add_experts("experts.down", 16, 4, ep_rank, ep_size);
    Parameter router = dense_parameter("router", {kNumExperts, 33});
    router.weight_decay = false;
    add(router);
  }

  ParameterList list() {
    ParameterList list;
    for (Parameter& parameter : parameters_) list.push_back(&parameter);
    return list;
  }
  std::vector<Parameter>& all() { return parameters_; }
  Parameter& named(const std::string& name) {
    for (Parameter& parameter : parameters_)
      if (parameter.name == name) return parameter;
    throw Error(ExitCode::kInternal, "no parameter " + name);
  }

 private:
  void add(Parameter parameter) { parameters_.push_back(std::move(parameter)); }

  void add_experts(const std::string& name, int64_t rows, int64_t columns, int ep_rank,
                   int ep_size) {
    Parameter experts = sliced_parameter(name, {kNumExperts, rows, columns}, 0, ep_rank, ep_size);
    experts.group = ReplicaGroup::kExpert;
    add(experts);
  }

  std::vector<Parameter> parameters_;
};

}  // namespace switchyard::test
