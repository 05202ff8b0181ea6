// Manifests: what is written is read back; of what is not a manifest, each fault is named. The
// wrong manifests carry the right checksum, so that it is the fault that is found.
#include <chrono>
#include <filesystem>

#include "checkpoint/box_cover.h"
#include "checkpoint/checkpoint_reader.h"
#include "checkpoint/checksum.h"
#include "checkpoint/latest_file.h"
#include "checkpoint/manifest.h"
#include "checkpoint/manifest_text.h"
#include "checkpoint/run_names.h"
#include "small_checkpoint.h"
#include "support/catch.h"
#include "support/temporary_directory.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

Manifest small_manifest() {
  const std::string file = "w00000.safetensors", other = "w00001.safetensors";
  const Chunk top{file, 4096, 12, {{0, 0}, {1, 3}}, {1}};
  const Chunk bottom{other, 4096, 12, {{1, 0}, {1, 3}}, {0xfffffff2u}};
  const Chunk moments{file, 4108, 24, {{0, 0}, {2, 3}}, {3}};
  return {.id = small_id(),
          .time = "2026-01-02T03:04:05Z",
          .code = {"0.1.0", "4dbde68-dirty", "GNU 12.2.0", "Release: -O3"},
          .config = {{"z", 1}, {"a", {{"y", 0.1}, {"b", "text \u00e4"}}}},
          .layout = {{"dp", 2}},
          .train = {{"losses", {1.0 / 3, 1e-300}}},
          .files = {{file, {4132, 4096, 5}}, {other, {4108, 4096, 6}}},
          .tensors = {
              {"w", {TensorRole::kParam, DType::kF32, {2, 3}, 0x8000000000000001u, {top, bottom}}},
              {"exp_avg/w", {TensorRole::kExpAvg, DType::kF32, {2, 3}, 9, {moments}}}}};
}

// The text of small_manifest() with the only occurrence of `old_text` replaced, and a checksum that
// fits again.
std::string text_with(const std::string& old_text, const std::string& new_text) {
  std::string text = to_json(small_manifest());
  text.resize(text.size() - checksum_ending(0).size());
  const size_t at = text.find(old_text);
  if (at == std::string::npos || text.find(old_text, at + 1) != std::string::npos)
    throw std::logic_error("not exactly once in the manifest: " + old_text);
  return with_checksum(text.replace(at, old_text.size(), new_text));
}

std::string object_of_keys(int count) {
  nlohmann::json object;
  for (int i = 0; i < count; ++i) object[std::to_string(i)] = i;
  return object.dump();
}

std::string complaint_about(const std::string& text) {
  return data_error([&] { parse_manifest(text, "RUN/manifest.json"); });
}

Box box1(int64_t begin, int64_t end) { return {{begin}, {end - begin}}; }

bool cover(const std::vector<Box>& boxes, const std::vector<int64_t>& shape) {
  std::vector<const Box*> pointers;
  for (const Box& box : boxes) pointers.push_back(&box);
  return cover_once(pointers, shape);
}

}  // namespace

TEST_CASE("manifest: what is written is read back, bit by bit") {
  const std::string text = to_json(small_manifest());
  const Manifest manifest = parse_manifest(text, "path");
  REQUIRE(to_json(manifest) == text);
  REQUIRE(manifest.id == small_id());
  REQUIRE(manifest.config == small_manifest().config);
  REQUIRE(manifest.train["losses"][0].get<double>() == 1.0 / 3);
  const SavedTensor& tensor = manifest.tensors.at("w");
  REQUIRE(tensor.role == TensorRole::kParam);
  REQUIRE(tensor.dtype == DType::kF32);
  REQUIRE(tensor.shape == std::vector<int64_t>{2, 3});
  REQUIRE(tensor.digest == 0x8000000000000001u);
  REQUIRE(tensor.chunks[1].file == "w00001.safetensors");
  REQUIRE(tensor.chunks[1].begin == 4096);
  REQUIRE(tensor.chunks[1].box == Box{{1, 0}, {1, 3}});
  REQUIRE(tensor.chunks[1].crc32c == std::vector<uint32_t>{0xfffffff2u});
  REQUIRE(manifest.files.at("w00001.safetensors").header_crc32c == 6);
  REQUIRE(manifest.code == small_manifest().code);
}

