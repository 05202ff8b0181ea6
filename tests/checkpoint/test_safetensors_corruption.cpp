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
  };
  for (const auto& [bytes, complaint] : cases) {
    INFO(complaint);
    CHECK_THAT(complaint_about(bytes), contains_text(complaint));
  }
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
