// DeclaredParameters: parameters of awkward sizes and of every kind, as layers would declare them
// on one rank of a grid: dense and sliced over tp, experts cut over ep and etp, copies with whole
// and with partial gradients, parameters that several pipeline stages share, frozen rows.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "comm/process_grid.h"
#include "model/parameter.h"

namespace switchyard::test {

// A parameter of the whole model.
struct Declaration {
  std::string name;
  std::vector<int64_t> shape;
  int unit = 0;
  ReplicaGroup group = ReplicaGroup::kDense;
  Copies copies = Copies::kNone;
  bool is_partial = false;
  int tp_dim = -1;  // sliced over tp
  Init init = Init::kNormal;
  bool weight_decay = true;
  std::vector<std::pair<int64_t, int64_t>> trained_rows = {};  // [begin, end); of all experts
  bool is_frozen = false;

  bool trains(int64_t row) const;  // of dim 0
};

enum class Freezing { kNothing, kSomeExperts };

class DeclaredParameters {
 public:
  static constexpr int64_t kNumExperts = 4;
  static constexpr int kNumUnits = 3;

  DeclaredParameters(const GridSizes& sizes, const GridCoordinates& me,
                     Freezing freezing = Freezing::kNothing);
  explicit DeclaredParameters(Freezing freezing = Freezing::kNothing)
      : DeclaredParameters(GridSizes{}, GridCoordinates{}, freezing) {}

  // Of the stage `stage` of a pipeline. Names differ, but for what stages share.
  static std::vector<Declaration> declarations(int stage, Freezing freezing);

  ParameterList list();
  std::vector<Parameter>& all() { return parameters_; }
  Parameter& named(const std::string& name);

 private:
  std::vector<Parameter> parameters_;
};

// Calls visit(element of the box, element of the whole) for every element of a parameter.
template <typename Visit>
void for_each_element(const Parameter& parameter, const Visit& visit) {
  std::vector<int64_t> index(parameter.shape.size(), 0);
  for (int64_t i = 0; i < parameter.numel(); ++i) {
    int64_t whole = 0;
    for (size_t d = 0; d < index.size(); ++d)
      whole = whole * parameter.global_shape[d] + parameter.offset[d] + index[d];
    visit(static_cast<size_t>(i), whole);
    for (size_t d = index.size(); d-- > 0;) {
      if (++index[d] < parameter.shape[d]) break;
      index[d] = 0;
    }
  }
}

}  // namespace switchyard::test
