#include "inspect/step_report.h"

#include <algorithm>
#include <map>
#include <set>

#include "checkpoint/checkpoint_reader.h"
#include "checkpoint/strict_json.h"
#include "core/error.h"
#include "inspect/run_contents.h"
#include "inspect/text_table.h"

namespace switchyard {
namespace {

int64_t bytes_of(const SavedTensor& tensor) {
  return numel_of(tensor.shape) * static_cast<int64_t>(size_in_bytes(tensor.dtype));
}

std::string head_text(const CheckpointReader& reader, const std::string& directory) {
  const Manifest& manifest = reader.manifest();
  std::string text = fmt::format(
      "checkpoint {}\n"
      "  step {}, by attempt {} at {}\n"
      "  run {}, lineage {}\n"
      "  code: version {}, revision {}, {}, {}\n"
      "  layout: {}\n"
      "  configuration: \"config\" of {}, SHA-256 {}\n",
      directory, manifest.id.step, manifest.id.attempt, manifest.time, manifest.id.run_id,
      manifest.id.lineage, manifest.code.version, manifest.code.revision, manifest.code.compiler,
      manifest.code.build, layout_text(manifest.layout), join(directory, kManifestFile),
      config_sha256(manifest.config));
  try {
    reader.check_files();
  } catch (const Error& error) {
    text += fmt::format("  NOT VALID: {}\n", error.what());
  }
  return text;
}

std::string roles_text(const Manifest& manifest) {
  struct Total {
    int64_t tensors = 0, elements = 0, bytes = 0;
  };
  std::map<std::pair<TensorRole, DType>, Total> totals;
  Total all;
  for (const auto& [key, tensor] : manifest.tensors)
    for (Total* total : {&totals[{tensor.role, tensor.dtype}], &all}) {
      ++total->tensors;
      total->elements += numel_of(tensor.shape);
      total->bytes += bytes_of(tensor);
    }
  TextTable table({"role", "dtype", "tensors>", "elements>", "bytes>"});
  const auto add = [&](const char* role, const char* dtype, const Total& total) {
    table.add({role, dtype, std::to_string(total.tensors), std::to_string(total.elements),
               std::to_string(total.bytes)});
  };
  for (const auto& [role, total] : totals) add(role_name(role.first), name_of(role.second), total);
  add("all", "", all);
  return "contents\n" + table.text();
}

std::string files_text(const Manifest& manifest) {
  std::map<std::string, int64_t> boxes;
  for (const auto& [key, tensor] : manifest.tensors)
    for (const Chunk& chunk : tensor.chunks) ++boxes[chunk.file];
  TextTable table({"file", "bytes>", "boxes>"});
  std::map<std::string, int64_t> writers;  // by "w00000", which their files begin with
  int64_t total = 0, most = 0;
  for (const auto& [name, file] : manifest.files) {
    table.add({name, std::to_string(file.bytes), std::to_string(boxes[name])});
    total += file.bytes;
    most = std::max(most, writers[name.substr(0, name.find_first_of("-."))] += file.bytes);
  }
  const double mean = static_cast<double>(total) / static_cast<double>(writers.size());
  return fmt::format("files: {} of {} writer{}, {} bytes, the most {:.3f} times the mean\n",
                     manifest.files.size(), writers.size(), writers.size() == 1 ? "" : "s", total,
                     total == 0 ? 1 : static_cast<double>(most) / mean) +
         table.text();
}

std::string training_text(const Manifest& manifest) {
  std::string text = "training state\n";
  for (const auto& [key, value] : manifest.train.items())
    text += value.is_array() ? fmt::format("  {}: {} entries\n", key, value.size())
                             : fmt::format("  {}: {}\n", key, value.dump());
  return text;
}

std::string tensors_text(const Manifest& manifest) {
  TextTable table({"tensor", "dtype", "shape", "bytes>", "digest", "boxes>", "files>"});
  for (const auto& [key, tensor] : manifest.tensors) {
    std::set<std::string> files;
    for (const Chunk& chunk : tensor.chunks) files.insert(chunk.file);
    table.add({key, name_of(tensor.dtype), shape_text(tensor.shape),
               std::to_string(bytes_of(tensor)), hex_text(tensor.digest, sizeof(tensor.digest)),
               std::to_string(tensor.chunks.size()), std::to_string(files.size())});
  }
  return "tensors\n" + table.text();
}

}  // namespace

std::string step_text(const std::string& step_directory, bool tensors) {
  const CheckpointReader reader(step_directory);
  const Manifest& manifest = reader.manifest();
  return head_text(reader, step_directory) + roles_text(manifest) + files_text(manifest) +
         training_text(manifest) +
         (tensors ? tensors_text(manifest) : "--tensors lists every tensor\n");
}

}  // namespace switchyard
