#include "small_checkpoint.h"

#include <algorithm>
#include <utility>

#include "checkpoint/digest.h"
#include "checkpoint/run_names.h"
#include "core/random.h"
#include "support/catch.h"
#include "support/temporary_directory.h"

namespace switchyard::test {
namespace {

std::vector<std::byte> random_bytes(const std::string& key, int64_t count, uint64_t seed) {
  std::vector<std::byte> bytes;
  for (uint64_t i = 0; static_cast<int64_t>(bytes.size()) < count; ++i)
    for (const uint32_t word : philox(random_key(seed, key), i))
      for (int byte = 0; byte < 4; ++byte)
        bytes.push_back(static_cast<std::byte>(word >> (8 * byte)));
  bytes.resize(static_cast<size_t>(count));
  return bytes;
}

// Tensor and number of each box that a writer writes.
using Parts = std::vector<std::pair<std::string, size_t>>;

Parts parts_of(int writer, const std::map<std::string, TensorToSave>& tensors) {
  Parts parts;
  for (const auto& [key, tensor] : tensors)
    for (size_t i = 0; i < tensor.boxes.size(); ++i)
      if (static_cast<int>(i) % kSmallWriters == writer) parts.emplace_back(key, i);
  return parts;
}

}  // namespace

std::map<std::string, TensorToSave> small_tensors() {
  const auto param = TensorRole::kParam;
  const Box left = {{0, 0}, {12, 5}}, right = {{0, 5}, {12, 4}};
  return {
      {"model.a.weight", {param, DType::kF32, {12, 9}, {left, right}}},
      {"master/model.a.weight", {TensorRole::kMaster, DType::kF32, {12, 9}, {left, right}}},
      {"exp_avg/model.a.weight", {TensorRole::kExpAvg, DType::kF32, {12, 9}, {{{0, 0}, {12, 9}}}}},
      {"exp_avg_sq/model.a.weight",
       {TensorRole::kExpAvgSq,
        DType::kF32,
        {12, 9},
        {{{0, 0}, {5, 9}}, {{5, 0}, {1, 3}}, {{5, 3}, {1, 6}}, {{6, 0}, {6, 9}}}}},
      {"model.b.weight",
       {param, DType::kBF16, {3, 5, 7}, {{{0, 0, 0}, {1, 5, 7}}, {{1, 0, 0}, {2, 5, 7}}}}},
      {"model.empty", {param, DType::kF32, {0, 4}, {}}},
      {"state/router.bias", {TensorRole::kState, DType::kF64, {11}, {{{0}, {6}}, {{6}, {5}}}}},
      {"state/count", {TensorRole::kState, DType::kI64, {}, {{{}, {}}}}},
      {"state/flags", {TensorRole::kState, DType::kU8, {3}, {{{0}, {3}}}}},
  };
}

CheckpointId small_id() {
  return {.run_id = "run-5e1f", .lineage = "first", .attempt = 2, .step = 40};
}

SmallCheckpoint write_small_checkpoint(Storage& storage, const std::string& directory,
                                       const CheckpointId& id,
                                       const std::map<std::string, TensorToSave>& tensors,
                                       uint64_t seed, int64_t max_file_bytes) {
  SmallCheckpoint checkpoint{.directory = directory};
  Manifest& manifest = checkpoint.manifest;
  manifest = {.id = id,
              .time = "2026-01-02T03:04:05Z",
              .code = {.version = "0.1.0"},
              .config = {{"model", {{"hidden_size", 9}, {"alpha", 0.1}}}, {"data", "z"}},
              .layout = {{"dp", 3}},
              .train = {{"step", id.step}}};
  for (const auto& [key, tensor] : tensors) {
    const TensorInfo info{tensor.dtype, tensor.shape};
    const auto& bytes = checkpoint.bytes[key] = random_bytes(key, info.bytes(), seed);
    manifest.tensors[key] = {
        .role = tensor.role,
        .dtype = tensor.dtype,
        .shape = tensor.shape,
        .digest = digest_of(tensor.shape, whole_box(tensor.shape), tensor.dtype, bytes)};
  }
  std::map<std::pair<std::string, size_t>, std::vector<Chunk>> chunks;  // by tensor and box
  storage.make_directory(directory);
  for (int writer = 0; writer < kSmallWriters; ++writer) {
    const Parts parts = parts_of(writer, tensors);
    std::vector<ShardPiece> pieces;
    for (const auto& [key, i] : parts)
      pieces.push_back({key, tensors.at(key).dtype, tensors.at(key).boxes[i]});
    const std::vector<FilePieces> files = cut_into_files(pieces, max_file_bytes);
    auto part = parts.begin();  // that the next chunk is of
    int64_t done = 0;           // bytes of it
    for (size_t n = 0; n < files.size(); ++n) {
      ShardFile shard(storage, directory, id,
                      {.writer = writer,
                       .num_writers = kSmallWriters,
                       .part = static_cast<int>(n) + 1,
                       .num_parts = static_cast<int>(files.size())},
                      files[n]);
      for (const ShardPiece& piece : files[n])
        shard.append(cut_out(checkpoint.bytes[piece.key],
                             {piece.dtype, tensors.at(piece.key).shape}, piece.box));
      ShardFile::Written written = shard.finish();
      manifest.files[written.file] = written.info;
      for (Chunk& chunk : written.chunks) {
        done += chunk.bytes;
        chunks[*part].push_back(std::move(chunk));
        if (done < pieces[static_cast<size_t>(part - parts.begin())].bytes()) continue;
        ++part;
        done = 0;
      }
    }
  }
  for (auto& [key_and_box, of_box] : chunks)
    for (Chunk& chunk : of_box)
      manifest.tensors[key_and_box.first].chunks.push_back(std::move(chunk));
  write_bytes(join(directory, kManifestFile), to_json(manifest));
  return checkpoint;
}

std::string data_error(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    INFO(error.what());
    REQUIRE(error.code() == ExitCode::kData);
    return error.what();
  }
  FAIL("nothing was refused");
  return "";
}

}  // namespace switchyard::test
