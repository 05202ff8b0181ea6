#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>

#include "backend/cpu/cpu_backend.h"
#include "optim/declared_parameters.h"
#include "optim/flat_buffer.h"
#include "support/catch.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

constexpr uint64_t kSeed = 77;

FlatBuffer make(Backend& backend, DeclaredParameters& parameters, ReplicaGroup group,
                DType real = DType::kF64) {
  return FlatBuffer(backend, parameters.list(), group, real, 0.3, kSeed);
}

const std::byte* begin_of(Tensor tensor) { return static_cast<const std::byte*>(tensor.raw()); }
const std::byte* end_of(Tensor tensor) { return begin_of(tensor) + tensor.bytes(); }

// The four tensors of each parameter.
std::vector<Tensor> all_tensors(const FlatBuffer& buffer) {
  std::vector<Tensor> tensors;
  for (const FlatBuffer::Range& range : buffer.ranges())
    tensors.insert(tensors.end(),
                   {range.weight, range.gradient, range.first_moment, range.second_moment});
  return tensors;
}

std::vector<double> values_of(Tensor tensor) {
  const auto span = tensor.span<double>();
  return {span.begin(), span.end()};
}

}  // namespace

TEST_CASE("flat buffer: parameters do not overlap, and begin on vector boundaries") {
  CpuBackend backend(1);
  for (const DType real : {DType::kF32, DType::kF64}) {
    DeclaredParameters parameters;
    const FlatBuffer dense = make(backend, parameters, ReplicaGroup::kDense, real);
    const FlatBuffer experts = make(backend, parameters, ReplicaGroup::kExpert, real);
    std::vector<Tensor> tensors = all_tensors(dense);
    for (const Tensor& tensor : all_tensors(experts)) tensors.push_back(tensor);
    REQUIRE(tensors.size() == 4 * 6);
    std::sort(tensors.begin(), tensors.end(),
              [](Tensor a, Tensor b) { return begin_of(a) < begin_of(b); });
    for (size_t i = 0; i < tensors.size(); ++i) {
      CHECK(tensors[i].dtype() == real);
      CHECK(reinterpret_cast<uintptr_t>(tensors[i].raw()) % 64 == 0);
      if (i > 0) CHECK(end_of(tensors[i - 1]) <= begin_of(tensors[i]));
    }
  }
}

TEST_CASE("flat buffer: each group holds its own parameters, and nothing but padding besides") {
  CpuBackend backend(1);
  DeclaredParameters parameters;
  const FlatBuffer dense = make(backend, parameters, ReplicaGroup::kDense);
  const FlatBuffer experts = make(backend, parameters, ReplicaGroup::kExpert);
  for (const auto& [buffer, group] :
       {std::pair(&dense, ReplicaGroup::kDense), std::pair(&experts, ReplicaGroup::kExpert)}) {
    int64_t num_elements = 0;
    size_t i = 0;
    for (const Parameter& parameter : parameters.all()) {
      if (parameter.group != group) continue;
      const FlatBuffer::Range& range = buffer->ranges()[i++];
      num_elements += (parameter.numel() + 63) / 64 * 64;
      CHECK(parameter.weight.raw() == range.weight.raw());
      CHECK(parameter.gradient().raw() == range.gradient.raw());
      CHECK(range.weight_decay == parameter.weight_decay);
      const std::vector<int64_t> shape(parameter.weight.shape().begin(),
                                       parameter.weight.shape().end());
      CHECK(shape == parameter.shape);
      for (Tensor tensor : {range.weight, range.gradient, range.first_moment, range.second_moment})
        CHECK(tensor.numel() == parameter.numel());
      CHECK(begin_of(range.weight) >= begin_of(buffer->weights()));
      CHECK(end_of(range.weight) <= end_of(buffer->weights()));
      CHECK(begin_of(range.gradient) >= begin_of(buffer->gradients()));
      CHECK(end_of(range.gradient) <= end_of(buffer->gradients()));
    }
    CHECK(i == buffer->ranges().size());
    CHECK(buffer->num_elements() == num_elements);
    CHECK(buffer->gradients().numel() == num_elements);
  }
}

TEST_CASE("flat buffer: weights are drawn or one, everything else is zero") {
  CpuBackend backend(1);
  DeclaredParameters parameters;
  const FlatBuffer dense = make(backend, parameters, ReplicaGroup::kDense);
  for (const FlatBuffer::Range& range : dense.ranges())
    for (Tensor tensor : {range.gradient, range.first_moment, range.second_moment})
      for (const double value : tensor.span<double>()) REQUIRE(value == 0.0);
  for (const double value : parameters.named("norm").weight.span<double>()) CHECK(value == 1.0);

  double squares = 0;
  const auto drawn = parameters.named("router").weight.span<double>();
  for (const double value : drawn) {
    CHECK(value != 0.0);
    squares += value * value;
  }
  const double deviation = std::sqrt(squares / static_cast<double>(drawn.size()));
  CHECK(deviation > 0.2);  // 0.3 asked for, 132 numbers
  CHECK(deviation < 0.4);

  // What is not zero in the whole buffer belongs to a parameter.
  int64_t num_nonzero = 0;
  for (const double value : dense.weights().span<double>()) num_nonzero += value != 0.0 ? 1 : 0;
  CHECK(num_nonzero == 13 * 5 + 8 * 8 + 5 + 4 * 33);
  for (const double value : dense.gradients().span<double>()) REQUIRE(value == 0.0);
}

TEST_CASE("flat buffer: a weight depends on seed, name and global index, on nothing else") {
  CpuBackend backend(1);
  DeclaredParameters whole;
  const FlatBuffer whole_dense = make(backend, whole, ReplicaGroup::kDense);
  const FlatBuffer whole_experts = make(backend, whole, ReplicaGroup::kExpert);
  for (const int ep_size : {2, 4})
    for (int ep_rank = 0; ep_rank < ep_size; ++ep_rank) {
      DeclaredParameters slice(ep_rank, ep_size);
      ParameterList list = slice.list();
      std::reverse(list.begin(), list.end());  // another place in the buffer
      const FlatBuffer dense(backend, list, ReplicaGroup::kDense, DType::kF64, 0.3, kSeed);
      const FlatBuffer experts(backend, list, ReplicaGroup::kExpert, DType::kF64, 0.3, kSeed);
      for (const Parameter& parameter : slice.all()) {
        const Tensor expected = whole.named(parameter.name).weight;
        CHECK(values_of(parameter.weight) ==
              values_of(expected.rows(parameter.offset[0], parameter.shape[0])));
      }
    }

  CHECK(values_of(whole.named("embedding").weight.flat().rows(0, 64)) !=
        values_of(whole.named("matrix").weight.flat()));
  DeclaredParameters other;
  const FlatBuffer buffer(backend, other.list(), ReplicaGroup::kDense, DType::kF64, 0.3, kSeed + 1);
  CHECK(values_of(other.named("matrix").weight) != values_of(whole.named("matrix").weight));
}

TEST_CASE("flat buffer: a group without parameters") {
  CpuBackend backend(1);
  Parameter parameter = dense_parameter("matrix", {2, 2});
  const FlatBuffer experts(backend, {&parameter}, ReplicaGroup::kExpert, DType::kF64, 0.3, kSeed);
  CHECK(experts.num_elements() == 0);
  CHECK(experts.ranges().empty());
  CHECK(parameter.weight.is_none());
}
