// `switchyard inspect --diff A B`: where two checkpoints differ, whatever layouts wrote them.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/checkpoint_reader.h"

namespace switchyard {

// Elements are compared by their bits: a NaN equals itself, and -0 does not equal 0.
struct ElementDifference {
  std::vector<int64_t> index = {};  // in the whole tensor
  std::string a = {}, b = {};       // "0.125 (0x3e000000)"
};

struct TensorDifference {
  std::string key = {};
  std::string a = {}, b = {};  // "f32 (2, 3)"; empty: not there
  // Of tensors of the same form, as far as they were looked into.
  std::optional<ElementDifference> first = {};  // in row-major order
  int64_t num_different = 0, num_elements = 0;
};

// A value of the training state, the configuration or the layout. Of lists, the first difference.
struct ValueDifference {
  std::string key = {};        // "optimizer.params.lr", "accepted_losses[3]"
  std::string a = {}, b = {};  // JSON; empty: not there
};

struct CheckpointDiff {
  int64_t num_tensors = 0;                     // in either
  std::vector<TensorDifference> tensors = {};  // by key
  std::vector<ValueDifference> train = {};
  std::vector<ValueDifference> config = {}, layout = {};

  // The same tensors and the same training state: training goes on alike.
  bool equal() const { return tensors.empty() && train.empty(); }
};

// Tensors are told apart by their digests. Into the first that differs, or with `all` into every
// one, it looks for elements. Error (kData): bytes that are not what the manifest says.
CheckpointDiff compare_checkpoints(const CheckpointReader& a, const CheckpointReader& b, bool all);

std::vector<ValueDifference> differing_values(const nlohmann::ordered_json& a,
                                              const nlohmann::ordered_json& b,
                                              const std::string& key);

// `a` and `b`: what the two are called.
std::string to_text(const CheckpointDiff& diff, const std::string& a, const std::string& b);

}  // namespace switchyard
