// SafetensorsFile on broken files: each rule of the format, broken alone, is refused as a data
// error that names the file and the fault; no bytes whatever make the reader fail in any other way.
#include <cstring>
#include <string>
#include <vector>

#include "checkpoint/safetensors.h"
#include "support/catch.h"
#include "support/temporary_directory.h"

using namespace switchyard;
using switchyard::test::contains_text;
using switchyard::test::TemporaryDirectory;
using switchyard::test::write_bytes;

namespace {

std::string with_length(uint64_t header_bytes, const std::string& rest) {
  std::string length(8, '\0');
  std::memcpy(length.data(), &header_bytes, 8);
  return length + rest;
}

std::string file_of(const std::string& header, size_t data_bytes) {
  return with_length(header.size(), header + std::string(data_bytes, 'd'));
}

// "" if the file is read without complaint; any exception but a data error is a failure.
std::string complaint_about(const std::string& bytes) {
  static const TemporaryDirectory directory;
  const std::string path = directory.file("file");
  write_bytes(path, bytes);
  try {
    const SafetensorsFile file(path);
    for (const std::string& name : file.names()) file.read(name);
  } catch (const Error& error) {
    if (error.code() != ExitCode::kData) throw;
    if (std::strstr(error.what(), path.c_str()) == nullptr) throw;
    return error.what();
  }
  return "";
}

const std::string kGood = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                          R"("b":{"dtype":"U8","shape":[3],"data_offsets":[8,11]}})";

// kGood with the only occurrence of `old_text` replaced.
std::string good_but(const std::string& old_text, const std::string& new_text) {
  std::string header = kGood;
  const size_t at = header.find(old_text);
  if (at == std::string::npos || header.find(old_text, at + 1) != std::string::npos)
    throw std::logic_error("not exactly once in the header: " + old_text);
  return header.replace(at, old_text.size(), new_text);
}

}  // namespace

TEST_CASE("safetensors: what the format allows is read") {
  REQUIRE(complaint_about(file_of(kGood, 11)).empty());
  REQUIRE(complaint_about(file_of(kGood + "     ", 11)).empty());
  REQUIRE(complaint_about(file_of("{}", 0)).empty());
  REQUIRE(complaint_about(file_of(good_but("[2]", "[2,1,1,1,1,1]"), 11)).empty());
  // An empty tensor may lie between two others, and at the end.
  const std::string empty = R"("e":{"dtype":"F64","shape":[0,5],"data_offsets":)";
  REQUIRE(complaint_about(file_of("{" + empty + "[8,8]}," + kGood.substr(1), 11)).empty());
  REQUIRE(complaint_about(file_of("{" + empty + "[11,11]}," + kGood.substr(1), 11)).empty());
}

