#include "checkpoint/weights.h"

#include <cstring>
#include <optional>

#include "checkpoint/safetensors.h"
#include "comm/collective_error.h"

namespace switchyard {
namespace {

// A parameter of all experts is one file entry per expert; any other is one entry.
struct FileEntry {
  std::string name;
  std::vector<int64_t> shape;
};

// "a.experts.up_proj.weight" and 3 to "a.experts.3.up_proj.weight".
std::string name_of_expert(const std::string& name, int64_t expert) {
  const std::string_view marker = ".experts.";
  const size_t at = name.find(marker);
  SY_CHECK(at != std::string::npos, "expert parameter \"{}\" has no \"{}\" in its name", name,
           marker);
  return fmt::format("{}{}.{}", name.substr(0, at + marker.size()), expert,
                     name.substr(at + marker.size()));
}

// The entries that hold rows [first, first + count) of dim 0.
std::vector<FileEntry> entries_of(const Parameter& parameter, int64_t first, int64_t count) {
  if (parameter.group == ReplicaGroup::kDense) return {{parameter.name, parameter.global_shape}};
  std::vector<FileEntry> entries;
  for (int64_t expert = first; expert < first + count; ++expert)
    entries.push_back({name_of_expert(parameter.name, expert),
                       {parameter.global_shape.begin() + 1, parameter.global_shape.end()}});
  return entries;
}

std::string download_bytes(Tensor device, Backend& backend) {
  std::string bytes(static_cast<size_t>(device.bytes()), '\0');
  backend.download(backend.compute_queue(), bytes.data(), device);
  backend.host_wait(backend.record(backend.compute_queue()));
  return bytes;
}

// The whole parameter on world rank 0; anything on the other ranks.
std::string gather_on_first_rank(const Parameter& parameter, Backend& backend,
                                 const ProcessGrid& grid) {
  std::string mine = download_bytes(parameter.weight, backend);
  if (parameter.group == ReplicaGroup::kDense) return mine;
  std::string all;
  for (const std::string& slice : grid.ep().gather_host(mine, 0)) all += slice;
  return all;
}

void write_entries(SafetensorsWriter& writer, const Parameter& parameter,
                   const std::string& bytes) {
  const auto entries = entries_of(parameter, 0, parameter.global_shape[0]);
  const size_t entry_bytes = bytes.size() / entries.size();
  for (size_t i = 0; i < entries.size(); ++i)
    writer.write(entries[i].name,
                 std::as_bytes(std::span(bytes.data() + i * entry_bytes, entry_bytes)));
}

std::string shape_text(const std::vector<int64_t>& shape) {
  return fmt::format("({})", fmt::join(shape, ", "));
}

}  // namespace

void save_weights(const std::string& path, const ParameterList& parameters, Backend& backend,
                  const ProcessGrid& grid) {
  Communicator& world = grid.world();
  const bool writes = world.rank() == 0;
  std::optional<SafetensorsWriter> writer;
  agree(world, [&] {
    if (!writes) return;
    std::map<std::string, TensorInfo> tensors;
    for (const Parameter* parameter : parameters)
      for (const FileEntry& entry : entries_of(*parameter, 0, parameter->global_shape[0]))
        tensors[entry.name] = {parameter->weight.dtype(), entry.shape};
    writer.emplace(path, tensors, Metadata{{"format", "pt"}});
  });
  for (const Parameter* parameter : parameters) {
    const std::string bytes = gather_on_first_rank(*parameter, backend, grid);
    agree(world, [&] {
      if (writes) write_entries(*writer, *parameter, bytes);
    });
  }
  agree(world, [&] {
    if (writes) writer->finish();
  });
}

void load_weights(const std::string& path, const ParameterList& parameters, Backend& backend) {
  const SafetensorsFile file(path);
  for (const Parameter* parameter : parameters) {
    std::vector<std::byte> bytes;
    for (const FileEntry& entry :
         entries_of(*parameter, parameter->offset[0], parameter->shape[0])) {
      SY_REQUIRE(kData, file.contains(entry.name), "{}: tensor \"{}\" is missing", path,
                 entry.name);
      const TensorInfo& info = file.info(entry.name);
      const TensorInfo expected{parameter->weight.dtype(), entry.shape};
      SY_REQUIRE(kData, info == expected, "{}: tensor \"{}\" is {} {}, expected {} {}", path,
                 entry.name, name_of(info.dtype), shape_text(info.shape), name_of(expected.dtype),
                 shape_text(expected.shape));
      const std::vector<std::byte> read = file.read(entry.name);
      bytes.insert(bytes.end(), read.begin(), read.end());
    }
    backend.upload(backend.compute_queue(), parameter->weight, bytes.data());
  }
}

std::vector<Buffer> allocate_weights(const ParameterList& parameters, Backend& backend,
                                     DType real) {
  std::vector<Buffer> buffers;
  for (Parameter* parameter : parameters) {
    buffers.emplace_back(backend, parameter->numel() * static_cast<int64_t>(size_in_bytes(real)));
    parameter->weight = Tensor(buffers.back().data(), real, parameter->shape);
  }
  return buffers;
}

}  // namespace switchyard
