// FlatLayout: where each parameter lies. Pure data, no memory: the flat buffers (flat_buffer.h)
// follow it.
//
// Parameters form groups: those that the same ranks hold and whose gradients are summed alike. In a
// group, a *bucket* is what one unit of the model (model/unit_hooks.h) trains, laid end to end: one
// message. A bucket splits into equal slices, one for each rank of the group's sharers:
//
//   bucket of 256, 2 sharers:  [ matrix, 100 | pad 28 | norm, 5 ...   pad to 256 ]
//                              [ slice of rank 0        | slice of rank 1        ]
//
// Every parameter, or trained part of one, begins at a multiple of 64 elements; so does every
// slice. Padding is zero and stays zero.
#pragma once

#include <compare>
#include <cstdint>
#include <vector>

#include "model/parameter.h"

namespace switchyard {

struct GroupKey {
  ReplicaGroup group = ReplicaGroup::kDense;
  Copies copies = Copies::kNone;
  bool is_partial = false;

  auto operator<=>(const GroupKey&) const = default;
};

// A range of trainable rows in a bucket. A parameter that is trained as a whole is one piece, the
// rows beyond its shape included (Parameter::padded_rows).
struct Piece {
  Parameter* parameter = nullptr;
  size_t range = 0;    // of Parameter::trainable
  int64_t begin = 0;   // first element, counted in the bucket
  int64_t numel = 0;   // padded rows included
  int64_t source = 0;  // first element, counted in the parameter
};

struct Bucket {
  int unit = 0;
  std::vector<Piece> pieces = {};
  int64_t begin = 0;  // first element, counted in the group
  int64_t size = 0;   // elements; a multiple of sharers * 64
  // A parameter of it is trained in parts, so that its weights cannot lie as the bucket does:
  // messages of weights go through a copy.
  bool is_staged = false;
};

struct FlatLayout {
  GroupKey key = {};
  int num_sharers = 1;               // ranks among which the state is cut
  std::vector<Bucket> buckets;       // in the order of units
  std::vector<Parameter*> separate;  // whose weights lie outside the buckets: frozen, or in parts

  int64_t size = 0;              // elements of all buckets, padding included
  int64_t trained_elements = 0;  // without padding
  int64_t frozen_elements = 0;
};

// Every parameter is in one layout; layouts are ordered by key, parameters keep their order. The
// result is the same on all ranks that share a group. `dense_sharers` and `expert_sharers` are the
// sizes of dp and edp.
std::vector<FlatLayout> lay_out(const ParameterList& parameters, int dense_sharers,
                                int expert_sharers);

// Elements that a weight outside the buckets occupies.
int64_t separate_numel(const Parameter& parameter);

bool is_trained_as_a_whole(const Parameter& parameter);

}  // namespace switchyard
