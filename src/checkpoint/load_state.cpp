#include "checkpoint/load_state.h"

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace switchyard {
namespace {

// Problems, of which a message names the first.
class Problems {
 public:
  void add(std::string problem) {
    ++count_;
    if (named_.size() < kMaxNamed) named_.push_back(std::move(problem));
  }

  void require_none(const std::string& where, const std::string& what) const {
    const std::string more = count_ > named_.size()
                                 ? fmt::format("\n  and {} more", count_ - named_.size())
                                 : std::string();
    SY_REQUIRE(kData, count_ == 0, "{}: {}, in {} tensor{}:\n  {}{}", where, what, count_,
               count_ == 1 ? "" : "s", fmt::join(named_, "\n  "), more);
  }

 private:
  static constexpr size_t kMaxNamed = 20;
  size_t count_ = 0;
  std::vector<std::string> named_;
};

const char* name_of(TensorRole role) {
  switch (role) {
    case TensorRole::kParam:
      return "weight";
    case TensorRole::kMaster:
      return "master weight";
    case TensorRole::kExpAvg:
      return "first moment";
    case TensorRole::kExpAvgSq:
      return "second moment";
    case TensorRole::kState:
      return "state";
  }
  return "tensor";
}

void check_tensor(const Manifest& manifest, const Declaration& expected, Problems& problems) {
  const auto text = [](TensorRole role, DType dtype, const std::vector<int64_t>& shape) {
    return fmt::format("{}, {} {}", name_of(role), name_of(dtype), shape_text(shape));
  };
  const auto found = manifest.tensors.find(expected.key);
  if (found == manifest.tensors.end()) {
    problems.add(fmt::format("\"{}\" is missing", expected.key));
    return;
  }
  const SavedTensor& saved = found->second;
  if (saved.role != expected.role || saved.dtype != expected.dtype || saved.shape != expected.shape)
    problems.add(fmt::format("\"{}\" is a {}, expected a {}", expected.key,
                             text(saved.role, saved.dtype, saved.shape),
                             text(expected.role, expected.dtype, expected.shape)));
}

bool is_wanted(const SavedTensor& tensor, LoadScope scope) {
  return scope == LoadScope::kEverything || tensor.role == TensorRole::kParam ||
         tensor.role == TensorRole::kState;
}

// The elements of `common`, which lies in the chunk, in its own order.
void read_common(const ChunkReader& read, const Chunk& chunk, const Box& common, int64_t item,
                 std::span<std::byte> out) {
  for_each_run(chunk.box.shape, counted_from(chunk.box, common), [&](const Run& run) {
    read(chunk, run.whole * item,
         out.subspan(static_cast<size_t>(run.part * item), static_cast<size_t>(run.count * item)));
  });
}

// What of the box lies in the chunk, to its places in `host`, which holds the box. Returns the
// number of elements.
int64_t read_part(const ChunkReader& read, const Chunk& chunk, DType dtype, const Box& box,
                  std::span<std::byte> host) {
  const Box common = intersection(chunk.box, box);
  const int64_t numel = common.numel();
  const auto item = static_cast<int64_t>(size_in_bytes(dtype));
  if (numel == 0) return 0;
  if (common == box) {
    read_common(read, chunk, common, item, host);
  } else {
    std::vector<std::byte> part(static_cast<size_t>(numel * item));
    read_common(read, chunk, common, item, part);
    copy_into(host, {dtype, box.shape}, counted_from(box, common), part);
  }
  return numel;
}

// All that is held of one tensor, chunk by chunk, so that each part of a file is visited once.
void load_tensor(const SavedTensor& saved, const ChunkReader& read,
                 const std::vector<const HeldTensor*>& held, Backend& backend) {
  std::vector<std::vector<std::byte>> host;
  for (const HeldTensor* part : held) host.emplace_back(static_cast<size_t>(part->data.bytes()));
  std::vector<int64_t> filled(held.size(), 0);
  for (const Chunk& chunk : saved.chunks)
    for (size_t i = 0; i < held.size(); ++i)
      filled[i] += read_part(read, chunk, saved.dtype, held[i]->box, host[i]);
  for (size_t i = 0; i < held.size(); ++i) {
    SY_REQUIRE(kData, filled[i] == held[i]->box.numel(),
               "the checkpoint has {} of the {} elements {} of tensor \"{}\"", filled[i],
               held[i]->box.numel(), box_text(held[i]->box), held[i]->key);
    backend.upload(backend.compute_queue(), held[i]->data, host[i].data());
  }
}

}  // namespace

void check_contents(const Manifest& manifest, const std::vector<Region>& regions, LoadScope scope,
                    const std::string& where) {
  std::map<std::string, const Declaration*> expected;
  for (const Region& region : regions) expected[region.tensor.key] = &region.tensor;
  Problems problems;
  for (const auto& [key, tensor] : expected) check_tensor(manifest, *tensor, problems);
  for (const auto& [key, tensor] : manifest.tensors)
    if (is_wanted(tensor, scope) && expected.count(key) == 0)
      problems.add(fmt::format("\"{}\" is not a tensor of this run", key));
  problems.require_none(where, "the checkpoint does not fit the run");
}

std::vector<std::byte> read_box(const SavedTensor& tensor, const Box& box,
                                const ChunkReader& read) {
  const int64_t numel = box.numel();
  std::vector<std::byte> bytes(static_cast<size_t>(numel) * size_in_bytes(tensor.dtype));
  int64_t filled = 0;
  for (const Chunk& chunk : tensor.chunks)
    filled += read_part(read, chunk, tensor.dtype, box, bytes);
  SY_REQUIRE(kData, filled == numel, "the checkpoint has {} of the {} elements {}", filled, numel,
             box_text(box));
  return bytes;
}

void load_state(const Manifest& manifest, const ChunkReader& read,
                const std::vector<HeldTensor>& held, Backend& backend) {
  Problems problems;
  std::map<std::string, std::vector<const HeldTensor*>> by_key;
  for (const HeldTensor& tensor : held) by_key[tensor.key].push_back(&tensor);
  for (const Declaration& declaration : declarations_of(held))
    check_tensor(manifest, declaration, problems);
  problems.require_none("loading", "the checkpoint does not fit the run");
  for (const auto& [key, parts] : by_key)
    load_tensor(manifest.tensors.at(key), read, parts, backend);
  backend.host_wait(backend.record(backend.compute_queue()));
}

void check_digests(const Manifest& manifest, const std::map<std::string, uint64_t>& loaded,
                   const std::string& where) {
  Problems problems;
  for (const auto& [key, digest] : loaded) {
    const auto found = manifest.tensors.find(key);
    SY_CHECK(found != manifest.tensors.end(), "loaded \"{}\", which is not in the manifest", key);
    if (found->second.digest != digest)
      problems.add(fmt::format("\"{}\" has digest {:#018x}, expected {:#018x}", key, digest,
                               found->second.digest));
  }
  problems.require_none(where, "what was loaded is not what was saved");
}

}  // namespace switchyard
