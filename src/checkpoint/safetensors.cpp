#include "checkpoint/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstdio>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "core/math.h"

namespace switchyard {
namespace {

using nlohmann::json;

static_assert(std::endian::native == std::endian::little, "the format is little-endian");

constexpr int64_t kLengthBytes = 8;  // the u64 in front of the header
constexpr int64_t kMaxHeaderBytes = 100'000'000;
constexpr int kMaxHeaderDepth = 3;  // object of objects with lists; json::dump() recurses
constexpr const char* kMetadataKey = "__metadata__";

constexpr std::pair<DType, const char*> kDTypeNames[] = {
    {DType::kF32, "F32"}, {DType::kF64, "F64"}, {DType::kBF16, "BF16"},
    {DType::kI32, "I32"}, {DType::kI64, "I64"}, {DType::kU8, "U8"}};

const char* format_name(DType dtype) {
  for (const auto& [known, name] : kDTypeNames)
    if (known == dtype) return name;
  SY_CHECK(false, "safetensors has no name for dtype {}", name_of(dtype));
}

// Sizes come from files: false if the product does not fit.
bool checked_bytes(const TensorInfo& info, int64_t& bytes) {
  bytes = static_cast<int64_t>(size_in_bytes(info.dtype));
  for (const int64_t dim : info.shape)
    if (dim != 0 && __builtin_mul_overflow(bytes, dim, &bytes)) return false;
  if (std::count(info.shape.begin(), info.shape.end(), 0) > 0) bytes = 0;
  return true;
}

// ---- The JSON header ----

// nlohmann's parser keeps the last of two equal keys and takes a zero byte for the end.
json parse_strictly(const std::string& text, const std::string& path) {
  SY_REQUIRE(kData, text.starts_with('{') && text.find('\0') == std::string::npos,
             "{}: the header is not a JSON object; is it a safetensors file?", path);
  std::vector<std::set<std::string>> keys_of_open_objects;
  const auto check = [&](int depth, json::parse_event_t event, json& value) {
    SY_REQUIRE(kData, depth <= kMaxHeaderDepth, "{}: the header is nested {} deep, expected {}",
               path, depth, kMaxHeaderDepth);
    if (event == json::parse_event_t::object_start) keys_of_open_objects.emplace_back();
    if (event == json::parse_event_t::object_end) keys_of_open_objects.pop_back();
    if (event == json::parse_event_t::key)
      SY_REQUIRE(kData, keys_of_open_objects.back().insert(value.get<std::string>()).second,
                 "{}: the header has key \"{}\" twice", path, value.get<std::string>());
    return true;
  };
  try {
    return json::parse(text, check);
  } catch (const json::exception& e) {
    fail(ExitCode::kData, __FILE__, __LINE__,
         fmt::format("{}: the header is not valid JSON: {}", path, e.what()));
  }
}

DType parse_dtype(const json& value, const std::string& where) {
  for (const auto& [dtype, name] : kDTypeNames)
    if (value == name) return dtype;
  fail(ExitCode::kData, __FILE__, __LINE__,
       fmt::format(
           "{}: dtype {} found, expected one of F32, F64, BF16, I32, I64, U8: convert the tensor",
           where, value.dump()));
}

std::vector<int64_t> parse_sizes(const json& value, const char* key, const std::string& where) {
  const auto is_size = [](const json& size) {
    return size.is_number_unsigned() &&
           size.get<uint64_t>() <= uint64_t{std::numeric_limits<int64_t>::max()};
  };
  SY_REQUIRE(kData, value.is_array() && std::all_of(value.begin(), value.end(), is_size),
             "{}: {} {} found, expected a list of non-negative integers", where, key, value.dump());
  return value.get<std::vector<int64_t>>();
}

Metadata parse_metadata(const json& value, const std::string& path) {
  SY_REQUIRE(kData, value.is_object(), "{}: {} is not a JSON object", path, kMetadataKey);
  Metadata metadata;
  for (const auto& [key, text] : value.items()) {
    SY_REQUIRE(kData, text.is_string(), "{}: {} \"{}\" is {}, expected a string", path,
               kMetadataKey, key, text.dump());
    metadata[key] = text.get<std::string>();
  }
  return metadata;
}

struct Placement {
  std::string name;
  int64_t begin, end;
};

// Largest elements first, so that each tensor is aligned; then by name.
std::vector<Placement> place(const std::map<std::string, TensorInfo>& tensors) {
  std::vector<Placement> placements;
  int64_t offset = 0;
  for (const size_t element_bytes : {8u, 4u, 2u, 1u}) {
    for (const auto& [name, info] : tensors) {
      if (size_in_bytes(info.dtype) != element_bytes) continue;
      placements.push_back({name, offset, offset + info.bytes()});
      offset += info.bytes();
    }
  }
  return placements;
}

std::string make_header(const std::map<std::string, TensorInfo>& tensors,
                        const std::vector<Placement>& placements, const Metadata& metadata) {
  SY_CHECK(tensors.count(kMetadataKey) == 0, "no tensor can be named {}", kMetadataKey);
  json header = json::object();
  if (!metadata.empty()) header[kMetadataKey] = metadata;
  for (const auto& [name, begin, end] : placements) {
    const TensorInfo& info = tensors.at(name);
    header[name] = {
        {"dtype", format_name(info.dtype)}, {"shape", info.shape}, {"data_offsets", {begin, end}}};
  }
  std::string text = header.dump();
  text.resize(static_cast<size_t>(round_up(static_cast<int64_t>(text.size()), 8)), ' ');
  SY_CHECK(static_cast<int64_t>(text.size()) <= kMaxHeaderBytes,
           "a header of {} bytes for {} tensors; the format allows {}", text.size(), tensors.size(),
           kMaxHeaderBytes);
  return text;
}

}  // namespace

int64_t TensorInfo::bytes() const {
  int64_t bytes = 0;
  SY_CHECK(checked_bytes(*this, bytes), "a tensor of more than 2^63 bytes");
  return bytes;
}

// ---- Writer ----

SafetensorsWriter::SafetensorsWriter(std::string path)
    : path_(std::move(path)),
      temporary_path_(path_ + ".tmp"),
      file_(File::create(temporary_path_)) {}

SafetensorsWriter::SafetensorsWriter(std::string path,
                                     const std::map<std::string, TensorInfo>& tensors,
                                     const Metadata& metadata)
    : SafetensorsWriter(std::move(path)) {
  const std::vector<Placement> placements = place(tensors);
  const std::string header = make_header(tensors, placements, metadata);
  const auto header_bytes = static_cast<uint64_t>(header.size());
  const int64_t data_begin = kLengthBytes + static_cast<int64_t>(header_bytes);
  for (const auto& [name, begin, end] : placements)
    unwritten_[name] = {data_begin + begin, data_begin + end};
  file_.write_at(0, std::as_bytes(std::span(&header_bytes, 1)));
  file_.write_at(kLengthBytes, std::as_bytes(std::span(header)));
}

SafetensorsWriter::~SafetensorsWriter() {
  if (!finished_) std::remove(temporary_path_.c_str());
}

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
  SY_CHECK(!finished_, "{} is finished already", path_);
  for (const auto& [name, region] : unwritten_)
    SY_CHECK(region.next == region.end, "tensor \"{}\" of {} lacks {} bytes", name, path_,
             region.end - region.next);
  file_.commit_as(path_);
  finished_ = true;
}

