// A checkpoint of a few small tensors of every kind, cut into boxes over several writers, in a
// directory; and its known contents.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "checkpoint/manifest.h"
#include "checkpoint/shard_cut.h"
#include "checkpoint/storage.h"

namespace switchyard::test {

struct TensorToSave {
  TensorRole role = TensorRole::kParam;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape = {};
  std::vector<Box> boxes = {};  // box i is written by writer i % num_writers
};

struct SmallCheckpoint {
  std::string directory = {};
  Manifest manifest = {};
  std::map<std::string, std::vector<std::byte>> bytes = {};  // of whole tensors, by key
};

constexpr int kSmallWriters = 3;
std::map<std::string, TensorToSave> small_tensors();
CheckpointId small_id();

// Makes `directory`. The bytes of tensors follow from their key and `seed`.
SmallCheckpoint write_small_checkpoint(
    Storage& storage, const std::string& directory, const CheckpointId& id = small_id(),
    const std::map<std::string, TensorToSave>& tensors = small_tensors(), uint64_t seed = 0,
    int64_t max_file_bytes = kMaxFileBytes);
// Cuts each writer's bytes into several files, and some tensors in two.
constexpr int64_t kSmallFileBytes = 4096 + 200;

// What the error of `action` says. Fails the test if there is none, or one that is not kData.
std::string data_error(const std::function<void()>& action);

}  // namespace switchyard::test
