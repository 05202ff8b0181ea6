#include "checkpoint/weights.h"

#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "checkpoint/box.h"
#include "checkpoint/held_state.h"
#include "checkpoint/safetensors.h"
#include "comm/collective_error.h"

namespace switchyard {
namespace {

bool is_first_holder(const Parameter& parameter, const ProcessGrid& grid) {
  const Communicator& sharers = parameter.group == ReplicaGroup::kDense ? grid.dp() : grid.edp();
  const Communicator* copies = copies_of(parameter.copies, grid);
  return sharers.rank() == 0 && (copies == nullptr || copies->rank() == 0);
}

// What this rank holds of the tensors of a file, by name.
using HeldByName = std::map<std::string, HeldTensor>;

void add_weights(HeldByName& held, Parameter* parameter) {
  for (HeldTensor& tensor : held_weights({parameter}, {}))
    held.emplace(tensor.key, std::move(tensor));
}

void add_state(HeldByName& held, const StateTensor& state) {
  for (HeldTensor& tensor : held_weights({}, {state})) held.emplace(state.name, std::move(tensor));
}

// What this rank brings to the file.
HeldByName contributions(const ParameterList& parameters, const StateList& state,
                         const ProcessGrid& grid) {
  HeldByName mine;
  for (Parameter* parameter : parameters)
    if (is_first_holder(*parameter, grid)) add_weights(mine, parameter);
  if (grid.dp().rank() == 0 && grid.tp().rank() == 0)
    for (const StateTensor& tensor : state) add_state(mine, tensor);
  return mine;
}

// A tensor of the file, and which rank brings which part of it.
struct WholeTensor {
  TensorInfo info;
  std::map<int, Box> box_of_rank = {};
};
using Contents = std::map<std::string, WholeTensor>;

// Of the whole file, on every rank.
Contents agree_on_contents(const HeldByName& mine, Communicator& world) {
  nlohmann::json declared = nlohmann::json::array();
  for (const auto& [name, held] : mine)
    declared.push_back({name, held.data.dtype(), held.shape, held.box.offset, held.box.shape});
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
  const HeldByName mine = contributions(parameters, state, grid);
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
  HeldByName wanted;
  for (Parameter* parameter : parameters) add_weights(wanted, parameter);
  for (const StateTensor& tensor : state) add_state(wanted, tensor);
  for (const auto& [name, held] : wanted) {
    SY_REQUIRE(kData, file.contains(name), "{}: tensor \"{}\" is missing", path, name);
    const TensorInfo& info = file.info(name);
    const DType dtype = held.data.dtype();
    SY_REQUIRE(kData, info.dtype == dtype && info.shape == held.shape,
               "{}: tensor \"{}\" is {} {}, expected {} {}", path, name, name_of(info.dtype),
               shape_text(info.shape), name_of(dtype), shape_text(held.shape));
    const std::vector<std::byte> part = cut_out(file.read(name), info, held.box);
    backend.upload(backend.compute_queue(), held.data, part.data());
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
