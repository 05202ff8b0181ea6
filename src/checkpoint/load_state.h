// Loading: the elements that this rank holds, from wherever the ranks that saved them put them. The
// layouts of the two jobs need have nothing in common.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "checkpoint/declarations.h"
#include "checkpoint/held_tensor.h"
#include "checkpoint/manifest.h"

namespace switchyard {

// What of a checkpoint is wanted: all, or, for --init-from, only weights and state
// (held_weights()).
enum class LoadScope { kEverything, kWeights };

// Every tensor of the checkpoint is one of the job's, given by the regions of all ranks, and the
// other way round, with the same role, dtype and shape. Error (kData) with `where`, naming up to 20
// that are not.
void check_contents(const Manifest& manifest, const std::vector<Region>& regions, LoadScope scope,
                    const std::string& where);

// Bytes of a chunk from `begin` on.
using ChunkReader =
    std::function<void(const Chunk& chunk, int64_t begin, std::span<std::byte> out)>;

// The elements of a box of a tensor, row-major. Error (kData): the chunks do not have all of them.
std::vector<std::byte> read_box(const SavedTensor& tensor, const Box& box, const ChunkReader& read);

// Fills HeldTensor::data. Asks `read` for exactly the bytes needed, in the longest stretches that
// lie side by side in their chunk, chunk by chunk and mostly forward. Error (kData): a held tensor
// that the manifest does not have in this form, or not completely. Needs host memory for what is
// held of one tensor. In bf16, ZeroOptimizer::refresh_masters() must follow when no masters are
// among `held`.
void load_state(const Manifest& manifest, const ChunkReader& read,
                const std::vector<HeldTensor>& held, Backend& backend);

// After loading: the digests of what all ranks now hold (tensor_digests.h) are the manifest's.
// Error (kData) with `where`, naming up to 20 tensors that differ.
void check_digests(const Manifest& manifest, const std::map<std::string, uint64_t>& loaded,
                   const std::string& where);

}  // namespace switchyard
