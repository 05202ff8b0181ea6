#include "checkpoint/memory_checkpoint.h"

#include <algorithm>

#include "checkpoint/digest.h"
#include "checkpoint/held_state.h"

namespace switchyard::test {
namespace {

std::vector<std::byte> download(const HeldTensor& held, Backend& backend) {
  std::vector<std::byte> bytes(static_cast<size_t>(held.data.bytes()));
  backend.download(backend.compute_queue(), bytes.data(), held.data);
  backend.host_wait(backend.record(backend.compute_queue()));
  return bytes;
}

}  // namespace

std::vector<HeldTensor> held_by(TrainerOnRank& on_rank) {
  Trainer& trainer = on_rank.trainer;
  return held_state(trainer.parameters(), trainer.state(), trainer.optimizer());
}

void MemoryCheckpoint::save(TrainerOnRank& on_rank, Communicator& world) {
  const std::vector<HeldTensor> held = held_by(on_rank);
  const SavePlan plan = plan_save(exchange_declarations(declarations_of(held), world));
  const DigestsByRank digests = exchange_digests(digests_of(held, on_rank.backend), world);
  for (const ReplicaDifference& difference : differing_replicas(plan.regions, digests))
    SY_CHECK(false, "{}", describe(difference));
  if (world.rank() == 0) {
    max_over_mean_bytes = plan.max_over_mean_bytes();
    const std::map<std::string, uint64_t> digest_of_key = tensor_digests(plan.regions, digests);
    for (const Region& region : plan.regions)
      manifest.tensors[region.tensor.key] = {.role = region.tensor.role,
                                             .dtype = region.tensor.dtype,
                                             .shape = region.tensor.shape,
                                             .digest = digest_of_key.at(region.tensor.key)};
  }
  world.barrier();
  write(plan, held, world.rank(), on_rank.backend);
  world.barrier();
}

void MemoryCheckpoint::write(const SavePlan& plan, const std::vector<HeldTensor>& held, int rank,
                             Backend& backend) {
  const std::string name = fmt::format("w{:05}.safetensors", rank);
  const std::scoped_lock lock(mutex_);
  std::vector<std::byte>& file = files_[name];
  for (const SavePiece& piece : plan.pieces[static_cast<size_t>(rank)]) {
    const Region& region = plan.regions[piece.region];
    const std::vector<std::byte> bytes = download(held[piece.held], backend);
    const auto item = static_cast<int64_t>(size_in_bytes(region.tensor.dtype));
    auto from = bytes.begin() + piece.begin * item;
    for (const Box& box : boxes_of(piece, region)) {
      const int64_t length = box.numel() * item;
      manifest.tensors.at(region.tensor.key)
          .chunks.push_back({.file = name,
                             .begin = static_cast<int64_t>(file.size()),
                             .bytes = length,
                             .box = box});
      file.insert(file.end(), from, from + length);
      from += length;
    }
  }
}

void MemoryCheckpoint::load(TrainerOnRank& on_rank, Communicator& world, LoadScope scope) const {
  Trainer& trainer = on_rank.trainer;
  const std::vector<HeldTensor> held = scope == LoadScope::kEverything
                                           ? held_by(on_rank)
                                           : held_weights(trainer.parameters(), trainer.state());
  const std::vector<Region> regions =
      regions_of(exchange_declarations(declarations_of(held), world));
  check_contents(manifest, regions, scope, "memory");
  load_state(manifest, reader(), held, on_rank.backend);
  if (scope == LoadScope::kWeights) trainer.optimizer().refresh_masters();
  const DigestsByRank digests = exchange_digests(digests_of(held, on_rank.backend), world);
  SY_CHECK(differing_replicas(regions, digests).empty(), "copies differ after loading");
  check_digests(manifest, tensor_digests(regions, digests), "memory");
}

ChunkReader MemoryCheckpoint::reader() const {
  return [this](const Chunk& chunk, int64_t begin, std::span<std::byte> out) {
    const auto length = static_cast<int64_t>(out.size());
    SY_CHECK(begin >= 0 && begin + length <= chunk.bytes, "{} bytes from {} on of {}", length,
             begin, chunk.bytes);
    const auto from = files_.at(chunk.file).begin() + chunk.begin + begin;
    std::copy(from, from + length, out.begin());
  };
}

int64_t MemoryCheckpoint::bytes() const {
  int64_t total = 0;
  for (const auto& [name, bytes] : files_) total += static_cast<int64_t>(bytes.size());
  return total;
}

}  // namespace switchyard::test
