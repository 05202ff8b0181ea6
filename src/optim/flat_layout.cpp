#include "optim/flat_layout.h"

#include <algorithm>
#include <map>

#include "core/math.h"

namespace switchyard {
namespace {

constexpr int64_t kAlignment = 64;  // elements

Bucket& bucket_of_unit(FlatLayout& layout, int unit) {
  const auto found = std::find_if(layout.buckets.begin(), layout.buckets.end(),
                                  [&](const Bucket& bucket) { return bucket.unit == unit; });
  if (found != layout.buckets.end()) return *found;
  layout.buckets.push_back({.unit = unit});
  return layout.buckets.back();
}

void add_parameter(FlatLayout& layout, Parameter& parameter) {
  const bool is_whole = is_trained_as_a_whole(parameter);
  if (!is_whole) layout.separate.push_back(&parameter);
  layout.frozen_elements += parameter.numel();
  for (size_t i = 0; i < parameter.trainable.size(); ++i) {
    const TrainableRows& rows = parameter.trainable[i];
    const int64_t numel = rows.count * parameter.row_numel();
    Bucket& bucket = bucket_of_unit(layout, parameter.unit);
    bucket.pieces.push_back({.parameter = &parameter,
                             .range = i,
                             .begin = bucket.size,
                             .numel = is_whole ? parameter.padded_numel() : numel,
                             .source = rows.begin * parameter.row_numel()});
    bucket.size += round_up(bucket.pieces.back().numel, kAlignment);
    bucket.is_staged = bucket.is_staged || !is_whole;
    layout.trained_elements += numel;
    layout.frozen_elements -= numel;
  }
}

// The weights of a staged bucket's other parameters cannot lie in bucket order either.
void separate_parameters_of_staged_buckets(FlatLayout& layout) {
  for (const Bucket& bucket : layout.buckets)
    for (const Piece& piece : bucket.pieces)
      if (bucket.is_staged && is_trained_as_a_whole(*piece.parameter))
        layout.separate.push_back(piece.parameter);
}

void place_buckets(FlatLayout& layout) {
  std::sort(layout.buckets.begin(), layout.buckets.end(),
            [](const Bucket& a, const Bucket& b) { return a.unit < b.unit; });
  for (Bucket& bucket : layout.buckets) {
    bucket.size = round_up(bucket.size, kAlignment * layout.num_sharers);
    bucket.begin = layout.size;
    layout.size += bucket.size;
  }
}

}  // namespace

std::vector<FlatLayout> lay_out(const ParameterList& parameters, int dense_sharers,
                                int expert_sharers) {
  std::map<GroupKey, FlatLayout> groups;
  for (Parameter* parameter : parameters) {
    const GroupKey key = {parameter->group, parameter->copies, parameter->is_partial};
    FlatLayout& layout = groups[key];
    layout.key = key;
    layout.num_sharers = key.group == ReplicaGroup::kDense ? dense_sharers : expert_sharers;
    add_parameter(layout, *parameter);
  }
  std::vector<FlatLayout> layouts;
  for (auto& [key, layout] : groups) {
    separate_parameters_of_staged_buckets(layout);
    place_buckets(layout);
    layouts.push_back(std::move(layout));
  }
  return layouts;
}

int64_t separate_numel(const Parameter& parameter) {
  return round_up(parameter.padded_numel(), kAlignment);
}

bool is_trained_as_a_whole(const Parameter& parameter) {
  return parameter.trainable.size() == 1 && parameter.trainable[0].count == parameter.shape[0];
}

}  // namespace switchyard
