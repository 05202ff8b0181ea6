#include "checkpoint/weights.h"

#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "checkpoint/box.h"
#include "checkpoint/safetensors.h"
#include "comm/collective_error.h"

namespace switchyard {
namespace {

// A tensor of the file, and what this rank holds of it.
struct HeldTensor {
  std::string name;
  TensorInfo info;  // of the whole
  Box box;
  Tensor data;
};

std::vector<int64_t> without_first(const std::vector<int64_t>& dims) {
  return {dims.begin() + 1, dims.end()};
}

// A parameter of all experts is one tensor per expert; any other is one.
std::vector<HeldTensor> held_of(const Parameter& parameter) {
  if (parameter.numel() == 0) return {};
  const DType dtype = parameter.weight.dtype();
  if (parameter.group == ReplicaGroup::kDense)
    return {{.name = parameter.name,
             .info = {dtype, parameter.global_shape},
             .box = {parameter.offset, parameter.shape},
             .data = parameter.weight}};
  std::vector<HeldTensor> experts;
  for (int64_t i = 0; i < parameter.shape[0]; ++i)
    experts.push_back({.name = name_of_expert(parameter, parameter.offset[0] + i),
                       .info = {dtype, without_first(parameter.global_shape)},
                       .box = {without_first(parameter.offset), without_first(parameter.shape)},
                       .data = parameter.weight.rows(i, 1)});
  return experts;
}

HeldTensor held_of(const StateTensor& state) {
  const std::vector<int64_t> shape(state.tensor.shape().begin(), state.tensor.shape().end());
  return {.name = state.name,
          .info = {state.tensor.dtype(), shape},
          .box = {std::vector<int64_t>(shape.size(), 0), shape},
          .data = state.tensor};
}

bool is_first_holder(const Parameter& parameter, const ProcessGrid& grid) {
  const Communicator& sharers = parameter.group == ReplicaGroup::kDense ? grid.dp() : grid.edp();
  const Communicator* copies = copies_of(parameter.copies, grid);
  return sharers.rank() == 0 && (copies == nullptr || copies->rank() == 0);
}

// What this rank brings to the file, by name.
std::map<std::string, HeldTensor> contributions(const ParameterList& parameters,
                                                const StateList& state, const ProcessGrid& grid) {
  std::map<std::string, HeldTensor> mine;
  for (const Parameter* parameter : parameters)
    if (is_first_holder(*parameter, grid))
      for (HeldTensor& held : held_of(*parameter)) mine.emplace(held.name, held);
  if (grid.dp().rank() == 0 && grid.tp().rank() == 0)
    for (const StateTensor& tensor : state) mine.emplace(tensor.name, held_of(tensor));
  return mine;
}

// A tensor of the file, and which rank brings which part of it.
struct WholeTensor {
  TensorInfo info;
  std::map<int, Box> box_of_rank = {};
};
using Contents = std::map<std::string, WholeTensor>;

// Of the whole file, on every rank.
Contents agree_on_contents(const std::map<std::string, HeldTensor>& mine, Communicator& world) {
  nlohmann::json declared = nlohmann::json::array();
  for (const auto& [name, held] : mine)
    declared.push_back({name, held.info.dtype, held.info.shape, held.box.offset, held.box.shape});
  const std::vector<std::string> lists = world.gather_host(declared.dump(), 0);
  std::string all = fmt::format("[{}]", fmt::join(lists, ","));
  world.broadcast_host(all, 0);

  Contents contents;
  int rank = 0;
  for (const auto& list : nlohmann::json::parse(all)) {
    for (const auto& [name, dtype, shape, box_offset, box_shape] :
         list.get<std::vector<std::tuple<std::string, DType, std::vector<int64_t>,
                                         std::vector<int64_t>, std::vector<int64_t>>>>()) {
      WholeTensor& tensor = contents.try_emplace(name, WholeTensor{{dtype, shape}}).first->second;
      tensor.box_of_rank[rank] = {box_offset, box_shape};
    }
    ++rank;
  }
  return contents;
}

std::string download_bytes(Tensor device, Backend& backend) {
  std::string bytes(static_cast<size_t>(device.bytes()), '\0');
  backend.download(backend.compute_queue(), bytes.data(), device);
  backend.host_wait(backend.record(backend.compute_queue()));
  return bytes;
}

std::vector<std::byte> put_together(const std::string& name, const WholeTensor& tensor,
                                    const std::vector<std::string>& parts) {
  std::vector<std::byte> whole(static_cast<size_t>(tensor.info.bytes()));
  size_t copied = 0;
  for (const auto& [rank, box] : tensor.box_of_rank) {
    const std::string& part = parts[static_cast<size_t>(rank)];
    copy_into(whole, tensor.info, box, std::as_bytes(std::span(part)));
    copied += part.size();
  }
  SY_CHECK(copied == whole.size(), "the ranks brought {} bytes of tensor \"{}\", which has {}",
           copied, name, whole.size());
  return whole;
}

}  // namespace

void save_weights(const std::string& path, const ParameterList& parameters, const StateList& state,
                  Backend& backend, const ProcessGrid& grid) {
  Communicator& world = grid.world();
  const bool writes = world.rank() == 0;
  const std::map<std::string, HeldTensor> mine = contributions(parameters, state, grid);
  const Contents contents = agree_on_contents(mine, world);
  std::optional<SafetensorsWriter> writer;
  agree(world, [&] {
    if (!writes) return;
    std::map<std::string, TensorInfo> tensors;
    for (const auto& [name, tensor] : contents) tensors.emplace(name, tensor.info);
    writer.emplace(path, tensors, Metadata{{"format", "pt"}});
  });
  for (const auto& entry : contents) {  // no structured binding: clang 14 cannot capture it
    const auto& name = entry.first;
    const auto& tensor = entry.second;
    const auto held = mine.find(name);
    const std::vector<std::string> parts = world.gather_host(
        held == mine.end() ? std::string() : download_bytes(held->second.data, backend), 0);
    agree(world, [&] {
      if (writes) writer->write(name, put_together(name, tensor, parts));
    });
  }
  agree(world, [&] {
    if (writes) writer->finish();
  });
}

void load_weights(const std::string& path, const ParameterList& parameters, const StateList& state,
                  Backend& backend) {
  const SafetensorsFile file(path);
  const auto load = [&](const HeldTensor& held) {
    SY_REQUIRE(kData, file.contains(held.name), "{}: tensor \"{}\" is missing", path, held.name);
    const TensorInfo& info = file.info(held.name);
    SY_REQUIRE(kData, info == held.info, "{}: tensor \"{}\" is {} {}, expected {} {}", path,
               held.name, name_of(info.dtype), shape_text(info.shape), name_of(held.info.dtype),
               shape_text(held.info.shape));
    const std::vector<std::byte> part = cut_out(file.read(held.name), info, held.box);
    backend.upload(backend.compute_queue(), held.data, part.data());
  };
  for (const Parameter* parameter : parameters)
    for (const HeldTensor& held : held_of(*parameter)) load(held);
  for (const StateTensor& tensor : state) load(held_of(tensor));
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
