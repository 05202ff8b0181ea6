#include "tiny_save.h"

#include <memory>
#include <numeric>
#include <span>
#include <vector>

#include "checkpoint/checkpoint_reader.h"
#include "checkpoint/digest.h"
#include "checkpoint/shard_file.h"
#include "core/error.h"

namespace switchyard::test {
namespace {

constexpr int kNumFiles = 4;
constexpr int64_t kRowsOfFile = 2, kColumns = 3;
const std::vector<int64_t> kShape = {kRowsOfFile * kNumFiles, kColumns};

Box box_of_file(int file) { return {{file * kRowsOfFile, 0}, {kRowsOfFile, kColumns}}; }

std::vector<float> values_of(const Box& box, int content) {
  std::vector<float> values(static_cast<size_t>(box.numel()));
  std::iota(values.begin(), values.end(), static_cast<float>(1000 * content + box.offset[0]));
  return values;
}

uint64_t digest_of_content(int content) {
  uint64_t digest = 0;
  for (int file = 0; file < kNumFiles; ++file) {
    const Box box = box_of_file(file);
    const std::vector<float> values = values_of(box, content);
    digest += digest_of(kShape, box, DType::kF32, std::as_bytes(std::span(values)));
  }
  return digest;
}

}  // namespace

Manifest write_tiny_files(Storage& storage, RunDirectory& run, int64_t step, int content) {
  const std::string staging = run.begin_save(step);
  const std::string keys[] = {"weight", tensor_key(TensorRole::kExpAvg, "weight")};
  Manifest manifest{
      .id = run.id_of(step), .time = "2026-01-01T00:00:00Z", .code = {.version = "test"}};
  manifest.config = manifest.layout = manifest.train = nlohmann::ordered_json::object();
  manifest.train["content"] = content;
  for (const std::string& key : keys)
    manifest.tensors[key] = {.role = key == "weight" ? TensorRole::kParam : TensorRole::kExpAvg,
                             .shape = kShape,
                             .digest = digest_of_content(content)};
  std::vector<std::unique_ptr<ShardFile>> files;  // side by side
  for (int file = 0; file < kNumFiles; ++file) {
    std::vector<ShardPiece> pieces;
    for (const std::string& key : keys)
      pieces.push_back({.key = key, .dtype = DType::kF32, .box = box_of_file(file)});
    files.push_back(
        std::make_unique<ShardFile>(storage, staging, manifest.id,
                                    ShardPlace{.writer = file, .num_writers = kNumFiles}, pieces));
  }
  for (int file = 0; file < kNumFiles; ++file) {
    const std::vector<float> values = values_of(box_of_file(file), content);
    for (size_t i = 0; i < std::size(keys); ++i)
      files[file]->append(std::as_bytes(std::span(values)));
  }
  for (const auto& file : files) {
    const ShardFile::Written written = file->finish();
    manifest.files[written.file] = written.info;
    for (size_t i = 0; i < std::size(keys); ++i)
      manifest.tensors[keys[i]].chunks.push_back(written.chunks[i]);
  }
  return manifest;
}

RunDirectory::Commit save_tiny(Storage& storage, RunDirectory& run, int64_t step, int content) {
  return run.commit(write_tiny_files(storage, run, step, content));
}

std::optional<TinyCheckpoint> read_tiny(const RunDirectory& run, int64_t step) {
  try {
    const CheckpointReader reader(run.step_directory(step));
    const Manifest& manifest = reader.manifest();
    if (manifest.id.run_id != run.id_of(step).run_id) return std::nullopt;
    reader.verify_everything();
    const int content = manifest.train.at("content");
    if (manifest.tensors.at("weight").digest != digest_of_content(content)) return std::nullopt;
    return TinyCheckpoint{content, manifest.id.lineage};
  } catch (const Error&) {
    return std::nullopt;
  }
}

TinyFound newest_tiny(const RunDirectory& run) {
  for (const int64_t step : run.committed_steps())
    if (const auto found = read_tiny(run, step)) return {step, found->content};
  return {};
}

}  // namespace switchyard::test
