// Whatever happens to the files of a checkpoint is noticed before a byte of them is used, and the
// message says where: the file; in data, the tensor, the block and both checksums.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <functional>

#include "checkpoint/checkpoint_reader.h"
#include "checkpoint/checksum.h"
#include "checkpoint/load_state.h"
#include "checkpoint/run_names.h"
#include "checkpoint/strict_json.h"
#include "core/random.h"
#include "small_checkpoint.h"
#include "support/catch.h"
#include "support/temporary_directory.h"

using namespace switchyard;
using namespace switchyard::test;
namespace fs = std::filesystem;

namespace {

// A checkpoint to be damaged.
class Victim {
 public:
  explicit Victim(int64_t max_file_bytes = kMaxFileBytes)
      : saved_(write_small_checkpoint(storage_, directory_.file("step"), small_id(),
                                      small_tensors(), 0, max_file_bytes)) {}

  const Manifest& manifest() const { return saved_.manifest; }
  std::string path(const std::string& name) const { return join(saved_.directory, name); }
  std::string other(const std::string& name) const { return directory_.file(name); }

  void verify() const { CheckpointReader(saved_.directory).verify_everything(); }
  std::string complaint() const {
    return data_error([&] { verify(); });
  }
  // What is said about a changed byte, which is then mended.
  std::string complaint_with(const std::string& name, int64_t at, std::byte flipped) const {
    const int file = open(path(name).c_str(), O_RDWR);
    std::byte value = {};
    bool is_done = file >= 0 && pread(file, &value, 1, at) == 1;
    value ^= flipped;
    is_done = is_done && pwrite(file, &value, 1, at) == 1;
    std::string said = complaint();
    value ^= flipped;
    is_done = is_done && pwrite(file, &value, 1, at) == 1;
    close(file);
    REQUIRE(is_done);
    return said;
  }

 private:
  TemporaryDirectory directory_;
  Storage storage_;
  SmallCheckpoint saved_;
};

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// The chunk whose data holds this byte of the file, and its tensor.
std::pair<std::string, const Chunk*> owner_of(const Manifest& manifest, const std::string& file,
                                              int64_t at) {
  for (const auto& [key, tensor] : manifest.tensors)
    for (const Chunk& chunk : tensor.chunks)
      if (chunk.file == file && chunk.begin <= at && at < chunk.begin + chunk.bytes)
        return {key, &chunk};
  return {"", nullptr};
}

// A byte of data: everything that the message must say.
bool is_named(const Victim& victim, const std::string& file, int64_t at, std::byte flipped) {
  const auto [key, chunk] = owner_of(victim.manifest(), file, at);
  std::string bytes = read_bytes(victim.path(file));
  bytes[static_cast<size_t>(at)] ^= static_cast<char>(flipped);
  const auto wrong =
      std::as_bytes(std::span(bytes))
          .subspan(static_cast<size_t>(chunk->begin), static_cast<size_t>(chunk->bytes));
  const std::string said = victim.complaint_with(file, at, flipped);
  return contains(said, victim.path(file) + ": tensor \"" + key + "\" [") &&
         contains(said, "block 0 (bytes " + std::to_string(chunk->begin) + " to ") &&
         contains(said, "checksum " + hex_text(crc32c(wrong), 4) + " found, expected " +
                            hex_text(chunk->crc32c[0], 4));
}

}  // namespace

TEST_CASE("corruption: each wrong byte of the manifest is noticed and named") {
  const Victim victim;
  const auto bytes = static_cast<int64_t>(fs::file_size(victim.path(kManifestFile)));
  REQUIRE(bytes > 2000);
  int64_t named = 0;
  for (int64_t at = 0; at < bytes; ++at)
    for (const int flipped : {0x01, 0x20, 0x80})
      named += contains(victim.complaint_with(kManifestFile, at, std::byte(flipped)),
                        victim.path(kManifestFile) + ": ");
  REQUIRE(named == 3 * bytes);
  REQUIRE_THAT(victim.complaint_with(kManifestFile, 500, std::byte{1}),
               contains_text("the manifest is corrupt: checksum 0x"));
  victim.verify();
}

TEST_CASE("corruption: each wrong byte of every header is noticed and named") {
  const Victim victim;
  int64_t tried = 0, named = 0;
  for (const auto& [name, file] : victim.manifest().files) {
    for (int64_t at = 0; at < file.header_bytes; ++at, ++tried) {
      const std::string said = victim.complaint_with(name, at, std::byte{0x04});
      named += contains(said, victim.path(name) + ": the header is corrupt") &&
               contains(said, "found, expected " + hex_text(file.header_crc32c, 4));
    }
  }
  REQUIRE(tried == 3 * 4096);
  REQUIRE(named == tried);
  victim.verify();
}