// ---- Reader ----

SafetensorsFile::SafetensorsFile(std::string path)
    : path_(std::move(path)), file_(File::open_to_read(path_)) {
  const int64_t file_bytes = file_.size();
  parse_header(read_header(file_bytes));
  check_coverage(file_bytes - data_begin_);
}

std::string SafetensorsFile::read_header(int64_t file_bytes) {
  SY_REQUIRE(kData, file_bytes >= kLengthBytes,
             "{}: {} bytes found, expected {} for the length of the header: the file is cut off",
             path_, file_bytes, kLengthBytes);
  uint64_t header_bytes = 0;
  file_.read_at(0, std::as_writable_bytes(std::span(&header_bytes, 1)));
  SY_REQUIRE(kData, header_bytes <= uint64_t{kMaxHeaderBytes},
             "{}: a header of {} bytes, but the format allows {}; is it a safetensors file?", path_,
             header_bytes, kMaxHeaderBytes);
  data_begin_ = kLengthBytes + static_cast<int64_t>(header_bytes);
  SY_REQUIRE(kData, data_begin_ <= file_bytes,
             "{}: {} bytes found, but the header alone ends at byte {}: the file is cut off", path_,
             file_bytes, data_begin_);
  std::string header(header_bytes, '\0');
  file_.read_at(kLengthBytes, std::as_writable_bytes(std::span(header)));
  return header;
}