TEST_CASE("safetensors: each broken rule is named") {
  struct Case {
    std::string bytes, complaint;
  };
  const std::string repeated = kGood.substr(0, kGood.size() - 1) + "," + kGood.substr(1);
  const std::vector<Case> cases = {
      {"", "0 bytes found"},
      {"1234567", "7 bytes found"},
      {with_length(100'000'001, kGood), "100000001"},
      {with_length(UINT64_MAX, kGood), "18446744073709551615"},
      {with_length(kGood.size() + 1, kGood), "the header alone ends at byte"},
      {file_of("", 0), "not a JSON object"},
      {file_of(" " + kGood, 11), "not a JSON object"},
      {file_of("[]", 0), "not a JSON object"},
      {file_of(kGood + std::string(1, '\0'), 11), "not a JSON object"},
      {file_of(kGood + "x", 11), "not valid JSON"},
      {file_of(kGood.substr(0, 30), 11), "not valid JSON"},
      {file_of(good_but("\"b\"", "\"\xff\""), 11), "not valid JSON"},
      {file_of(repeated, 11), "\"a\" twice"},
      {file_of(good_but("\"b\"", "\"a\""), 11), "\"a\" twice"},
      {file_of(good_but("[2],", "[2],\"shape\":[2],"), 11), "\"shape\" twice"},
      {file_of(good_but("F32", "F16"), 11), "\"F16\" found, expected one of F32, F64, BF16"},
      {file_of(good_but("\"F32\"", "4"), 11), "dtype 4 found"},
      {file_of(good_but("\"dtype\":\"F32\",", ""), 11), "expected an object of dtype"},
      {file_of(good_but("[2],", "[2],\"extra\":1,"), 11), "expected an object of dtype"},
      {file_of(R"({"a":[1,2,3]})", 0), "expected an object of dtype"},
      {file_of(good_but("[2]", "2"), 11), "shape 2 found"},
      {file_of(good_but("[2]", "[-2]"), 11), "shape [-2] found"},
      {file_of(good_but("[2]", "[2.0]"), 11), "shape [2.0] found"},
      {file_of(good_but("[2]", "[9223372036854775808]"), 11), "expected a list of non-negative"},
      {file_of(good_but("[2]", "[3]"), 11), "do not enclose a tensor of dtype F32 and shape [3]"},
      {file_of(good_but("[2]", "[]"), 11), "do not enclose"},
      {file_of(good_but("[2]", "[4611686018427387904,4]"), 11), "do not enclose"},
      {file_of(good_but("[2]", "[4611686018427387906]"), 11), "do not enclose"},
      {file_of(good_but("[0,8]", "[0,8,8]"), 11), "do not enclose"},
      {file_of(good_but("[0,8]", "[8]"), 11), "do not enclose"},
      {file_of(good_but("[0,8]", "[8,0]"), 11), "do not enclose"},
      {file_of(good_but("[0,8]", "[1,9]"), 11), "begins at byte 1, expected 0"},
      {file_of(good_but("[8,11]", "[9,12]"), 12), "begins at byte 9, expected 8"},
      {file_of(good_but("[8,11]", "[7,10]"), 10), "begins at byte 7, expected 8"},
      {file_of(good_but("[8,11]", "[0,3]"), 8), "overlap or leave a hole"},
      {file_of(kGood, 10), "10 bytes of data found, expected 11"},
      {file_of(kGood, 12), "12 bytes of data found, expected 11"},
      {file_of("{}", 1), "1 bytes of data found, expected 0"},
      {file_of(R"({"__metadata__":{"step":3}})", 0), "\"step\" is 3, expected a string"},
      {file_of(R"({"__metadata__":["step"]})", 0), "__metadata__ is not a JSON object"},
      {file_of(R"({"__metadata__":{"k":"1","k":"2"}})", 0), "\"k\" twice"},
      // Lengths of the header
      {with_length(0, ""), "not a JSON object"},
      {with_length(0, kGood), "not a JSON object"},
      {with_length(1, kGood), "not valid JSON"},
      {with_length(7, kGood), "not valid JSON"},
      {with_length(uint64_t{1} << 63, kGood), "9223372036854775808"},
      // Sizes that wrap around
      {file_of(R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0),
       "do not enclose"},
      {file_of(R"({"a":{"dtype":"F32","shape":[4611686018427387905],"data_offsets":[0,4]}})", 4),
       "do not enclose"},
      {file_of(R"({"a":{"dtype":"U8","shape":[0,18446744073709551615],"data_offsets":[0,0]}})", 0),
       "shape [0,18446744073709551615] found"},
      {file_of(R"({"a":{"dtype":"U8","shape":[18446744073709551616],"data_offsets":[0,0]}})", 0),
       "shape [1.8446744073709552e+19] found"},
      {file_of(R"({"a":{"dtype":"U8","shape":[1e400],"data_offsets":[0,0]}})", 0),
       "not valid JSON"},
      {file_of(good_but("[0,8]", "[-8,0]"), 11), "data_offsets [-8,0] found"},
      {file_of(good_but("[0,8]", "[0,9223372036854775808]"), 11), "data_offsets [0,92233"},
      {file_of(good_but("[0,8]", "[9223372036854775799,9223372036854775807]"), 11),
       "begins at byte"},
      {file_of(good_but("[8,11]", "[100,103]"), 11), "begins at byte 100, expected 8"},
      // Text
      {file_of("\xef\xbb\xbf" + kGood, 11), "not a JSON object"},
      {file_of(good_but("\"b\"", "/* b */ \"b\""), 11), "not valid JSON"},
      {file_of(good_but("[2]", "[NaN]"), 11), "not valid JSON"},
      {file_of(good_but("\"b\"", R"("\ud800")"), 11), "not valid JSON"},
      {file_of(good_but("\"b\"", "\"\xc0\xaf\""), 11), "not valid JSON"},  // '/' in two bytes
      {file_of(good_but("\"b\"", "\"b\n\""), 11), "not valid JSON"},
      {file_of(good_but("\"b\"", R"("\u0061")"), 11), "\"a\" twice"},
      {file_of(good_but("\"F32\"", "\"f32\""), 11), "\"f32\" found, expected one of"},
      {file_of(good_but("\"F32\"", "\"F4\""), 11), "\"F4\" found, expected one of"},
      {file_of(good_but("\"F32\"", "null"), 11), "dtype null found, expected a string"},
      {file_of(good_but("\"a\"", R"("\u001b[2J\u0000\n")") + "x", 11), "not valid JSON"},
      {file_of(good_but("[0,8]", "[1,9]").replace(2, 1, R"(\u001b\n)"), 11),
       R"(tensor "\u001b\n" begins at byte 1)"},
  };
  for (const auto& [bytes, complaint] : cases) {
    INFO(complaint);
    CHECK_THAT(complaint_about(bytes), contains_text(complaint));
  }
}

TEST_CASE("safetensors: names may be anything, messages stay short and on one line") {
  for (const std::string name : {R"(\u0000)", R"(\n\u001b[2J)", "../x", "/", " "})
    CHECK(complaint_about(file_of(good_but("\"a\"", "\"" + name + "\""), 11)).empty());
  const std::string long_name(1 << 20, 'n');
  CHECK(complaint_about(file_of(good_but("\"a\"", "\"" + long_name + "\""), 11)).empty());
  const std::string wrong = good_but("[0,8]", "[1,9]");
  const std::string said = complaint_about(file_of("{\"" + long_name + wrong.substr(3), 11));
  CHECK_THAT(said, contains_text("begins at byte 1"));
  CHECK(said.size() < 1000);
  const std::string in_dtype = good_but("\"F32\"", "\"\x7f\\n" + long_name + "\"");
  const std::string of_dtype = complaint_about(file_of(in_dtype, 11));
  CHECK(of_dtype.size() < 1000);
  CHECK(of_dtype.find('\n') == std::string::npos);
}

TEST_CASE("safetensors: a hundred thousand tensors are read") {
  std::string header = "{";
  for (int i = 0; i < 100'000; ++i)
    header += fmt::format("{}\"{}\":{{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[{},{}]}}",
                          i == 0 ? "" : ",", i, i, i + 1);
  REQUIRE(complaint_about(file_of(header + "}", 100'000)).empty());
  REQUIRE_THAT(complaint_about(file_of(header + "}", 99'999)), contains_text("99999 bytes"));
}

TEST_CASE("safetensors: a file cut off anywhere is refused") {
  const std::string bytes = file_of(kGood + "   ", 11);
  for (size_t length = 0; length < bytes.size(); ++length) {
    INFO(length);
    REQUIRE_FALSE(complaint_about(bytes.substr(0, length)).empty());
  }
  REQUIRE_FALSE(complaint_about(bytes + "d").empty());
}

TEST_CASE("safetensors: no single wrong byte does worse than a data error") {
  const std::string bytes = file_of(kGood, 11);
  const std::string values = std::string("\0\x1\x7f\x80\xc3\xff", 6) + " \"\\,:[]{}-+.e019FIt";
  for (size_t at = 0; at < bytes.size(); ++at) {
    for (const char value : values) {
      std::string wrong = bytes;
      wrong[at] = value;
      complaint_about(wrong);  // any other exception fails the test
    }
  }
}

TEST_CASE("safetensors: deep nesting is refused without exhausting the stack") {
  const std::string open = "{\"a\":" + std::string(1'000'000, '[');
  REQUIRE_THAT(complaint_about(file_of(open, 0)), contains_text("nested"));
  const std::string closed = open + std::string(1'000'000, ']') + "}";
  REQUIRE_THAT(complaint_about(file_of(closed, 0)), contains_text("nested"));
}