TEST_CASE("corruption: each tensor's first and last byte, and ten thousand others") {
  const Victim victim;
  int tried = 0, named = 0;
  const auto try_byte = [&](const std::string& file, int64_t at, std::byte flipped) {
    ++tried;
    named += is_named(victim, file, at, flipped);
  };
  for (const auto& [key, tensor] : victim.manifest().tensors) {
    for (const Chunk& chunk : tensor.chunks) {
      try_byte(chunk.file, chunk.begin, std::byte{0x80});
      try_byte(chunk.file, chunk.begin + chunk.bytes - 1, std::byte{0x01});
    }
  }
  REQUIRE(tried == 30);
  for (uint64_t i = 0; i < 10'000; ++i) {
    const auto words = philox(5, i);
    const auto& [name, file] = *std::next(victim.manifest().files.begin(), words[0] % 3);
    const int64_t at = file.header_bytes + words[1] % (file.bytes - file.header_bytes);
    try_byte(name, at, static_cast<std::byte>(1 + words[2] % 255));
  }
  REQUIRE(named == tried);
  victim.verify();
}

TEST_CASE("corruption: files cut off, appended to, removed, swapped or of another checkpoint") {
  const Victim victim;
  Storage storage;
  const auto other = [&](const std::string& name, const CheckpointId& id, uint64_t seed) {
    return write_small_checkpoint(storage, victim.other(name), id, small_tensors(), seed).directory;
  };
  CheckpointId step = small_id(), run = small_id(), lineage = small_id(), attempt = small_id();
  ++step.step;
  ++attempt.attempt;
  run.run_id = "run-5e1e";
  lineage.lineage = "second";
  const std::vector<std::pair<std::string, std::string>> others = {
      {other("step+1", step, 0), "\"step\":\"41\""},
      {other("attempt+1", attempt, 0), "\"attempt\":\"3\""},
      {other("another_run", run, 0), "\"run_id\":\"run-5e1e\""},
      {other("another_lineage", lineage, 0), "\"lineage\":\"second\""}};
  for (const auto& [name, file] : victim.manifest().files) {
    const std::string path = victim.path(name), right = read_bytes(path);
    const auto refused = [&](const std::string& bytes, const std::string& complaint) {
      fs::remove(path);
      write_bytes(path, bytes);
      INFO(name + ", " + complaint);
      CHECK_THAT(victim.complaint(), contains_text(path + ": ") && contains_text(complaint));
    };
    for (const size_t bytes : {size_t{0}, size_t{1}, size_t{4095}, size_t{4096}, right.size() - 1})
      refused(right.substr(0, bytes),
              std::to_string(bytes) + " bytes found, expected " + std::to_string(right.size()));
    refused(right + '\0', "the file was cut off or appended to");
    refused(right + right, "the file was cut off or appended to");
    for (const auto& [directory, origin] : others)
      refused(read_bytes(join(directory, name)), "or of another checkpoint: checksum");
    for (const auto& [directory, origin] : others)
      refused(read_bytes(join(directory, name)), origin);
    fs::remove(path);
    CHECK_THAT(victim.complaint(), contains_text(path + ": the file is missing"));
    fs::create_symlink(join(others[0].first, name), path);
    CHECK_THAT(victim.complaint(), contains_text(path + ": a symbolic link found"));
    fs::remove(path);
    REQUIRE(mkfifo(path.c_str(), 0600) == 0);
    CHECK_THAT(victim.complaint(), contains_text(path + ": something else found"));
    fs::remove(path);
    write_bytes(path, right);
  }
  victim.verify();
  fs::rename(victim.path("w00000.safetensors"), victim.path("x"));
  fs::rename(victim.path("w00001.safetensors"), victim.path("w00000.safetensors"));
  fs::rename(victim.path("x"), victim.path("w00001.safetensors"));
  REQUIRE_THAT(victim.complaint(), contains_text("w00000.safetensors: "));
}

TEST_CASE(
    "corruption: of a writer with several files each is missed, and none takes another's place") {
  const Victim victim(kSmallFileBytes);
  victim.verify();
  const auto& files = victim.manifest().files;
  REQUIRE(files.size() > 9);
  for (const auto& [name, file] : files) {
    const std::string path = victim.path(name), right = read_bytes(path);
    INFO(name);
    CHECK_THAT(victim.complaint_with(name, 100, std::byte{1}),
               contains_text(path + ": the header is corrupt"));
    CHECK(is_named(victim, name, file.header_bytes, std::byte{1}));
    CHECK(is_named(victim, name, file.bytes - 1, std::byte{128}));
    fs::remove(path);
    CHECK_THAT(victim.complaint(), contains_text(path + ": the file is missing"));
    for (const auto& [other, info] : files) {
      if (other == name) continue;
      fs::copy(victim.path(other), path);
      CHECK_THAT(victim.complaint(), contains_text(path + ": "));
      fs::remove(path);
    }
    write_bytes(path, right);
  }
  victim.verify();
  // With checksums that fit: what is in a file says which it is.
  const std::string first = "w00000-00001.safetensors", second = "w00000-00002.safetensors";
  Manifest manifest = victim.manifest();
  std::swap(manifest.files.at(first), manifest.files.at(second));
  for (auto& [key, tensor] : manifest.tensors)
    for (Chunk& chunk : tensor.chunks)
      if (chunk.file == first || chunk.file == second)
        chunk.file = chunk.file == first ? second : first;
  fs::rename(victim.path(first), victim.path("x"));
  fs::rename(victim.path(second), victim.path(first));
  fs::rename(victim.path("x"), victim.path(second));
  write_bytes(victim.path(kManifestFile), to_json(manifest));
  REQUIRE_THAT(victim.complaint(),
               contains_text(victim.path(first) + ": part \"2\" of a file of writer \"0\""));
}

