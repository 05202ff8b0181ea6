// The front of a safetensors file: which tensors there are and where their bytes lie. The format is
// described in safetensors.h.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/error.h"

namespace switchyard {

struct TensorInfo {
  DType dtype;
  std::vector<int64_t> shape;

  int64_t bytes() const;
  bool operator==(const TensorInfo&) const = default;
};

// Sizes may come from files: false if the number of bytes does not fit.
bool checked_bytes(const TensorInfo& info, int64_t& bytes);

using Metadata = std::map<std::string, std::string>;

struct PlacedTensor {
  std::string name;
  TensorInfo info;
  int64_t begin, end;  // counted from the start of the data

  bool operator==(const PlacedTensor&) const = default;
};

struct SafetensorsHeader {
  std::vector<PlacedTensor> tensors = {};  // one after another, without holes
  Metadata metadata = {};
};

constexpr int64_t kHeaderLengthBytes = 8;  // the u64 in front of the JSON
constexpr int64_t kMaxHeaderBytes = 100'000'000;

const char* format_name(DType dtype);  // "BF16"
// Of format_name(). Error (kData) with `where`.
DType parse_format_name(const std::string& name, const std::string& where);

// Everything in front of the data, which begins at a multiple of `alignment`.
std::string encode_header(const SafetensorsHeader& header, int64_t alignment);

// `json`: what follows the length. `data_bytes`: what follows the JSON in the file. Sorts the
// tensors by place. Error (kData) with `path`.
SafetensorsHeader parse_header(const std::string& json, int64_t data_bytes,
                               const std::string& path);

}  // namespace switchyard
