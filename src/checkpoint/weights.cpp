#include "checkpoint/weights.h"

#include <map>
#include <optional>
#include <span>
#include <utility>

#include "checkpoint/background_task.h"
#include "checkpoint/box.h"
#include "checkpoint/declarations.h"
#include "checkpoint/held_state.h"
#include "checkpoint/safetensors.h"
#include "comm/collective_error.h"

namespace switchyard {
namespace {

// What this rank holds of the tensors of a file, under the names they have there.
std::vector<HeldTensor> held_of_file(const ParameterList& parameters, const StateList& state) {
  std::vector<HeldTensor> held = held_weights(parameters, state);
  for (HeldTensor& tensor : held)  // weights have their bare names already
    if (tensor.role == TensorRole::kState)
      tensor.key.erase(0, tensor_key(TensorRole::kState, "").size());
  return held;
}

// The regions of each tensor of the file, by name.
using Contents = std::map<std::string, std::vector<Region>>;

Contents agree_on_contents(const std::vector<HeldTensor>& held, Communicator& world) {
  Contents contents;
  for (Region& region : regions_of(exchange_declarations(declarations_of(held), world)))
    contents[region.tensor.key].push_back(std::move(region));
  return contents;
}

TensorInfo info_of(const std::vector<Region>& regions) {
  return {regions[0].tensor.dtype, regions[0].tensor.shape};
}

std::string download_bytes(Tensor device, Backend& backend) {
  std::string bytes(static_cast<size_t>(device.bytes()), '\0');
  backend.download(backend.compute_queue(), bytes.data(), device);
  backend.host_wait(backend.record(backend.compute_queue()));
  return bytes;
}

// What this rank brings to a tensor, of which it holds one region at most: that region, if it is
// the first to hold it.
std::string contribution(const std::vector<Region>& regions, const std::vector<HeldTensor>& held,
                         int rank, Backend& backend) {
  for (const Region& region : regions)
    if (const Region::Holder& first = region.holders[0]; first.rank == rank)
      return download_bytes(held[first.held].data, backend);
  return "";
}

std::vector<std::byte> put_together(const std::vector<Region>& regions,
                                    const std::vector<std::string>& contributions) {
  const TensorInfo info = info_of(regions);
  std::vector<std::byte> whole(static_cast<size_t>(info.bytes()));
  for (const Region& region : regions) {
    const std::string& part = contributions[static_cast<size_t>(region.holders[0].rank)];
    copy_into(whole, info, region.tensor.box, std::as_bytes(std::span(part)));
  }
  return whole;
}

}  // namespace

void save_weights(const std::string& path, const ParameterList& parameters, const StateList& state,
                  Backend& backend, Communicator& world) {
  const bool writes = world.rank() == 0;
  const std::vector<HeldTensor> held = held_of_file(parameters, state);
  const Contents contents = agree_on_contents(held, world);
  std::optional<SafetensorsWriter> writer;
  agree(world, [&] {
    if (!writes) return;
    std::map<std::string, TensorInfo> tensors;
    for (const auto& [name, regions] : contents) tensors.emplace(name, info_of(regions));
    writer.emplace(path, tensors, Metadata{{"format", "pt"}});
  });
  for (const auto& entry : contents) {  // no structured binding: clang 14 cannot capture it
    const std::vector<std::string> parts =
        world.gather_host(contribution(entry.second, held, world.rank(), backend), 0);
    agree(world, [&] {
      if (writes) writer->write(entry.first, put_together(entry.second, parts));
    });
  }
  agree_in_background(world, [&] {
    if (writes) writer->finish();
  });
}

void load_weights(const std::string& path, const ParameterList& parameters, const StateList& state,
                  Backend& backend) {
  const SafetensorsFile file(path);
  for (const HeldTensor& held : held_of_file(parameters, state)) {
    const std::string& name = held.key;
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