// Whoever makes the checksums fit has to make everything else fit too.
TEST_CASE("corruption: checksums that were made to fit hide nothing that contradicts itself") {
  const Victim victim;
  const auto complaint_about = [&](const std::function<void(Manifest&)>& change) {
    Manifest manifest = victim.manifest();
    change(manifest);
    write_bytes(victim.path(kManifestFile), to_json(manifest));
    return victim.complaint();
  };
  const std::string file = "w00000.safetensors";
  const auto header_of_another = [&](const CheckpointId& id, int writer) {
    Storage storage;
    const std::string directory = victim.other(std::to_string(id.step) + std::to_string(writer));
    const auto saved = write_small_checkpoint(storage, directory, id);
    const std::string name = shard_name({.writer = writer});
    fs::remove(victim.path(file));
    fs::copy(join(directory, name), victim.path(file));
    return complaint_about([&](Manifest& m) { m.files[file] = saved.manifest.files.at(name); });
  };
  const std::string right = read_bytes(victim.path(file));
  REQUIRE_THAT(complaint_about([](Manifest& m) { m.id.step = 41; }),
               contains_text("a file of another checkpoint") && contains_text("\"step\":\"40\"") &&
                   contains_text("\"step\":\"41\""));
  REQUIRE_THAT(complaint_about([](Manifest& m) { m.tensors["state/flags"].digest += 1; }),
               contains_text("tensor \"state/flags\": digest 0x"));
  REQUIRE_THAT(complaint_about([](Manifest& m) {
                 auto tensor = m.tensors.extract("state/flags");
                 tensor.key() = "state/marks";
                 m.tensors.insert(std::move(tensor));
               }),
               contains_text("the header does not list the 9 boxes"));
  REQUIRE_THAT(complaint_about([](Manifest& m) {
                 for (const char* key : {"model.a.weight", "master/model.a.weight"})
                   m.tensors[key].dtype = DType::kI32;
               }),
               contains_text("the header does not list"));
  CheckpointId step = small_id();
  step.step = 41;
  REQUIRE_THAT(header_of_another(step, 0), contains_text("a file of another checkpoint"));
  fs::remove(victim.path(file));
  write_bytes(victim.path(file), right);
  write_bytes(victim.path(kManifestFile), to_json(victim.manifest()));
  victim.verify();
}

TEST_CASE("corruption: missing, unexpected, mis-shaped and mis-typed tensors are named") {
  const Victim victim;
  std::vector<Region> regions;
  for (const auto& [key, tensor] : victim.manifest().tensors)
    regions.push_back({.tensor = {.key = key,
                                  .role = tensor.role,
                                  .dtype = tensor.dtype,
                                  .shape = tensor.shape,
                                  .box = whole_box(tensor.shape)},
                       .holders = {{0, 0}}});
  const auto complaint_about = [&](const std::function<void(Manifest&)>& change) {
    Manifest manifest = victim.manifest();
    change(manifest);
    const Manifest parsed = parse_manifest(to_json(manifest), "manifest");
    return data_error([&] { check_contents(parsed, regions, LoadScope::kEverything, "STEP"); });
  };
  check_contents(victim.manifest(), regions, LoadScope::kEverything, "STEP");
  REQUIRE_THAT(complaint_about([](Manifest& m) { m.tensors.erase("model.empty"); }),
               contains_text("\"model.empty\" is missing"));
  REQUIRE_THAT(complaint_about([](Manifest& m) { m.tensors["extra"] = {.shape = {0}}; }),
               contains_text("\"extra\""));
  for (const std::string key : {"exp_avg/model.a.weight", "model.a.weight", "master/model.a.weight",
                                "exp_avg_sq/model.a.weight"}) {
    REQUIRE_THAT(complaint_about([&](Manifest& m) { m.tensors[key].dtype = DType::kI32; }),
                 contains_text("\"" + key + "\" is a") && contains_text("i32 (12, 9)"));
  }
  REQUIRE_THAT(complaint_about([](Manifest& m) {
                 m.tensors["model.empty"].shape = {4, 0};
               }),
               contains_text("f32 (4, 0), expected a weight, f32 (0, 4)"));
}