void SafetensorsFile::parse_header(const std::string& header) {
  const json entries = parse_strictly(header, path_);
  for (const auto& [name, entry] : entries.items()) {
    if (name == kMetadataKey) {
      metadata_ = parse_metadata(entry, path_);
      continue;
    }
    const std::string where = fmt::format("{}: tensor \"{}\"", path_, name);
    SY_REQUIRE(kData,
               entry.is_object() && entry.size() == 3 && entry.contains("dtype") &&
                   entry.contains("shape") && entry.contains("data_offsets"),
               "{}: {} found, expected an object of dtype, shape and data_offsets", where,
               entry.dump());
    const TensorInfo info{.dtype = parse_dtype(entry["dtype"], where),
                          .shape = parse_sizes(entry["shape"], "shape", where)};
    const std::vector<int64_t> offsets = parse_sizes(entry["data_offsets"], "data_offsets", where);
    int64_t bytes = 0;
    SY_REQUIRE(kData,
               checked_bytes(info, bytes) && offsets.size() == 2 && offsets[0] <= offsets[1] &&
                   offsets[1] - offsets[0] == bytes,
               "{}: data_offsets {} do not enclose a tensor of dtype {} and shape {}", where,
               entry["data_offsets"].dump(), format_name(info.dtype), entry["shape"].dump());
    tensors_[name] = {info, offsets[0], offsets[1]};
  }
}

void SafetensorsFile::check_coverage(int64_t data_bytes) const {
  std::vector<Placement> placements;
  for (const auto& [name, entry] : tensors_) placements.push_back({name, entry.begin, entry.end});
  std::sort(placements.begin(), placements.end(), [](const Placement& a, const Placement& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  int64_t covered = 0;
  for (const auto& [name, begin, end] : placements) {
    SY_REQUIRE(kData, begin == covered,
               "{}: the data of tensor \"{}\" begins at byte {}, expected {}: tensors overlap or "
               "leave a hole",
               path_, name, begin, covered);
    covered = end;
  }
  SY_REQUIRE(kData, covered == data_bytes,
             "{}: {} bytes of data found, expected {}: the file is cut off or has been appended to",
             path_, data_bytes, covered);
}

std::vector<std::string> SafetensorsFile::names() const {
  std::vector<std::string> names;
  for (const auto& [name, entry] : tensors_) names.push_back(name);
  return names;
}

std::vector<std::byte> SafetensorsFile::read(const std::string& name) const {
  std::vector<std::byte> bytes(static_cast<size_t>(info(name).bytes()));
  read_into(name, bytes);
  return bytes;
}

const SafetensorsFile::Entry& SafetensorsFile::find(const std::string& name) const {
  const auto found = tensors_.find(name);
  SY_REQUIRE(kData, found != tensors_.end(), "{}: tensor \"{}\" not found among its {} tensors",
             path_, name, tensors_.size());
  return found->second;
}

void SafetensorsFile::read_into(const std::string& name, std::span<std::byte> bytes) const {
  file_.read_at(data_begin_ + find(name).begin, bytes);
}

}  // namespace switchyard
