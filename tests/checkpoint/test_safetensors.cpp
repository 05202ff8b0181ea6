// SafetensorsWriter and SafetensorsFile: what is written is read back; a file appears complete or
// not at all; other programs' files are understood.
#include <sys/resource.h>
#include <sys/wait.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include "checkpoint/safetensors.h"
#include "support/catch.h"
#include "support/temporary_directory.h"

using namespace switchyard;
using switchyard::test::contains_text;
using switchyard::test::read_bytes;
using switchyard::test::TemporaryDirectory;
using switchyard::test::write_bytes;
namespace fs = std::filesystem;

namespace {

template <typename T>
std::span<const std::byte> bytes_of(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

const std::vector<float> kFloats = {1.5f, -0.0f, 3e38f, -1e-45f, 0.1f, 7.0f};
const std::vector<double> kDoubles = {0.1, std::numeric_limits<double>::infinity()};
const std::vector<int32_t> kInts = {-100, 0, 2147483647};
const std::vector<int64_t> kLongs = {-9223372036854775807};
const std::vector<uint8_t> kBytes = {0, 127, 255};
const std::vector<BFloat16> kHalves = {BFloat16(1.5f), BFloat16(-0.0f), BFloat16(3e38f)};

const std::map<std::string, TensorInfo> kEveryKind = {
    {"bytes", {DType::kU8, {3}}},        {"doubles", {DType::kF64, {1, 2}}},
    {"empty", {DType::kF32, {4, 0, 2}}}, {"floats", {DType::kF32, {2, 3}}},
    {"halves", {DType::kBF16, {3}}},     {"ints \"\\ \u00e9", {DType::kI32, {3}}},
    {"scalar", {DType::kI64, {}}}};

void write_every_kind(const std::string& path) {
  SafetensorsWriter writer(path, kEveryKind, {{"format", "pt"}, {"step", "12"}});
  writer.write("scalar", bytes_of(kLongs));
  writer.write("bytes", bytes_of(kBytes));
  writer.write("floats", bytes_of(kFloats).first(10));  // in pieces, between other tensors
  writer.write("ints \"\\ \u00e9", bytes_of(kInts));
  writer.write("floats", bytes_of(kFloats).subspan(10));
  writer.write("doubles", bytes_of(kDoubles));
  writer.write("halves", bytes_of(kHalves));
  writer.finish();
}

void require_every_kind(const SafetensorsFile& file) {
  for (const auto& [name, info] : kEveryKind) {
    INFO(name);
    REQUIRE(file.info(name) == info);
  }
  REQUIRE(file.names().size() == kEveryKind.size());
  const std::vector<float> floats = file.read_as<float>("floats");
  REQUIRE(std::memcmp(floats.data(), kFloats.data(), 24) == 0);  // -0.0 too
  REQUIRE(file.read_as<double>("doubles") == kDoubles);
  REQUIRE(file.read_as<int32_t>("ints \"\\ \u00e9") == kInts);
  REQUIRE(file.read_as<int64_t>("scalar") == kLongs);
  REQUIRE(file.read_as<uint8_t>("bytes") == kBytes);
  const std::vector<BFloat16> halves = file.read_as<BFloat16>("halves");
  REQUIRE(std::memcmp(halves.data(), kHalves.data(), 6) == 0);
  REQUIRE(file.read_as<float>("empty").empty());
}

}  // namespace

TEST_CASE("safetensors: every dtype, scalars and empty tensors survive a round trip") {
  const TemporaryDirectory directory;
  const std::string path = directory.file("a.safetensors");
  write_every_kind(path);
  const SafetensorsFile file(path);
  require_every_kind(file);
  REQUIRE(file.metadata() == Metadata{{"format", "pt"}, {"step", "12"}});
  REQUIRE(file.read("bytes").size() == 3);
  REQUIRE_FALSE(file.contains("missing"));
}

TEST_CASE("safetensors: a file without tensors is legal") {
  const TemporaryDirectory directory;
  SafetensorsWriter(directory.file("none"), {}).finish();
  REQUIRE(read_bytes(directory.file("none")) == std::string("\x8\0\0\0\0\0\0\0{}      ", 16));
  REQUIRE(SafetensorsFile(directory.file("none")).names().empty());
}

TEST_CASE("safetensors: the bytes on disk are those of the format") {
  const TemporaryDirectory directory;
  const std::string path = directory.file("b");
  SafetensorsWriter writer(path, {{"b", {DType::kU8, {2}}}, {"c", {DType::kI32, {1}}}});
  writer.write("b", bytes_of(std::vector<uint8_t>{'x', 'y'}));
  writer.write("c", bytes_of(std::vector<int32_t>{0x04030201}));
  writer.finish();
  const std::string header = R"({"b":{"data_offsets":[4,6],"dtype":"U8","shape":[2]},)"
                             R"("c":{"data_offsets":[0,4],"dtype":"I32","shape":[1]}}      )";
  REQUIRE(header.size() == 112);
  REQUIRE(read_bytes(path) == std::string("\x70\0\0\0\0\0\0\0", 8) + header + "\x1\x2\x3\x4xy");
}

TEST_CASE("safetensors: the final name appears in finish(), never before") {
  const TemporaryDirectory directory;
  const std::string path = directory.file("c");
  write_bytes(path, "an older file");
  {
    SafetensorsWriter writer(path, {{"a", {DType::kU8, {3}}}});
    writer.write("a", bytes_of(kBytes));
    REQUIRE(read_bytes(path) == "an older file");
  }
  REQUIRE(read_bytes(path) == "an older file");
  REQUIRE_FALSE(fs::exists(path + ".tmp"));
  write_bytes(path + ".tmp", std::string(1000, 'x'));  // a crash left it
  write_every_kind(path);
  require_every_kind(SafetensorsFile(path));
  REQUIRE_FALSE(fs::exists(path + ".tmp"));
}

TEST_CASE("safetensors: a writer refuses undeclared, overlong and incomplete tensors") {
  const TemporaryDirectory directory;
  SafetensorsWriter writer(directory.file("d"), {{"a", {DType::kU8, {3}}}});
  REQUIRE_THROWS_WITH(writer.write("b", {}), contains_text("\"b\" was not declared"));
  writer.write("a", bytes_of(kBytes).first(2));
  REQUIRE_THROWS_WITH(writer.write("a", bytes_of(kBytes).first(2)), contains_text("lacks only 1"));
  REQUIRE_THROWS_WITH(writer.finish(), contains_text("\"a\"") && contains_text("lacks 1 bytes"));
  REQUIRE_FALSE(fs::exists(directory.file("d")));
}

TEST_CASE("safetensors: what the medium refuses is a storage error that names the file") {
  const TemporaryDirectory directory;
  const auto code_of = [](const auto& action) {
    try {
      action();
    } catch (const Error& error) {
      return error.code();
    }
    return ExitCode::kOk;
  };
  const auto storage = ExitCode::kStorage;
  REQUIRE(code_of([&] { SafetensorsWriter(directory.file("no/such/e"), {}); }) == storage);
  REQUIRE(code_of([&] { SafetensorsFile(directory.file("missing")); }) == storage);
  fs::create_directories(directory.file("f/occupied"));
  REQUIRE(code_of([&] { SafetensorsFile(directory.file("f")); }) == storage);
  REQUIRE(code_of([&] { SafetensorsWriter(directory.file("f"), {}).finish(); }) == storage);
  REQUIRE_FALSE(fs::exists(directory.file("f.tmp")));
  REQUIRE_THROWS_WITH(SafetensorsFile(directory.file("missing")),
                      contains_text(directory.file("missing")) && contains_text("No such file"));
}

TEST_CASE("safetensors: a full disk is a storage error and leaves nothing behind") {
  const TemporaryDirectory directory;
  const std::string path = directory.file("g");
  rlimit previous = {};
  REQUIRE(getrlimit(RLIMIT_FSIZE, &previous) == 0);
  const auto previous_handler = std::signal(SIGXFSZ, SIG_IGN);
  const auto write_with_limit = [&](rlim_t limit) {
    const rlimit limited = {.rlim_cur = limit, .rlim_max = previous.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limited);
    ExitCode code = ExitCode::kOk;
    try {
      write_every_kind(path);
    } catch (const Error& error) {
      code = error.code();
    }
    setrlimit(RLIMIT_FSIZE, &previous);
    return code;
  };
  write_every_kind(path);
  const auto complete_bytes = fs::file_size(path);
  fs::remove(path);
  const ExitCode in_header = write_with_limit(100);
  const bool left_by_header = fs::exists(path + ".tmp");
  const ExitCode in_data = write_with_limit(static_cast<rlim_t>(complete_bytes) - 1);
  std::signal(SIGXFSZ, previous_handler);
  REQUIRE(in_header == ExitCode::kStorage);
  REQUIRE_FALSE(left_by_header);
  REQUIRE(in_data == ExitCode::kStorage);
  REQUIRE_FALSE(fs::exists(path));
  REQUIRE_FALSE(fs::exists(path + ".tmp"));
}

TEST_CASE("safetensors: reading what is not there says what is") {
  const TemporaryDirectory directory;
  const std::string path = directory.file("h");
  write_every_kind(path);
  const SafetensorsFile file(path);
  REQUIRE_THROWS_WITH(file.read("missing"), contains_text(path) && contains_text("\"missing\""));
  REQUIRE_THROWS_WITH(file.read_as<double>("floats"),
                      contains_text("holds f32") && contains_text("expected f64"));
}

// The other implementation reads our file, and writes the same tensors for us to read.
TEST_CASE("safetensors: agrees with the Python package, where it is installed") {
  const TemporaryDirectory directory;
  write_every_kind(directory.file("ours"));
  const std::string command = "python3 " SWITCHYARD_SOURCE_DIR
                              "/tests/checkpoint/rewrite_with_python_package.py " +
                              directory.file("ours") + " " + directory.file("theirs");
  const int status = std::system(command.c_str());
  if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
    WARN("skipped: Python has no package safetensors");
    return;
  }
  REQUIRE(status == 0);
  require_every_kind(SafetensorsFile(directory.file("theirs")));
}