// What `sha256sum` says of the configuration as it stands in the file.
TEST_CASE("manifest: the configuration has its SHA-256, which follows from its text alone") {
  const std::string text = to_json(small_manifest());
  const std::string begin = "\n \"config\": ", end = ",\n \"config_sha256\": \"";
  const size_t from = text.find(begin) + begin.size(), to = text.find(end);
  REQUIRE(sha256(text.substr(from, to - from)) == text.substr(to + end.size(), 64));
}

// The text of small_manifest() as version 0.1.0 of the program wrote it.
std::string text_of_format_1() {
  std::string text = to_json(small_manifest());
  text.resize(text.size() - checksum_ending(0).size());
  const auto replace = [&](const std::string& begin, const std::string& end,
                           const std::string& other) {
    const size_t from = text.find(begin), to = text.find(end, from + begin.size()) + end.size();
    REQUIRE(to > from);
    text.replace(from, to - from, other);
  };
  replace("checkpoint/2", "\"", "checkpoint/1\"");
  replace(" \"code\": ", "}", " \"version\": \"0.1.0\"");
  replace(",\n \"config_sha256\": ", ",", ",");
  return with_checksum(text);
}

TEST_CASE("manifest: the format before is read, as strictly, and written as this one") {
  const std::string text = text_of_format_1();
  const Manifest manifest = parse_manifest(text, "RUN/manifest.json");
  Manifest expected = small_manifest();
  expected.code = {.version = "0.1.0"};
  REQUIRE(to_json(manifest) == to_json(expected));
  REQUIRE(manifest.code.revision == "unknown");
  REQUIRE_FALSE(is_newer_manifest(text));
  const auto complaint_with = [&](const std::string& old_text, const std::string& new_text) {
    std::string changed = text.substr(0, text.size() - checksum_ending(0).size());
    const size_t at = changed.find(old_text);
    REQUIRE(at != std::string::npos);
    return complaint_about(with_checksum(changed.replace(at, old_text.size(), new_text)));
  };
  CHECK_THAT(complaint_with("\"version\"", "\"code\": {}, \"version\""),
             contains_text("\"code\" is not known"));
  CHECK_THAT(complaint_with(" \"version\": \"0.1.0\",", ""),
             contains_text("\"version\" is missing"));
  CHECK_THAT(complaint_with("\"layout\"", "\"config_sha256\": \"0\", \"layout\""),
             contains_text("\"config_sha256\" is not known"));
  CHECK_THAT(complaint_with("\"0.1.0\"", "1"), contains_text("version 1 found, expected a string"));
}

