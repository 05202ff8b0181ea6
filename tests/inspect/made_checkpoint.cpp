#include "made_checkpoint.h"

#include <algorithm>
#include <memory>

#include "checkpoint/digest.h"
#include "checkpoint/manifest.h"
#include "checkpoint/run_names.h"
#include "checkpoint/shard_file.h"
#include "checkpoint/storage.h"

namespace switchyard::test {
namespace {

std::vector<std::byte> bytes_of(const MadeTensor& tensor) {
  const std::span<const float> values = tensor.values;
  if (tensor.dtype == DType::kF32) {
    const auto bytes = std::as_bytes(values);
    return {bytes.begin(), bytes.end()};
  }
  std::vector<BFloat16> rounded;
  for (const float value : values) rounded.emplace_back(value);
  const auto bytes = std::as_bytes(std::span(rounded));
  return {bytes.begin(), bytes.end()};
}

}  // namespace

void write_checkpoint(const std::string& directory, const MadeCheckpoint& made) {
  Storage storage;
  storage.make_directory(directory);
  Manifest manifest;
  manifest.id = {.run_id = "run", .lineage = "lineage", .attempt = 1, .step = 7};
  manifest.time = "2026-01-01T00:00:00Z";
  manifest.code.version = "test";
  manifest.config = made.config;
  manifest.layout = made.layout;
  manifest.train = made.train;
  size_t num_files = 0;
  for (const MadeTensor& tensor : made.tensors) {
    num_files = std::max(num_files, tensor.boxes.size());
    manifest.tensors[tensor.key] = {.dtype = tensor.dtype, .shape = tensor.shape};
  }
  for (size_t i = 0; i < num_files; ++i) {
    std::vector<ShardPiece> pieces;
    for (const MadeTensor& tensor : made.tensors)
      if (i < tensor.boxes.size())
        pieces.push_back({.key = tensor.key, .dtype = tensor.dtype, .box = tensor.boxes[i]});
    ShardFile file(storage, directory, manifest.id,
                   {.writer = static_cast<int>(i), .num_writers = static_cast<int>(num_files)},
                   pieces);
    for (const MadeTensor& tensor : made.tensors) {
      if (i >= tensor.boxes.size()) continue;
      const auto part = cut_out(bytes_of(tensor), {tensor.dtype, tensor.shape}, tensor.boxes[i]);
      file.append(part);
      manifest.tensors[tensor.key].digest +=
          digest_of(tensor.shape, tensor.boxes[i], tensor.dtype, part);
    }
    const ShardFile::Written written = file.finish();
    manifest.files[written.file] = written.info;
    for (size_t piece = 0; piece < pieces.size(); ++piece)
      manifest.tensors[pieces[piece].key].chunks.push_back(written.chunks[piece]);
  }
  write_file(storage, join(directory, kManifestFile), to_json(manifest));
}

std::vector<Box> sliced(const std::vector<int64_t>& shape, size_t dim, int64_t parts) {
  std::vector<Box> boxes;
  for (int64_t i = 0; i < parts; ++i) {
    Box box = whole_box(shape);
    box.shape[dim] /= parts;
    box.offset[dim] = i * box.shape[dim];
    boxes.push_back(box);
  }
  return boxes;
}

}  // namespace switchyard::test
