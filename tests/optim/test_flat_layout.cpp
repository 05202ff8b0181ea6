// Where parameters lie, and what they begin with.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <set>

#include "comm/self_communicator.h"
#include "comm/thread_communicator.h"
#include "optim/optimizer_job.h"
#include "support/catch.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

const std::byte* begin_of(Tensor tensor) { return static_cast<const std::byte*>(tensor.raw()); }
const std::byte* end_of(Tensor tensor) { return begin_of(tensor) + tensor.bytes(); }

// Weights and gradients of parameters on one rank.
std::vector<Tensor> all_tensors(DeclaredParameters& parameters) {
  std::vector<Tensor> tensors;
  for (const Parameter& parameter : parameters.all()) {
    tensors.push_back(parameter.weight);
    for (const TrainableRows& rows : parameter.trainable) tensors.push_back(rows.gradient);
  }
  return tensors;
}

}  // namespace

TEST_CASE("flat layout: every parameter lies in its group, its unit's bucket, once") {
  for (const Freezing freezing : {Freezing::kNothing, Freezing::kSomeExperts})
    for (const int dense_sharers : {1, 3}) {
      DeclaredParameters parameters(freezing);
      const auto layouts = lay_out(parameters.list(), dense_sharers, 2);
      std::map<std::string, int64_t> trained, frozen;
      for (const FlatLayout& layout : layouts) {
        const bool is_dense = layout.key.group == ReplicaGroup::kDense;
        CHECK(layout.num_sharers == (is_dense ? dense_sharers : 2));
        int64_t next = 0;
        for (const Bucket& bucket : layout.buckets) {
          CHECK(bucket.begin == next);
          next += bucket.size;
          CHECK(bucket.size % (64 * layout.num_sharers) == 0);
          int64_t end = 0;
          for (const Piece& piece : bucket.pieces) {
            const Parameter& parameter = *piece.parameter;
            CHECK(parameter.unit == bucket.unit);
            CHECK(GroupKey{parameter.group, parameter.copies, parameter.is_partial} == layout.key);
            CHECK(piece.begin % 64 == 0);
            CHECK(piece.begin >= end);
            CHECK(piece.begin - end < 64);
            end = piece.begin + piece.numel;
            trained[parameter.name] += piece.numel;
          }
          CHECK(bucket.size >= end);
          CHECK(bucket.size - end < 64 * layout.num_sharers + 64);
        }
        CHECK(layout.size == next);
      }
      for (const Parameter& parameter : parameters.all()) {
        int64_t expected = 0;
        for (const TrainableRows& rows : parameter.trainable)
          expected += rows.count * parameter.row_numel();
        INFO(parameter.name);
        CHECK(trained[parameter.name] == expected);
      }
    }
}

TEST_CASE("flat layout: groups differ in who shares, who copies, and what is partial") {
  DeclaredParameters parameters;
  std::map<GroupKey, std::set<std::string>> groups;
  for (const FlatLayout& layout : lay_out(parameters.list(), 2, 2))
    for (const Bucket& bucket : layout.buckets)
      for (const Piece& piece : bucket.pieces) groups[layout.key].insert(piece.parameter->name);
  using Names = std::set<std::string>;
  const std::map<GroupKey, Names> expected = {
      {{ReplicaGroup::kDense, Copies::kNone, false}, Names{"embedding", "matrix"}},
      {{ReplicaGroup::kDense, Copies::kTensor, false}, Names{"bias", "head"}},
      {{ReplicaGroup::kDense, Copies::kTensor, true}, Names{"norm", "router"}},
      {{ReplicaGroup::kDense, Copies::kKeyValue, true}, Names{"key"}},
      {{ReplicaGroup::kDense, Copies::kTied, true}, Names{"tied"}},
      {{ReplicaGroup::kExpert, Copies::kNone, false},
       Names{"experts.up", "experts.down", "experts.gate"}}};
  CHECK(groups == expected);
}

TEST_CASE("flat layout: only buckets with parameters trained in parts are staged") {
  DeclaredParameters parameters(Freezing::kSomeExperts);
  for (const FlatLayout& layout : lay_out(parameters.list(), 1, 1)) {
    std::set<const Parameter*> separate(layout.separate.begin(), layout.separate.end());
    CHECK(separate.size() == layout.separate.size());
    for (const Bucket& bucket : layout.buckets) {
      CHECK(bucket.is_staged == (layout.key.group == ReplicaGroup::kExpert));
      for (const Piece& piece : bucket.pieces)
        CHECK(separate.contains(piece.parameter) == bucket.is_staged);
    }
  }
}

TEST_CASE("flat buffer: weights and gradients do not overlap, and begin on vector boundaries") {
  for (const Freezing freezing : {Freezing::kNothing, Freezing::kSomeExperts})
    for (const DType real : {DType::kF32, DType::kF64, DType::kBF16}) {
      SelfCommunicator world("world");
      OptimizerJob job(world, {.real = real, .freezing = freezing});
      std::vector<Tensor> tensors = all_tensors(job.parameters());
      std::sort(tensors.begin(), tensors.end(),
                [](Tensor a, Tensor b) { return begin_of(a) < begin_of(b); });
      for (size_t i = 1; i < tensors.size(); ++i)
        CHECK(end_of(tensors[i - 1]) <= begin_of(tensors[i]));
      for (const Parameter& parameter : job.parameters().all()) {
        CHECK(parameter.weight.dtype() == real);
        CHECK(reinterpret_cast<uintptr_t>(parameter.weight.raw()) % 64 == 0);
        CHECK(std::ranges::equal(parameter.weight.shape(), parameter.shape));
        for (const TrainableRows& rows : parameter.trainable) {
          CHECK(rows.gradient.dtype() == accumulator_of(real));
          CHECK(rows.gradient.dim(0) == rows.count);
          CHECK(rows.gradient.numel() == rows.count * parameter.row_numel());
        }
      }
    }
}

TEST_CASE("flat buffer: a weight depends on seed, name and global index, on nothing else") {
  SelfCommunicator self("world");
  OptimizerJob whole(self, {});
  CHECK_NOTHROW(run_ranks(4, [&](Communicator& world) {
    const GridSizes sizes = {.dp = 2, .tp = 2, .ep = 2, .etp = 2};
    OptimizerJob job(world, {.sizes = sizes, .stage = 2});
    for (const Parameter& parameter : job.parameters().all()) {
      const auto expected = whole.parameters().named(parameter.name).weight.span<double>();
      const auto mine = parameter.weight.span<double>();
      for_each_element(parameter, [&](size_t i, int64_t index) {
        SY_CHECK(mine[i] == expected[static_cast<size_t>(index)], "{}[{}] is {}", parameter.name,
                 index, mine[i]);
      });
    }
  }));
  double squares = 0;
  const auto drawn = whole.parameters().named("router").weight.span<double>();
  for (const double value : drawn) squares += value * value;
  const double deviation = std::sqrt(squares / static_cast<double>(drawn.size()));
  CHECK(deviation > 0.2);  // 0.3 asked for, 132 numbers
  CHECK(deviation < 0.4);
  for (const double value : whole.parameters().named("norm").weight.span<double>())
    CHECK(value == 1.0);
  for (const double value : whole.parameters().named("bias").weight.span<double>())
    CHECK(value == 0.0);
}
