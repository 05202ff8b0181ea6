#include <sys/mman.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <span>
#include <utility>

#include "checkpoint/checksum.h"
#include "checkpoint/latest_file.h"
#include "checkpoint/manifest.h"
#include "checkpoint/manifest_text.h"
#include "checkpoint/run_file.h"
#include "checkpoint/run_names.h"
#include "checkpoint/safetensors.h"
#include "config/config.h"
#include "data/token_file.h"
#include "support/temporary_directory.h"
#include "target.h"

namespace switchyard::fuzz {
namespace {

using test::read_bytes;
using test::TemporaryDirectory;
using test::write_bytes;

// A file in memory, for parsers that open theirs.
class MemoryFile {
 public:
  MemoryFile() : descriptor_(memfd_create("input", MFD_CLOEXEC)) {
    SY_CHECK(descriptor_ >= 0, "no file in memory");
  }
  ~MemoryFile() { close(descriptor_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  void set(const std::string& bytes) {
    const auto size = static_cast<ssize_t>(bytes.size());
    SY_CHECK(ftruncate(descriptor_, 0) == 0 &&
                 pwrite(descriptor_, bytes.data(), bytes.size(), 0) == size,
             "cannot write to memory");
  }
  std::string path() const { return fmt::format("/proc/self/fd/{}", descriptor_); }

 private:
  int descriptor_;
};

std::string safetensors_example() {
  const TemporaryDirectory directory;
  const std::string path = directory.file("example");
  const std::map<std::string, TensorInfo> tensors = {{"model.a", {DType::kF32, {2, 3}}},
                                                     {"model.b", {DType::kBF16, {5}}},
                                                     {"scalar", {DType::kI64, {}}},
                                                     {"empty", {DType::kU8, {0, 7}}}};
  SafetensorsWriter writer(path, tensors, {{"format", "pt"}, {"step", "7"}});
  for (const auto& [name, info] : tensors)
    writer.write(name, std::vector<std::byte>(static_cast<size_t>(info.bytes()), std::byte{0x3f}));
  writer.finish();
  return read_bytes(path);
}

Target safetensors() {
  const auto file = std::make_shared<MemoryFile>();
  const std::string small = "{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]}}";
  return {.name = "safetensors",
          .corpus = {safetensors_example(), std::string("\x33\0\0\0\0\0\0\0", 8) + small + "abc"},
          .take =
              [file](const std::string& input) {
                file->set(input);
                const SafetensorsFile parsed(file->path());
                size_t bytes = 0;
                for (const std::string& name : parsed.names()) bytes += parsed.read(name).size();
                SY_CHECK(bytes < input.size(), "{} bytes of {}", bytes, input.size());
              },
          // The length of the header goes with it.
          .mend =
              [](std::string input) {
                const size_t end = input.rfind('}');
                if (input.size() < 8 || end == std::string::npos || end < 8) return input;
                for (size_t i = 0; i < 8; ++i) input[i] = static_cast<char>((end - 7) >> (8 * i));
                return input;
              }};
}

Manifest manifest_example() {
  const std::string first = "w00000.safetensors", second = "w00001-00002.safetensors";
  const auto tensor = [](TensorRole role, std::vector<int64_t> shape, std::vector<Chunk> chunks) {
    return SavedTensor{role, DType::kF32, std::move(shape), 0xfedcba9876543210u, std::move(chunks)};
  };
  return {.id = {"0123456789abcdef", "fedcba9876543210", 2, 1000},
          .time = "2026-01-02T03:04:05Z",
          .code = {"0.1.0", "4dbde68", "GNU 12.2.0", "Release: -O3"},
          .config = {{"model", {{"hidden_size", 64}, {"eps", 1e-5}}}, {"data", nullptr}},
          .layout = {{"dp", 2}},
          .train = {{"step", 1000}, {"accepted_losses", {2.5, 2.25}}},
          .files = {{first, {4132, 4096, 5}}, {second, {4108, 4096, 6}}},
          .tensors = {{"w", tensor(TensorRole::kParam, {2, 3},
                                   {{first, 4096, 12, {{0, 0}, {1, 3}}, {1}},
                                    {second, 4096, 12, {{1, 0}, {1, 3}}, {2}}})},
                      {"exp_avg/w", tensor(TensorRole::kExpAvg, {2, 3},
                                           {{first, 4108, 24, {{0, 0}, {2, 3}}, {3}}})},
                      {"none", tensor(TensorRole::kParam, {0, 3}, {})}}};
}

// As version 0.1.0 of the program wrote it.
std::string manifest_of_format_1() {
  std::string text = to_json(manifest_example());
  text.resize(text.size() - checksum_ending(0).size());
  const auto replace = [&](const std::string& begin, const std::string& end,
                           const std::string& other) {
    const size_t from = text.find(begin);
    text.replace(from, text.find(end, from + begin.size()) + end.size() - from, other);
  };
  replace("checkpoint/2", "\"", "checkpoint/1\"");
  replace(" \"code\": ", "}", " \"version\": \"0.1.0\"");
  replace(",\n \"config_sha256\": ", ",", ",");
  text = with_checksum(text);
  parse_manifest(text, "corpus");
  return text;
}

Target manifest() {
  return {.name = "manifest",
          .corpus = {to_json(manifest_example()), manifest_of_format_1()},
          .take =
              [](const std::string& input) {
                const Manifest parsed = parse_manifest(input, "manifest.json");
                const std::string text = to_json(parsed);
                SY_CHECK(to_json(parse_manifest(text, "manifest.json")) == text,
                         "a manifest that is not read back");
              },
          .mend =
              [](std::string input) {
                input.resize(input.size() - std::min(input.size(), checksum_ending(0).size()));
                return with_checksum(std::move(input));
              }};
}

Target run_file() {
  return {.name = "run_file",
          .corpus = {to_json(RunIdentity{std::string(32, 'a'), std::string(32, '7'), 3})},
          .take = [](const std::string& input) { parse_run_file(input, "run.json"); },
          .mend =
              [](const std::string& input) {
                const std::string body = input.substr(0, input.rfind(",\"crc32c\":")) + "}";
                return fmt::format("{},\"crc32c\":{}}}\n", body.substr(0, body.size() - 1),
                                   crc32c(std::as_bytes(std::span(body))));
              }};
}

Target latest() {
  return {.name = "latest",
          .corpus = {to_json(Latest{1000, "step-000001000", std::string(64, 'a')}),
                     to_json(Latest{0, "step-000000000"})},
          .take = [](const std::string& input) {
            const std::string text = to_json(parse_latest(input, "LATEST"));
            SY_CHECK(to_json(parse_latest(text, "LATEST")) == text,
                     "a LATEST that is not read back");
          }};
}

Target run_entries() {
  return {.name = "run_entries",
          .corpus = {"step-000001000", ".staging-000001100-3", ".deleting-000000900-12",
                     ".superseded-1234567890-1"},
          .take = [](const std::string& input) {
            const auto entry = parse_entry(input);
            SY_REQUIRE(kData, entry.has_value(), "no name of a run directory");
            SY_CHECK(name_of(*entry) == input, "{} has two names", input);
          }};
}

std::vector<std::string> config_texts() {
  std::vector<std::string> texts = {default_config_text()};
  for (const auto& file :
       std::filesystem::recursive_directory_iterator(SWITCHYARD_SOURCE_DIR "/configs"))
    if (file.path().extension() == ".json") texts.push_back(read_bytes(file.path()));
  std::sort(texts.begin(), texts.end());
  return texts;
}

Target config() {
  return {.name = "config",
          .refusal = ExitCode::kConfig,
          .corpus = config_texts(),
          .take = [](const std::string& input) {
            const std::string text = to_json(load_config({"config.json", input}, 1));
            SY_CHECK(to_json(load_config({"config.json", text}, 1)) == text,
                     "a configuration that is not read back");
          }};
}

Target config_override() {
  const std::string base = read_bytes(SWITCHYARD_SOURCE_DIR "/configs/quickstart.json");
  return {.name = "config_override",
          .refusal = ExitCode::kConfig,
          .corpus = {"moe.top_k=1", "model.hidden_size=64", "training.seed=7",
                     "optimizer.params.lr=0.1", "optimizer.params.betas=[0.8, 0.9]",
                     "data={\"path\":\"x\"}"},
          .take = [base](const std::string& input) {
            load_config({"config.json", base, {input}}, 4);
          }};
}

// The index is the input; the tokens stay.
Target token_file() {
  const auto directory = std::make_shared<TemporaryDirectory>();
  const std::string prefix = directory->file("tokens");
  const auto index_of = [&](int64_t vocab_size) {
    TokenFileWriter writer(prefix, vocab_size);
    for (const int count : {4, 0, 3}) writer.add_document(std::vector<int32_t>(size_t(count), 9));
    writer.finish();
    return read_bytes(prefix + ".idx");
  };
  const std::string wide = index_of(100'000), narrow = index_of(257);
  return {.name = "token_file",
          .corpus = {narrow, wide},
          .take = [directory, prefix](const std::string& input) {
            write_bytes(prefix + ".idx", input);
            const TokenFile parsed(prefix);
            for (int64_t i = 0; i < parsed.num_tokens(); ++i)
              SY_CHECK(parsed.token(i) == 9 || parsed.num_tokens() != 7, "another token");
            parsed.check_vocabulary(257);
          }};
}

}  // namespace

std::vector<Target> all_targets() {
  return {safetensors(), manifest(), run_file(),        latest(),
          run_entries(), config(),   config_override(), token_file()};
}

}  // namespace switchyard::fuzz
