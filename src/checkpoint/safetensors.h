// Safetensors: Hugging Face's file format for named tensors, and the only one Switchyard stores
// tensors in.
//
//   u64, little-endian: N  |  N bytes of JSON, padded with spaces  |  data
//   JSON: {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, ...,
//          "__metadata__": {"key": "value", ...}}
//
// Offsets count from the start of the data; tensors are row-major and cover the data without holes.
// A shape of [] is a scalar, and a dimension of 0 is legal. The reader takes nothing on trust: a
// file that breaks any rule of the format is refused when it is opened.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/file.h"
#include "checkpoint/safetensors_header.h"
#include "checkpoint/storage.h"
#include "checkpoint/temporary_file.h"

namespace switchyard {

// Writes `path`. All data goes to `path`.tmp, which takes the final name in finish(), once it has
// reached the disk: whatever happens, `path` is either what it was before or complete.
// Errors: kStorage.
class SafetensorsWriter {
 public:
  // Writes the header.
  SafetensorsWriter(std::string path, const std::map<std::string, TensorInfo>& tensors,
                    const Metadata& metadata = {});
  ~SafetensorsWriter();  // without finish(): removes the temporary file
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  // Appends `bytes` to the tensor: all of it in one call, or in pieces. Tensors in any order.
  void write(const std::string& name, std::span<const std::byte> bytes);

  // Every tensor must be complete.
  void finish();

 private:
  struct Region {  // of the file
    int64_t next, end;
  };

  std::string path_;
  Storage storage_;
  TemporaryFile file_;
  std::map<std::string, Region> unwritten_;
};

// Reads a file. Errors: kData for what is in the file, kStorage for the medium.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(std::string path);

  std::vector<std::string> names() const;  // sorted
  bool contains(const std::string& name) const { return tensors_.count(name) > 0; }
  const TensorInfo& info(const std::string& name) const { return find(name).info; }
  const Metadata& metadata() const { return metadata_; }

  std::vector<std::byte> read(const std::string& name) const;

  template <typename T>
  std::vector<T> read_as(const std::string& name) const {
    const TensorInfo& found = info(name);
    SY_REQUIRE(kData, found.dtype == DTypeOf<T>::value, "{}: tensor \"{}\" holds {}, expected {}",
               path_, name, name_of(found.dtype), name_of(DTypeOf<T>::value));
    std::vector<T> values(static_cast<size_t>(found.bytes()) / sizeof(T));
    read_into(name, std::as_writable_bytes(std::span(values)));
    return values;
  }

 private:
  const PlacedTensor& find(const std::string& name) const;
  void read_into(const std::string& name, std::span<std::byte> bytes) const;
  std::string read_header(int64_t file_bytes);

  std::string path_;
  File file_;
  int64_t data_begin_ = 0;
  std::map<std::string, PlacedTensor> tensors_;
  Metadata metadata_;
};

}  // namespace switchyard
