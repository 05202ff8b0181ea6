#include "checkpoint/safetensors_header.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "checkpoint/strict_json.h"
#include "core/math.h"

namespace switchyard {
namespace {

using nlohmann::json;

static_assert(std::endian::native == std::endian::little, "the format is little-endian");

constexpr int kMaxHeaderDepth = 3;  // object of objects with lists; json::dump() recurses
constexpr const char* kMetadataKey = "__metadata__";

constexpr std::pair<DType, const char*> kDTypeNames[] = {
    {DType::kF32, "F32"}, {DType::kF64, "F64"}, {DType::kBF16, "BF16"},
    {DType::kI32, "I32"}, {DType::kI64, "I64"}, {DType::kU8, "U8"}};

DType parse_dtype(const json& value, const std::string& where) {
  SY_REQUIRE(kData, value.is_string(), "{}: dtype {} found, expected a string", where,
             shown(value));
  return parse_format_name(value.get<std::string>(), where);
}

Metadata parse_metadata(const json& value, const std::string& path) {
  SY_REQUIRE(kData, value.is_object(), "{}: {} is not a JSON object", path, kMetadataKey);
  Metadata metadata;
  for (const auto& [key, text] : value.items()) {
    SY_REQUIRE(kData, text.is_string(), "{}: {} {} is {}, expected a string", path, kMetadataKey,
               shown(key), shown(text));
    metadata[key] = text.get<std::string>();
  }
  return metadata;
}

PlacedTensor parse_tensor(const std::string& name, const json& entry, const std::string& path) {
  const std::string where = fmt::format("{}: tensor {}", path, shown(name));
  SY_REQUIRE(kData,
             entry.is_object() && entry.size() == 3 && entry.contains("dtype") &&
                 entry.contains("shape") && entry.contains("data_offsets"),
             "{}: {} found, expected an object of dtype, shape and data_offsets", where,
             shown(entry));
  const TensorInfo info{.dtype = parse_dtype(entry["dtype"], where),
                        .shape = parse_sizes(entry["shape"], "shape", where)};
  const std::vector<int64_t> offsets = parse_sizes(entry["data_offsets"], "data_offsets", where);
  int64_t bytes = 0;
  SY_REQUIRE(kData,
             checked_bytes(info, bytes) && offsets.size() == 2 && offsets[0] <= offsets[1] &&
                 offsets[1] - offsets[0] == bytes,
             "{}: data_offsets {} do not enclose a tensor of dtype {} and shape {}", where,
             shown(entry["data_offsets"]), format_name(info.dtype), shown(entry["shape"]));
  return {name, info, offsets[0], offsets[1]};
}

void check_coverage(const std::vector<PlacedTensor>& tensors, int64_t data_bytes,
                    const std::string& path) {
  int64_t covered = 0;
  for (const PlacedTensor& tensor : tensors) {
    SY_REQUIRE(kData, tensor.begin == covered,
               "{}: the data of tensor {} begins at byte {}, expected {}: tensors overlap or "
               "leave a hole",
               path, shown(tensor.name), tensor.begin, covered);
    covered = tensor.end;
  }
  SY_REQUIRE(kData, covered == data_bytes,
             "{}: {} bytes of data found, expected {}: the file is cut off or has been appended to",
             path, data_bytes, covered);
}

}  // namespace

int64_t TensorInfo::bytes() const {
  int64_t bytes = 0;
  SY_CHECK(checked_bytes(*this, bytes), "a tensor of more than 2^63 bytes");
  return bytes;
}

bool checked_bytes(const TensorInfo& info, int64_t& bytes) {
  bytes = static_cast<int64_t>(size_in_bytes(info.dtype));
  for (const int64_t dim : info.shape)
    if (dim != 0 && __builtin_mul_overflow(bytes, dim, &bytes)) return false;
  if (std::count(info.shape.begin(), info.shape.end(), 0) > 0) bytes = 0;
  return true;
}

const char* format_name(DType dtype) {
  for (const auto& [known, name] : kDTypeNames)
    if (known == dtype) return name;
  SY_CHECK(false, "safetensors has no name for dtype {}", name_of(dtype));
}

DType parse_format_name(const std::string& name, const std::string& where) {
  for (const auto& [dtype, known] : kDTypeNames)
    if (name == known) return dtype;
  fail(ExitCode::kData, __FILE__, __LINE__,
       fmt::format("{}: dtype {} found, expected one of F32, F64, BF16, I32, I64, U8: convert the "
                   "tensor",
                   where, shown(name)));
}

std::string encode_header(const SafetensorsHeader& header, int64_t alignment) {
  json entries = json::object();
  if (!header.metadata.empty()) entries[kMetadataKey] = header.metadata;
  for (const auto& [name, info, begin, end] : header.tensors) {
    SY_CHECK(!entries.contains(name), "there cannot be two tensors named {}", name);
    entries[name] = {
        {"dtype", format_name(info.dtype)}, {"shape", info.shape}, {"data_offsets", {begin, end}}};
  }
  const std::string text = entries.dump();
  const int64_t data_begin =
      round_up(kHeaderLengthBytes + static_cast<int64_t>(text.size()), alignment);
  const auto json_bytes = static_cast<uint64_t>(data_begin - kHeaderLengthBytes);
  SY_CHECK(json_bytes <= uint64_t{kMaxHeaderBytes},
           "a header of {} bytes for {} tensors; the format allows {}", json_bytes,
           header.tensors.size(), kMaxHeaderBytes);
  std::string encoded(static_cast<size_t>(data_begin), ' ');
  std::memcpy(encoded.data(), &json_bytes, sizeof(json_bytes));
  text.copy(encoded.data() + kHeaderLengthBytes, text.size());
  return encoded;
}

SafetensorsHeader parse_header(const std::string& json_text, int64_t data_bytes,
                               const std::string& path) {
  SafetensorsHeader header;
  const json entries = parse_strict_json(json_text, kMaxHeaderDepth, path, "the header");
  for (const auto& [name, entry] : entries.items()) {
    if (name == kMetadataKey)
      header.metadata = parse_metadata(entry, path);
    else
      header.tensors.push_back(parse_tensor(name, entry, path));
  }
  std::sort(header.tensors.begin(), header.tensors.end(),
            [](const PlacedTensor& a, const PlacedTensor& b) {
              return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
            });
  check_coverage(header.tensors, data_bytes, path);
  return header;
}

}  // namespace switchyard
