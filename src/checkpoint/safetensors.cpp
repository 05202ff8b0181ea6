#include "checkpoint/safetensors.h"

#include <utility>

namespace switchyard {
namespace {

// Largest elements first, so that each tensor is aligned; then by name.
SafetensorsHeader lay_out(const std::map<std::string, TensorInfo>& tensors,
                          const Metadata& metadata) {
  SafetensorsHeader header{.metadata = metadata};
  int64_t offset = 0;
  for (const size_t element_bytes : {8u, 4u, 2u, 1u}) {
    for (const auto& [name, info] : tensors) {
      if (size_in_bytes(info.dtype) != element_bytes) continue;
      header.tensors.push_back({name, info, offset, offset + info.bytes()});
      offset += info.bytes();
    }
  }
  return header;
}

}  // namespace

// ---- Writer ----

SafetensorsWriter::SafetensorsWriter(std::string path,
                                     const std::map<std::string, TensorInfo>& tensors,
                                     const Metadata& metadata)
    : path_(std::move(path)), file_(storage_, path_) {
  constexpr int64_t kAlignment = 8;
  const SafetensorsHeader header = lay_out(tensors, metadata);
  const std::string front = encode_header(header, kAlignment);
  const auto data_begin = static_cast<int64_t>(front.size());
  for (const PlacedTensor& tensor : header.tensors)
    unwritten_[tensor.name] = {data_begin + tensor.begin, data_begin + tensor.end};
  file_.write_at(0, std::as_bytes(std::span(front)));
}

SafetensorsWriter::~SafetensorsWriter() = default;

void SafetensorsWriter::write(const std::string& name, std::span<const std::byte> bytes) {
  const auto found = unwritten_.find(name);
  SY_CHECK(found != unwritten_.end(), "tensor \"{}\" was not declared for {}", name, path_);
  Region& region = found->second;
  const auto count = static_cast<int64_t>(bytes.size());
  SY_CHECK(count <= region.end - region.next,
           "{} bytes for tensor \"{}\" of {}, which lacks only {}", count, name, path_,
           region.end - region.next);
  file_.write_at(region.next, bytes);
  region.next += count;
}

void SafetensorsWriter::finish() {
  for (const auto& [name, region] : unwritten_)
    SY_CHECK(region.next == region.end, "tensor \"{}\" of {} lacks {} bytes", name, path_,
             region.end - region.next);
  file_.commit();
}

// ---- Reader ----

SafetensorsFile::SafetensorsFile(std::string path)
    : path_(std::move(path)), file_(File::open_to_read(path_)) {
  const int64_t file_bytes = file_.size();
  const std::string json = read_header(file_bytes);
  SafetensorsHeader header = parse_header(json, file_bytes - data_begin_, path_);
  metadata_ = std::move(header.metadata);
  for (PlacedTensor& tensor : header.tensors) tensors_[tensor.name] = std::move(tensor);
}

std::string SafetensorsFile::read_header(int64_t file_bytes) {
  SY_REQUIRE(kData, file_bytes >= kHeaderLengthBytes,
             "{}: {} bytes found, expected {} for the length of the header: the file is cut off",
             path_, file_bytes, kHeaderLengthBytes);
  uint64_t header_bytes = 0;
  file_.read_at(0, std::as_writable_bytes(std::span(&header_bytes, 1)));
  SY_REQUIRE(kData, header_bytes <= uint64_t{kMaxHeaderBytes},
             "{}: a header of {} bytes, but the format allows {}; is it a safetensors file?", path_,
             header_bytes, kMaxHeaderBytes);
  data_begin_ = kHeaderLengthBytes + static_cast<int64_t>(header_bytes);
  SY_REQUIRE(kData, data_begin_ <= file_bytes,
             "{}: {} bytes found, but the header alone ends at byte {}: the file is cut off", path_,
             file_bytes, data_begin_);
  std::string header(header_bytes, '\0');
  file_.read_at(kHeaderLengthBytes, std::as_writable_bytes(std::span(header)));
  return header;
}

std::vector<std::string> SafetensorsFile::names() const {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : tensors_) names.push_back(name);
  return names;
}

std::vector<std::byte> SafetensorsFile::read(const std::string& name) const {
  std::vector<std::byte> bytes(static_cast<size_t>(info(name).bytes()));
  read_into(name, bytes);
  return bytes;
}

const PlacedTensor& SafetensorsFile::find(const std::string& name) const {
  const auto found = tensors_.find(name);
  SY_REQUIRE(kData, found != tensors_.end(), "{}: tensor \"{}\" not found among its {} tensors",
             path_, name, tensors_.size());
  return found->second;
}

void SafetensorsFile::read_into(const std::string& name, std::span<std::byte> bytes) const {
  file_.read_at(data_begin_ + find(name).begin, bytes);
}

}  // namespace switchyard
