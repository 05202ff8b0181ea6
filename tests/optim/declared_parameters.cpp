#include "optim/declared_parameters.h"

#include <algorithm>

#include "core/math.h"

namespace switchyard::test {
namespace {

// The slice of dim `dim`, which `parts` divides.
void cut(Parameter& parameter, size_t dim, int index, int parts) {
  parameter.shape[dim] = div_exact(parameter.shape[dim], parts);
  parameter.offset[dim] = parameter.shape[dim] * index;
}

Parameter declared(const Declaration& what, const GridSizes& sizes, const GridCoordinates& me) {
  Parameter parameter = dense_parameter(what.name, what.shape);
  if (what.group == ReplicaGroup::kExpert) {
    parameter = sliced_parameter(what.name, what.shape, 0, me.ep, sizes.ep);
    cut(parameter, 2, me.etp, sizes.etp);
  } else if (what.tp_dim >= 0) {
    parameter = sliced_parameter(what.name, what.shape, what.tp_dim, me.tp, sizes.tp);
  } else if (what.copies == Copies::kKeyValue) {
    parameter = sliced_parameter(what.name, what.shape, 0, me.tp / sizes.kv_copies,
                                 sizes.tp / sizes.kv_copies);
  }
  parameter.unit = what.unit;
  parameter.group = what.group;
  parameter.copies = what.copies;
  parameter.is_partial = what.is_partial;
  parameter.init = what.init;
  parameter.weight_decay = what.weight_decay;
  if (what.is_frozen) parameter.trainable.clear();
  if (!what.trained_rows.empty()) {
    parameter.trainable.clear();
    for (const auto& [begin, end] : what.trained_rows) {
      const int64_t first = std::max(begin, parameter.offset[0]);
      const int64_t last = std::min(end, parameter.offset[0] + parameter.shape[0]);
      if (first < last)
        parameter.trainable.push_back(
            {.begin = first - parameter.offset[0], .count = last - first});
    }
  }
  return parameter;
}

}  // namespace

bool Declaration::trains(int64_t row) const {
  if (is_frozen) return false;
  return trained_rows.empty() || std::any_of(trained_rows.begin(), trained_rows.end(), [&](auto r) {
           return row >= r.first && row < r.second;
         });
}

std::vector<Declaration> DeclaredParameters::declarations(int stage, Freezing freezing) {
  const bool freezes = freezing == Freezing::kSomeExperts;
  const auto name = [&](const char* base) {
    return stage == 0 ? std::string(base) : fmt::format("stage{}.{}", stage, base);
  };
  using Rows = std::vector<std::pair<int64_t, int64_t>>;
  return {
      {.name = name("embedding"), .shape = {13, 5}, .unit = 0, .tp_dim = 0},
      {.name = "tied",
       .shape = {9, 3},
       .unit = 0,
       .copies = Copies::kTied,
       .is_partial = true,
       .tp_dim = 0},
      {.name = name("experts.up"),
       .shape = {kNumExperts, 3, 14},
       .unit = 1,
       .group = ReplicaGroup::kExpert,
       .trained_rows = freezes ? Rows{{1, 2}, {3, 4}} : Rows{}},
      {.name = name("matrix"), .shape = {8, 8}, .unit = 1, .tp_dim = 1},
      {.name = name("norm"),
       .shape = {5},
       .unit = 1,
       .copies = Copies::kTensor,
       .is_partial = true,
       .init = Init::kOnes,
       .weight_decay = false},
      {.name = name("key"),
       .shape = {4, 9},
       .unit = 1,
       .copies = Copies::kKeyValue,
       .is_partial = true},
      {.name = name("bias"),
       .shape = {7},
       .unit = 1,
       .copies = Copies::kTensor,
       .init = Init::kZeros,
       .is_frozen = freezes},
      {.name = name("experts.down"),
       .shape = {kNumExperts, 16, 4},
       .unit = 2,
       .group = ReplicaGroup::kExpert,
       .trained_rows = freezes ? Rows{{0, 3}} : Rows{}},
      {.name = name("experts.gate"),
       .shape = {kNumExperts, 2, 2},
       .unit = 2,
       .group = ReplicaGroup::kExpert},
      {.name = name("router"),
       .shape = {kNumExperts, 33},
       .unit = 2,
       .copies = Copies::kTensor,
       .is_partial = true,
       .weight_decay = false},
      {.name = name("head"), .shape = {130}, .unit = 2, .copies = Copies::kTensor},
  };
}

DeclaredParameters::DeclaredParameters(const GridSizes& sizes, const GridCoordinates& me,
                                       Freezing freezing) {
  for (const Declaration& what : declarations(me.pp, freezing))
    parameters_.push_back(declared(what, sizes, me));
}

ParameterList DeclaredParameters::list() {
  ParameterList list;
  for (Parameter& parameter : parameters_) list.push_back(&parameter);
  return list;
}

Parameter& DeclaredParameters::named(const std::string& name) {
  for (Parameter& parameter : parameters_)
    if (parameter.name == name) return parameter;
  throw Error(ExitCode::kInternal, "no parameter " + name);
}

}  // namespace switchyard::test
