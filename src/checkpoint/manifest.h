// Manifest: the commit record of a checkpoint, `step-*/manifest.json`. It says which tensors the
// checkpoint holds, in which chunks of which files they lie, what their bytes must be, and
// everything about the run that is not a tensor. Names, shapes and boxes are global; the layout is
// information only: nothing needs it to load.
//
//   {"format": "switchyard-checkpoint/2", "run_id": "...", "lineage": "...", "attempt": 2,
//    "step": 1000, "time": "...", "code": {...}, "config": {...}, "config_sha256": "...",
//    "layout": {...}, "train": {...}, "files": {...}, "tensors": {...},
//    "manifest_crc32c": "0x..."}
//
// Of format 1, which is read and not written any more, "code" was "version", without the rest,
// there was no "config_sha256", and each writer had one file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "checkpoint/box.h"
#include "core/code_info.h"
#include "core/dtype.h"

namespace switchyard {

// Bytes covered by one checksum; the last block of a chunk may be shorter.
constexpr int64_t kChecksumBlockBytes = int64_t{16} << 20;

// A box of a tensor, row-major and contiguous in a file.
struct Chunk {
  std::string file = {};              // "w00003.safetensors", beside the manifest
  int64_t begin = 0, bytes = 0;       // counted from the start of the file
  Box box = {};                       // of the global tensor
  std::vector<uint32_t> crc32c = {};  // of each block
};

// What a tensor is to the run.
enum class TensorRole { kParam, kMaster, kExpAvg, kExpAvgSq, kState };

const char* role_name(TensorRole role);  // "param", "master", "exp_avg", "exp_avg_sq", "state"
// "exp_avg/model.norm.weight": the key of a tensor. A parameter goes by its bare name.
std::string tensor_key(TensorRole role, const std::string& name);

// Keys consist of letters, digits, '.', '_', '-' and '/'.
constexpr size_t kMaxTensorKey = 256;
bool is_tensor_key(const std::string& key);

struct SavedTensor {
  TensorRole role = TensorRole::kParam;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape = {};
  uint64_t digest = 0;  // of the whole tensor, the same for every layout (checkpoint/digest.h)
  std::vector<Chunk> chunks = {};  // cover every element once
};

struct SavedFile {
  int64_t bytes = 0;         // of the whole file
  int64_t header_bytes = 0;  // before the data: length, JSON and padding
  uint32_t header_crc32c = 0;
};

// A checkpoint's place in the history of its run, repeated in the header of every file so that a
// file of another checkpoint is noticed.
struct CheckpointId {
  std::string run_id = {};   // of the run directory, for ever
  std::string lineage = {};  // changes when a run is rolled back: later steps of the old one go
  int64_t attempt = 0;       // starts of `train` on the run directory, from 1
  int64_t step = 0;          // steps taken

  bool operator==(const CheckpointId&) const = default;
};

struct Manifest {
  CheckpointId id = {};
  std::string time = {};               // UTC, ISO 8601
  CodeInfo code = {};                  // that wrote it
  nlohmann::ordered_json config = {};  // the resolved configuration
  nlohmann::ordered_json layout = {};  // information only: process grid, ranks, ZeRO stage
  nlohmann::ordered_json train = {};   // training state (train/training_state.h)
  std::map<std::string, SavedFile> files = {};
  std::map<std::string, SavedTensor> tensors = {};  // by key
};

std::string to_json(const Manifest& manifest);
nlohmann::ordered_json code_json(const CodeInfo& code);
// Of the configuration as it stands in a manifest, every key of it.
std::string config_sha256(const nlohmann::ordered_json& config);

constexpr int64_t kMaxManifestBytes = int64_t{256} << 20;

// Strict: unknown and missing keys, wrong types, a wrong checksum of the manifest itself or of its
// configuration, names that are no plain file names, chunks that overlap, leave holes or do not fit
// their tensor or file. Error (kData) with `path` and the place.
Manifest parse_manifest(const std::string& text, const std::string& path);

// Whether a later version of the program has written the manifest: parse_manifest() refuses it, but
// it is not damaged.
bool is_newer_manifest(const std::string& text);

}  // namespace switchyard
