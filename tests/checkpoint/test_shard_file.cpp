// Shards: what ShardFile writes, CheckpointReader gives back, whatever the portions; and any reader
// of safetensors can read the files.
#include <algorithm>
#include <cstring>
#include <filesystem>

#include "checkpoint/checkpoint_reader.h"
#include "checkpoint/checksum.h"
#include "checkpoint/run_names.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/shard_file.h"
#include "core/fault_injection.h"
#include "small_checkpoint.h"
#include "support/catch.h"
#include "support/temporary_directory.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

// Whole tensors, put together from their chunks.
std::map<std::string, std::vector<std::byte>> read_all(const CheckpointReader& reader) {
  std::map<std::string, std::vector<std::byte>> all;
  for (const auto& [key, tensor] : reader.manifest().tensors) {
    const TensorInfo info{tensor.dtype, tensor.shape};
    std::vector<std::byte>& whole = all[key];
    whole.resize(static_cast<size_t>(info.bytes()));
    for (const Chunk& chunk : tensor.chunks) {
      std::vector<std::byte> part(static_cast<size_t>(chunk.bytes));
      reader.read(chunk, 0, part);
      copy_into(whole, info, chunk.box, part);
    }
  }
  return all;
}

std::vector<std::byte> numbered_bytes(int64_t count) {
  std::vector<std::byte> bytes(static_cast<size_t>(count));
  for (size_t i = 0; i < bytes.size(); ++i)
    bytes[i] = static_cast<std::byte>(i * 2654435761u >> 13);
  return bytes;
}

}  // namespace

TEST_CASE("checksum: CRC-32C of the standard's examples, in one piece and in two") {
  const std::string digits = "123456789";
  const auto bytes = std::as_bytes(std::span(digits));
  REQUIRE(crc32c(bytes) == 0xe3069283u);
  REQUIRE(crc32c(bytes.subspan(4), crc32c(bytes.first(4))) == 0xe3069283u);
  REQUIRE(crc32c(std::vector<std::byte>(32)) == 0x8a9136aau);  // RFC 3720, B.4
  REQUIRE(crc32c({}) == 0);
}

