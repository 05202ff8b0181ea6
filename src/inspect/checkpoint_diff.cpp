#include "inspect/checkpoint_diff.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <set>

#include "checkpoint/load_state.h"
#include "core/error.h"

namespace switchyard {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kSlabBytes = int64_t{16} << 20;  // read of each checkpoint at once

std::string form_of(const SavedTensor& tensor) {
  return fmt::format("{} {}", name_of(tensor.dtype), shape_text(tensor.shape));
}

// With as many digits as tell any two values apart.
std::string value_text(DType dtype, uint64_t bits) {
  switch (dtype) {
    case DType::kF32:
      return fmt::format("{:.9g}", std::bit_cast<float>(static_cast<uint32_t>(bits)));
    case DType::kF64:
      return fmt::format("{:.17g}", std::bit_cast<double>(bits));
    case DType::kBF16:
      return fmt::format("{:.4g}", std::bit_cast<float>(static_cast<uint32_t>(bits << 16)));
    case DType::kI32:
      return std::to_string(static_cast<int32_t>(bits));
    case DType::kI64:
      return std::to_string(static_cast<int64_t>(bits));
    case DType::kU8:
      return std::to_string(bits);
  }
  return "";
}

std::string element_text(DType dtype, const std::byte* element) {
  const size_t size = size_in_bytes(dtype);
  uint64_t bits = 0;
  std::memcpy(&bits, element, size);
  return fmt::format("{} (0x{:0{}x})", value_text(dtype, bits), bits, 2 * size);
}

std::vector<int64_t> index_of(int64_t element, const std::vector<int64_t>& shape) {
  std::vector<int64_t> index(shape.size(), 0);
  for (size_t dim = shape.size(); dim-- > 0;) {
    index[dim] = element % shape[dim];
    element /= shape[dim];
  }
  return index;
}

ChunkReader reading(const CheckpointReader& reader) {
  return [&reader](const Chunk& chunk, int64_t begin, std::span<std::byte> out) {
    reader.read(chunk, begin, out);
  };
}

// Two tensors of the same form, in their row-major order, whatever boxes they were written in.
void compare_elements(const CheckpointReader& a, const CheckpointReader& b,
                      TensorDifference& difference) {
  const SavedTensor& in_a = a.manifest().tensors.at(difference.key);
  const SavedTensor& in_b = b.manifest().tensors.at(difference.key);
  const auto item = static_cast<int64_t>(size_in_bytes(in_a.dtype));
  difference.num_elements = numel_of(in_a.shape);
  int64_t at = 0;
  while (at < difference.num_elements) {
    const int64_t end = std::min(at + kSlabBytes / item, difference.num_elements);
    for (const Box& box : contiguous_boxes(in_a.shape, at, end)) {
      const std::vector<std::byte> bytes_a = read_box(in_a, box, reading(a)),
                                   bytes_b = read_box(in_b, box, reading(b));
      const int64_t numel = box.numel();
      for (int64_t i = 0; i < numel; ++i) {
        const std::byte* element_a = bytes_a.data() + i * item;
        const std::byte* element_b = bytes_b.data() + i * item;
        if (std::memcmp(element_a, element_b, static_cast<size_t>(item)) == 0) continue;
        if (difference.num_different++ == 0)
          difference.first = {.index = index_of(at + i, in_a.shape),
                              .a = element_text(in_a.dtype, element_a),
                              .b = element_text(in_b.dtype, element_b)};
      }
      at += numel;
    }
  }
}

std::set<std::string> keys_of(const Manifest& a, const Manifest& b) {
  std::set<std::string> keys;
  for (const Manifest* manifest : {&a, &b})
    for (const auto& [key, tensor] : manifest->tensors) keys.insert(key);
  return keys;
}

std::string json_text(const Json& value) {
  constexpr size_t kMaxShown = 60;
  std::string text = value.dump();
  if (value.is_structured() && text.size() > kMaxShown)
    text = fmt::format("{} entries", value.size());
  return text;
}

std::string values_text(const char* what, const std::vector<ValueDifference>& differences) {
  if (differences.empty()) return "";
  std::string text = fmt::format("{}\n", what);
  const auto shown = [](const std::string& value) { return value.empty() ? "not there" : value; };
  for (const ValueDifference& one : differences)
    text += fmt::format("  {}: {} | {}\n", one.key, shown(one.a), shown(one.b));
  return text;
}

std::string tensor_text(const TensorDifference& one) {
  const auto form = [](const std::string& text) { return text.empty() ? "not there" : text; };
  if (one.a != one.b) return fmt::format("  {}: {} | {}\n", one.key, form(one.a), form(one.b));
  if (!one.first) return fmt::format("  {} {}\n", one.key, one.a);
  return fmt::format("  {} {}: first at [{}]: {} | {}; {} of {} elements\n", one.key, one.a,
                     fmt::join(one.first->index, ", "), one.first->a, one.first->b,
                     one.num_different, one.num_elements);
}

std::string tensors_text(const CheckpointDiff& diff) {
  constexpr size_t kShown = 10;
  if (diff.tensors.empty()) return fmt::format("all {} tensors are equal\n", diff.num_tensors);
  std::string text =
      fmt::format("{} of {} tensors differ\n", diff.tensors.size(), diff.num_tensors);
  // All of those that were looked into.
  const auto is_looked_into = [](const TensorDifference& one) { return one.first.has_value(); };
  const auto looked_into =
      static_cast<size_t>(std::count_if(diff.tensors.begin(), diff.tensors.end(), is_looked_into));
  const size_t shown = std::min(std::max(kShown, looked_into), diff.tensors.size());
  for (size_t i = 0; i < shown; ++i) text += tensor_text(diff.tensors[i]);
  if (shown < diff.tensors.size())
    text += fmt::format("  and {} more: --tensors shows all\n", diff.tensors.size() - shown);
  return text;
}

}  // namespace