TEST_CASE("manifest: each fault is named") {
  struct Case {
    std::string old_text, new_text, complaint;
  };
  const std::string w = R"("w": {"role":"param","dtype":"f32","shape":[2,3],)";
  const std::string top = R"({"file":"w00000.safetensors","begin":4096,"bytes":12,)"
                          R"("offset":[0,0],"shape":[1,3],"crc32c":["0x00000001"]})";
  const std::string bottom_place = R"("offset":[1,0],"shape":[1,3])";
  const std::string first_file = R"("w00000.safetensors": {)";
  const std::string moments = R"("exp_avg/w": )", run_id = R"("run_id": "run-5e1f")";
  const std::vector<Case> cases = {
      // The whole
      {"checkpoint/2", "checkpoint/3", "format \"switchyard-checkpoint/3\" found"},
      {"checkpoint/2", "checkpoint/0", "reads \"switchyard-checkpoint/1\" to \"2\""},
      {"checkpoint/2", "checkpoint/02", "format \"switchyard-checkpoint/02\" found"},
      {"\"switchyard-checkpoint/2\"", "2", "format 2 found"},
      {"\"format\"", "\"Format\"", "\"format\" is missing"},
      {run_id + ",", "", "\"run_id\" is missing"},
      {run_id, run_id + ", \"more\": 1", "\"more\" is not known"},
      {run_id, run_id + ", \"step\": 1", "\"step\" twice"},
      {run_id, "\"run_id\": 7", "run_id 7 found, expected a string"},
      {run_id, "\"run_id\": \"\"", "run_id \"\" found, expected up to 256 letters"},
      {run_id, R"("run_id": "../x")", "run_id \"../x\" found"},
      {"\"first\"", R"("a\u0000b")", "lineage \"a\\u0000b\" found"},
      {"\"attempt\": 2", "\"attempt\": -2", "attempt -2 found, expected a non-negative"},
      {"\"step\": 40", "\"step\": 40.0", "step 40.0 found, expected a non-negative"},
      {"\"step\": 40", "\"step\": 9223372036854775808", "step 9223372036854775808 found"},
      {"\"0.1.0\"", R"("\u001b[2J")",
       "code: version \"\\u001b[2J\" found, expected up to 256 printable"},
      {"\"code\":", "\"Code\":", "\"code\" is missing"},
      {"\"code\":", "\"version\": \"1\", \"code\":", "\"version\" is not known"},
      {"\"compiler\":\"GNU 12.2.0\",", "", "code: \"compiler\" is missing"},
      {"\"GNU 12.2.0\"", "12", "code: compiler 12 found, expected a string"},
      {"4dbde68-dirty", std::string(257, 'f'), "expected up to 256 printable"},
      {"Release: -O3", std::string(1025, 'O'), "expected up to 1024 printable"},
      {"\"config_sha256\":", "\"config_sha\":", "\"config_sha256\" is missing"},
      {config_sha256(small_manifest().config), std::string(64, '0'), "but that of \"config\" is "},
      {"\"y\":0.1", "\"y\":0.2", "but that of \"config\" is "},
      {"{\"dp\":2}", "[2]", "\"layout\" is no object"},
      {"{\"dp\":2}", "{\"dp\":1e999}", "not valid JSON"},
      {"{\"dp\":2}", std::string(40, '[') + std::string(40, ']'), "nested 33 deep, expected 32"},
      {"{\"dp\":2}", std::string(100'000, '['), "nested 33 deep, expected 32"},
      {"{\"dp\":2}", "{\"dp\":\"\xff\"}", "not valid JSON"},
      {"{\"dp\":2}", "{\"x\":[" + object_of_keys(1001) + "]}",
       "an object of 1001 keys, expected at most 1000"},
      // Files
      {first_file, R"("../w00000.safetensors": {)", "not a plain file name"},
      {first_file, R"("/w00000.safetensors": {)", "not a plain file name"},
      {first_file, R"("a/w00000.safetensors": {)", "not a plain file name"},
      {first_file, R"("..": {)", "not a plain file name"},
      {first_file, R"("": {)", "not a plain file name"},
      {first_file, R"("w\u0000": {)", "file \"w\\u0000\": not a plain file name"},
      {first_file, R"("w\n": {)", "file \"w\\n\": not a plain file name"},
      {first_file, R"("w@0": {)", "not a plain file name"},
      {first_file, "\"" + std::string(257, 'w') + "\": {", "not a plain file name"},
      {first_file, R"("w00001.safetensors": {)", "\"w00001.safetensors\" twice"},
      {first_file, R"("w00005.safetensors": {)", "\"w00000.safetensors\" is not among \"files\""},
      {"\"bytes\":4132,", "", "file \"w00000.safetensors\": \"bytes\" is missing"},
      {"\"bytes\":4132,", "\"bytes\":4095,", "a header of 4096 bytes in a file of 4095"},
      {"\"bytes\":4132,", "\"bytes\":4131,", "chunk 0: bytes 4108 + 24 are not in the data"},
      {"\"bytes\":4132,", "\"bytes\":4133,", "chunks up to byte 4132 of 4133"},
      {"0x00000005", "0x5", "header_crc32c \"0x5\" found, expected 0x and 8 lower-case"},
      {"0x00000005", "0x0000000A", "header_crc32c \"0x0000000A\" found"},
      {"0x00000005", "0x100000005", "header_crc32c \"0x100000005\" found"},
      // Tensors
      {w, R"("w x": {"role":"param","dtype":"f32","shape":[2,3],)", "has characters other than"},
      {w, R"("": {"role":"param","dtype":"f32","shape":[2,3],)", "has characters other than"},
      {w, "\"" + std::string(257, 'w') + R"(": {"role":"param","dtype":"f32","shape":[2,3],)",
       "or longer than 256"},
      {w, R"("w": {"role":"weight","dtype":"f32","shape":[2,3],)", "role \"weight\" is not known"},
      {w, R"("w": {"role":"master","dtype":"f32","shape":[2,3],)",
       "role \"master\", but by its name \"param\""},
      {moments, R"("exp_avg_sq/w": )", "role \"exp_avg\", but by its name \"exp_avg_sq\""},
      {w, R"("w": {"role":"param","dtype":"f16","shape":[2,3],)", "dtype \"f16\" is not known"},
      {w, R"("w": {"role":"param","dtype":"f32","shape":[2,-3],)", "shape [2,-3] found"},
      {w, R"("w": {"role":"param","dtype":"f32","shape":[2,3.0],)", "shape [2,3.0] found"},
      {w, R"("w": {"role":"param","dtype":"f32","shape":6,)", "shape 6 found"},
      {w, R"("w": {"role":"param","dtype":"f32","shape":[2,1,1,1,1,1,1,1,3],)", "more than 8"},
      {w, R"("w": {"role":"param","dtype":"f32","shape":[4294967296,4294967296],)", "2^63 bytes"},
      {w, R"("w": {"role":"param","dtype":"f32","shape":[2305843009213693952],)", "2^63 bytes"},
      {w, R"("w": {"role":"param","dtype":"f32","shape":[3,3],)",
       "do not cover all of shape (3, 3)"},
      {w, R"("w": {"role":"param","dtype":"f32","shape":[1,3],)", "chunk 1: offset [1,0]"},
      {w, R"("w": {"role":"param","dtype":"f32","shape":[6],)", "do not fit a tensor of shape (6)"},
      {w, R"("w": {"role":"param","dtype":"bf16","shape":[2,3],)",
       "12 bytes for bf16 of shape [1,3]"},
      {"0x8000000000000001", "8000000000000001", "expected 0x and 16 lower-case"},
      {"\"digest\":\"0x8000000000000001\",", "", "tensor \"w\": \"digest\" is missing"},
      // Chunks
      {"[" + top + ",", "7, \"x\": [", "\"x\" is not known"},
      {top, "7", "tensor \"w\", chunk 0: 7 found, expected an object"},
      {top + ",", "", "do not cover all"},
      {top, top + "," + top, "overlap or do not cover"},
      {bottom_place, R"("offset":[0,0],"shape":[1,3])", "overlap or do not cover"},
      {bottom_place, R"("offset":[1,0],"shape":[0,3])", "12 bytes for f32 of shape [0,3]"},
      {bottom_place, R"("offset":[9223372036854775807,0],"shape":[1,3])", "do not fit"},
      {bottom_place, R"("offset":[1,1],"shape":[1,3])", "do not fit"},
      {bottom_place, R"("offset":[1],"shape":[1,3])", "do not fit"},
      {R"("begin":4096,"bytes":12,"offset":[0,0])", R"("begin":0,"bytes":12,"offset":[0,0])",
       "bytes 0 + 12 are not in the data"},
      {R"("begin":4096,"bytes":12,"offset":[0,0])", R"("begin":4097,"bytes":12,"offset":[0,0])",
       "tensor \"w\" begins at byte 4097, expected 4096"},
      {R"("begin":4108,)", R"("begin":4104,)", "tensor \"exp_avg/w\" begins at byte 4104"},
      {R"("begin":4108,)", R"("begin":9223372036854775807,)", "are not in the data"},
      {R"("bytes":24,)", R"("bytes":9223372036854775807,)", "are not in the data"},
      {R"("bytes":24,)", R"("bytes":20,)", "20 bytes for f32 of shape [2,3]"},
      {R"(["0x00000001"])", "[]", "expected a list of 1 checksums for 12 bytes"},
      {R"(["0x00000001"])", R"(["0x00000001","0x00000001"])", "expected a list of 1 checksums"},
      {R"(["0x00000001"])", R"("0x00000001")", "expected a list of 1 checksums"},
      {R"(["0x00000001"])", "[1]", "crc32c 1 found, expected 0x and 8"},
  };
  for (const auto& [old_text, new_text, complaint] : cases) {
    INFO(old_text + " -> " + new_text.substr(0, 200));
    const std::string said = complaint_about(text_with(old_text, new_text));
    CHECK_THAT(said, contains_text(complaint) && contains_text("RUN/manifest.json: "));
    CHECK(said.size() < 1000);
  }
}

TEST_CASE("manifest: a text that does not end in its own checksum is refused") {
  const std::string text = to_json(small_manifest());
  for (size_t bytes = 0; bytes < text.size(); ++bytes) complaint_about(text.substr(0, bytes));
  complaint_about(text + "\n");
  complaint_about(text + text);
  complaint_about(text + std::string(1, '\0'));
  std::string upper_case = text;
  for (size_t i = text.size() - 11; i < text.size(); ++i)
    upper_case[i] = static_cast<char>(std::toupper(upper_case[i]));
  REQUIRE(upper_case != text);
  REQUIRE_THAT(complaint_about(upper_case), contains_text("does not end in its checksum"));
  REQUIRE_THAT(complaint_about("{\"format\": \"switchyard-checkpoint/12\"}"),
               contains_text("format \"switchyard-checkpoint/12\" found"));
}

TEST_CASE("manifest: a format to come is told from a manifest that is damaged") {
  const std::string text = to_json(small_manifest());
  const auto of_format = [&](const std::string& version) {
    std::string body = text.substr(0, text.size() - checksum_ending(0).size());
    body.replace(body.find("checkpoint/2") + 11, 1, version);
    return body;
  };
  REQUIRE(is_newer_manifest(with_checksum(of_format("3"))));
  REQUIRE(is_newer_manifest(with_checksum(of_format("12"))));
  REQUIRE(is_newer_manifest(of_format("3") + "}"));  // it may end in some other way
  REQUIRE_FALSE(is_newer_manifest(text));
  REQUIRE_FALSE(is_newer_manifest(with_checksum(of_format("0"))));
  REQUIRE_FALSE(is_newer_manifest(with_checksum(of_format("1"))));
  REQUIRE_FALSE(is_newer_manifest(with_checksum(of_format("x"))));
  REQUIRE_FALSE(is_newer_manifest("switchyard-checkpoint/3"));
  std::string flipped = text;
  flipped[flipped.find("checkpoint/2") + 11] = '3';
  REQUIRE_FALSE(is_newer_manifest(flipped));
}

TEST_CASE("LATEST: what is written is read back, and what is not, is refused") {
  const Latest latest{.step = 40, .directory = "step-000000040", .manifest_sha256 = sha256("")};
  const std::string text = to_json(latest);
  REQUIRE(text == "{\"step\":40,\"directory\":\"step-000000040\",\"manifest_sha256\":\"" +
                      sha256("") + "\"}\n");
  REQUIRE(to_json(parse_latest(text, "")) == text);
  const std::string before = "{\"step\":40,\"directory\":\"step-000000040\"}\n";
  REQUIRE(to_json(parse_latest(before, "")) == before);
  const std::pair<std::string, std::string> wrong[] = {
      {"", "the file is not a JSON object"},
      {"{}", "\"step\" is missing"},
      {"{\"step\":-1,\"directory\":\"step-000000040\"}", "step -1 found"},
      {"{\"step\":41,\"directory\":\"step-000000040\"}", "found for step 41"},
      {"{\"step\":40,\"directory\":\"../step-000000040\"}", "found for step 40"},
      {"{\"step\":40,\"directory\":\"step-000000040\",\"x\":1}", "\"x\" is not known"},
      {"{\"step\":40,\"directory\":\"step-000000040\",\"manifest_sha256\":\"\"}",
       "expected 64 lower-case"}};
  for (const auto& [one, complaint] : wrong) {
    INFO(one);
    CHECK_THAT(data_error([&] { parse_latest(one, "RUN/LATEST"); }),
               contains_text("RUN/LATEST") && contains_text(complaint));
  }
}

TEST_CASE("manifest: boxes cover a tensor once, or it is noticed") {
  REQUIRE(cover({{{}, {}}}, {}));
  REQUIRE_FALSE(cover({}, {}));
  REQUIRE_FALSE(cover({{{}, {}}, {{}, {}}}, {}));
  REQUIRE(cover({}, {3, 0}));
  REQUIRE(cover({box1(0, 2), box1(5, 6), box1(2, 5)}, {6}));
  REQUIRE_FALSE(cover({box1(0, 2), box1(5, 6), box1(2, 4)}, {6}));
  REQUIRE_FALSE(cover({box1(0, 3), box1(2, 3), box1(4, 6)}, {6}));  // as many, not the same
  REQUIRE_FALSE(cover({box1(0, 6), box1(2, 3), box1(3, 4)}, {6}));
  // Four boxes around a fifth: no straight cut parts them.
  const std::vector<Box> wheel = {
      {{0, 0}, {1, 2}}, {{0, 2}, {2, 1}}, {{2, 1}, {1, 2}}, {{1, 0}, {2, 1}}, {{1, 1}, {1, 1}}};
  REQUIRE(cover(wheel, {3, 3}));
  for (size_t left_out = 0; left_out < wheel.size(); ++left_out) {
    std::vector<Box> boxes = wheel;
    boxes[left_out] = wheel[(left_out + 2) % wheel.size()];  // often of the same size
    REQUIRE_FALSE(cover(boxes, {3, 3}));
  }
}

TEST_CASE("manifest: a hundred thousand chunks of one tensor are read in seconds") {
  Manifest manifest = small_manifest();
  const int64_t count = 100'000;
  SavedTensor& tensor = manifest.tensors["many"];
  tensor = {.dtype = DType::kU8, .shape = {1, count}};
  manifest.files["w00002.safetensors"] = {count, 0, 0};
  for (int64_t i = 0; i < count; ++i)
    tensor.chunks.push_back({"w00002.safetensors", i, 1, {{0, i}, {1, 1}}, {7}});
  const auto begin = std::chrono::steady_clock::now();
  REQUIRE(parse_manifest(to_json(manifest), "").tensors.at("many").chunks.size() == 100'000);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  CHECK(seconds.count() < 10);  // comparing all pairs takes minutes
  std::swap(tensor.chunks[5].box, tensor.chunks[99'000].box);
  tensor.chunks[7].box = tensor.chunks[8].box;
  REQUIRE_THAT(complaint_about(to_json(manifest)), contains_text("its 100000 chunks overlap"));
}

TEST_CASE("manifest: a directory without one, or with something else in its place") {
  const TemporaryDirectory directory;
  const auto complaint = [&] { return data_error([&] { CheckpointReader{directory.file("")}; }); };
  const std::string path = directory.file(kManifestFile);
  REQUIRE_THAT(complaint(), contains_text("manifest.json: the file is missing"));
  std::filesystem::create_directory(path);
  REQUIRE_THAT(complaint(), contains_text("something else found, expected a file"));
  std::filesystem::remove(path);
  write_bytes(directory.file("elsewhere"), to_json(small_manifest()));
  std::filesystem::create_symlink(directory.file("elsewhere"), path);
  REQUIRE_THAT(complaint(), contains_text("a symbolic link found, expected a file"));
  std::filesystem::remove(path);
  write_bytes(path, "");
  std::filesystem::resize_file(path, static_cast<uintmax_t>(kMaxManifestBytes) + 1);
  REQUIRE_THAT(complaint(), contains_text("268435457 bytes found, expected at most 268435456"));
}