TEST_CASE("checksum: SHA-256 of the standard's examples") {
  REQUIRE(sha256("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  REQUIRE(sha256("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  REQUIRE(sha256(std::string(1'000'000, 'a')) ==
          "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  REQUIRE(is_sha256(sha256("abc")));
  REQUIRE_FALSE(is_sha256(sha256("abc") + "0"));
  REQUIRE_FALSE(is_sha256(std::string(64, 'A')));
}

TEST_CASE("shards: a checkpoint of every kind of tensor comes back") {
  const TemporaryDirectory directory;
  Storage storage;
  const auto saved = write_small_checkpoint(storage, directory.file("step"));
  const CheckpointReader reader(saved.directory);
  reader.verify_everything();
  REQUIRE(reader.manifest().id == small_id());
  REQUIRE(read_all(reader) == saved.bytes);
}

TEST_CASE("shards: any safetensors reader reads them") {
  const TemporaryDirectory directory;
  Storage storage;
  const auto saved = write_small_checkpoint(storage, directory.file("step"));
  size_t entries = 0;
  for (const auto& [name, info] : saved.manifest.files) {
    const SafetensorsFile file(join(saved.directory, name));
    entries += file.names().size();
    REQUIRE(info.header_bytes % 4096 == 0);
    REQUIRE(file.metadata() ==
            shard_metadata(small_id(), {.writer = std::stoi(name.substr(1, 5)), .num_writers = 3}));
  }
  REQUIRE(entries == 15);
  // The fourth box is the first writer's second.
  const SafetensorsFile file(join(saved.directory, "w00000.safetensors"));
  const auto& moment = saved.bytes.at("exp_avg_sq/model.a.weight");
  REQUIRE(file.info("exp_avg_sq/model.a.weight/1") == TensorInfo{DType::kF32, {6, 9}});
  REQUIRE(file.read("exp_avg_sq/model.a.weight/1") ==
          std::vector<std::byte>(moment.begin() + 6 * 9 * 4, moment.end()));
}

TEST_CASE("shards: a checkpoint of many small files comes back") {
  const TemporaryDirectory directory;
  Storage storage;
  const auto saved = write_small_checkpoint(storage, directory.file("step"), small_id(),
                                            small_tensors(), 0, kSmallFileBytes);
  const CheckpointReader reader(saved.directory);
  reader.verify_everything();
  REQUIRE(read_all(reader) == saved.bytes);
  const auto& files = reader.manifest().files;
  REQUIRE(files.size() > 3 * kSmallWriters);
  for (const auto& [name, info] : files) {
    INFO(name);
    REQUIRE(info.bytes <= kSmallFileBytes);
    const SafetensorsFile file(join(saved.directory, name));  // any reader can read it
    const auto number = [&](const char* key) { return std::stoi(file.metadata().at(key)); };
    ShardPlace place{.writer = number("writer"), .num_writers = kSmallWriters};
    if (file.metadata().contains("part")) {  // one of the writers needs one file only
      place.part = number("part");
      place.num_parts = number("num_parts");
    }
    REQUIRE(name == shard_name(place));
    REQUIRE(file.metadata() == shard_metadata(small_id(), place));
    place.part = place.num_parts;
    REQUIRE(files.contains(shard_name(place)));
  }
  REQUIRE(files.contains("w00000-00002.safetensors"));
  REQUIRE(files.contains("w00002.safetensors"));
  // A tensor that no file could hold is cut, and more files of it are read as one.
  REQUIRE(reader.manifest().tensors.at("exp_avg/model.a.weight").chunks.size() > 1);
}

TEST_CASE("shards: portions change nothing, and blocks of 16 MiB have their checksums") {
  const TemporaryDirectory directory;
  Storage storage;
  const int64_t bytes = 2 * kChecksumBlockBytes + 4000;
  const std::vector<ShardPiece> pieces = {{"small", DType::kU8, {{0}, {5}}},
                                          {"large", DType::kI32, {{0, 0}, {bytes / 4, 1}}}};
  const std::vector<std::byte> data = numbered_bytes(5 + bytes);
  std::string first_file;
  std::vector<uint32_t> expected;
  for (int64_t at = 0; at < bytes; at += kChecksumBlockBytes)
    expected.push_back(crc32c(
        std::span(data).subspan(static_cast<size_t>(5 + at),
                                static_cast<size_t>(std::min(kChecksumBlockBytes, bytes - at)))));
  for (const size_t portion : {data.size(), size_t{1} << 20, size_t{9'999'991}}) {
    INFO(portion);
    ShardFile shard(storage, directory.file(""), small_id(), {.writer = 7, .num_writers = 9},
                    pieces);
    shard.append(std::span(data).first(3));
    for (size_t at = 3; at < data.size(); at += portion)
      shard.append(std::span(data).subspan(at, std::min(portion, data.size() - at)));
    const ShardFile::Written written = shard.finish();
    REQUIRE(written.file == "w00007.safetensors");
    REQUIRE(written.chunks[1].crc32c == expected);
    REQUIRE(written.chunks[0].crc32c == std::vector{crc32c(std::span(data).first(5))});
    REQUIRE(written.chunks[1].begin == written.info.header_bytes + 5);
    const std::string path = directory.file(written.file);
    const std::string text = read_bytes(path);
    std::filesystem::remove(path);
    REQUIRE(static_cast<int64_t>(text.size()) == written.info.bytes);
    REQUIRE(std::memcmp(text.data() + written.info.header_bytes, data.data(), data.size()) == 0);
    if (first_file.empty()) first_file = text;
    REQUIRE((text == first_file));
  }
}

TEST_CASE("shards: parts are read by blocks, each verified, the last one kept") {
  const TemporaryDirectory directory;
  Storage storage;
  const int64_t bytes = 2 * kChecksumBlockBytes + 4000;
  const auto saved = write_small_checkpoint(
      storage, directory.file("step"), small_id(),
      {{"large", {TensorRole::kParam, DType::kU8, {bytes}, {{{0}, {bytes}}}}}});
  const CheckpointReader reader(saved.directory);
  reader.verify_everything();
  const Chunk& chunk = reader.manifest().tensors.at("large").chunks[0];
  const auto read = [&](int64_t begin, int64_t count) {
    std::vector<std::byte> out(static_cast<size_t>(count));
    reader.read(chunk, begin, out);
    const auto& whole = saved.bytes.at("large");
    return std::equal(out.begin(), out.end(), whole.begin() + begin);
  };
  REQUIRE(read(0, bytes));
  REQUIRE(read(0, 0));
  REQUIRE(read(bytes - 1, 1));
  REQUIRE(read(kChecksumBlockBytes - 3, 7));
  REQUIRE(read(1, 2 * kChecksumBlockBytes));
  // The last block's bytes are not read again: the file may change under them.
  REQUIRE(read(bytes - 10, 3));
  const std::string path = join(saved.directory, chunk.file);
  std::string text = read_bytes(path);
  text[text.size() - 8] ^= 1;
  write_bytes(path, text);
  REQUIRE(read(bytes - 10, 10));
  // Of other blocks they are, but only of those that are asked for.
  REQUIRE(read(5, 5));
  REQUIRE_THAT(data_error([&] { read(bytes - 10, 1); }),
               contains_text("tensor \"large\" [0:33558432], block 2"));
  REQUIRE(read(kChecksumBlockBytes, 10));
}

TEST_CASE("shards: a bit that turns over between checksum and file is noticed when it is read") {
  const TemporaryDirectory directory;
  Storage storage;
  set_faults("point=checkpoint.shard.write,nth=4,action=flip");  // header, data, header, data
  const auto saved = write_small_checkpoint(storage, directory.file("step"));
  set_faults("");
  const CheckpointReader reader(saved.directory);
  reader.check_files();
  REQUIRE_THAT(data_error([&] { reader.verify_everything(); }),
               contains_text("w00001.safetensors: tensor") && contains_text("block 0") &&
                   contains_text("is corrupt"));
  set_faults("point=checkpoint.shard.write,nth=1,action=flip");
  const auto header = write_small_checkpoint(storage, directory.file("header"));
  set_faults("");
  REQUIRE_THAT(data_error([&] { CheckpointReader(header.directory).check_files(); }),
               contains_text("w00000.safetensors: the header is corrupt"));
}

TEST_CASE("shards: a writer refuses what cannot be, and what is not all there") {
  const TemporaryDirectory directory;
  Storage storage;
  const auto shard = [&](int writer, const std::string& key, const Box& box) {
    return ShardFile(storage, directory.file(""), small_id(), {.writer = writer},
                     {{key, DType::kU8, box}});
  };
  REQUIRE_THROWS_WITH(shard(0, "a b", {{0}, {3}}), contains_text("\"a b\" cannot be saved"));
  REQUIRE_THROWS_WITH(shard(1, "", {{0}, {3}}), contains_text("cannot be saved"));
  REQUIRE_THROWS_WITH(shard(2, "a", {{0}, {0}}), contains_text("an empty box of \"a\""));
  ShardFile file = shard(3, "a", {{0}, {3}});
  const std::vector<std::byte> bytes(3);
  file.append(std::span(bytes).first(2));
  REQUIRE_THROWS_WITH(file.finish(), contains_text("0 of 1 boxes have come"));
  REQUIRE_THROWS_WITH(file.append(bytes), contains_text("2 bytes too many"));
  REQUIRE_THROWS_WITH(shard(3, "a", {{0}, {3}}), contains_text("File exists"));
}