CheckpointDiff compare_checkpoints(const CheckpointReader& a, const CheckpointReader& b, bool all) {
  const Manifest &in_a = a.manifest(), &in_b = b.manifest();
  CheckpointDiff diff;
  bool looked = false;
  for (const std::string& key : keys_of(in_a, in_b)) {
    ++diff.num_tensors;
    const auto one = in_a.tensors.find(key), other = in_b.tensors.find(key);
    const bool has_a = one != in_a.tensors.end(), has_b = other != in_b.tensors.end();
    TensorDifference difference{.key = key,
                                .a = has_a ? form_of(one->second) : "",
                                .b = has_b ? form_of(other->second) : ""};
    const bool same_form = difference.a == difference.b;
    if (same_form && one->second.digest == other->second.digest) continue;
    if (same_form && (all || !looked)) {
      compare_elements(a, b, difference);
      looked = true;
    }
    diff.tensors.push_back(std::move(difference));
  }
  diff.train = differing_values(in_a.train, in_b.train, "");
  diff.config = differing_values(in_a.config, in_b.config, "");
  diff.layout = differing_values(in_a.layout, in_b.layout, "");
  return diff;
}

std::vector<ValueDifference> differing_values(const Json& a, const Json& b,
                                              const std::string& key) {
  if (a == b) return {};
  std::vector<ValueDifference> differences;
  const auto add_all = [&](const std::vector<ValueDifference>& more) {
    differences.insert(differences.end(), more.begin(), more.end());
  };
  if (a.is_object() && b.is_object()) {
    const auto inner = [&](const std::string& name) {
      return key.empty() ? name : key + "." + name;
    };
    for (const auto& [name, value] : a.items())
      if (b.contains(name))
        add_all(differing_values(value, b[name], inner(name)));
      else
        differences.push_back({inner(name), json_text(value), ""});
    for (const auto& [name, value] : b.items())
      if (!a.contains(name)) differences.push_back({inner(name), "", json_text(value)});
    return differences;
  }
  if (a.is_array() && b.is_array() && a.size() == b.size()) {
    size_t i = 0;
    while (a[i] == b[i]) ++i;
    return differing_values(a[i], b[i], fmt::format("{}[{}]", key, i));
  }
  return {{key, json_text(a), json_text(b)}};
}

std::string to_text(const CheckpointDiff& diff, const std::string& a, const std::string& b) {
  return fmt::format("{} | {}\n", a, b) + tensors_text(diff) +
         values_text("training state", diff.train) +
         values_text("configuration (does not count)", diff.config) +
         values_text("layout (does not count)", diff.layout) +
         (diff.equal() ? "EQUAL: tensors and training state\n" : "DIFFERENT\n");
}

}  // namespace switchyard
