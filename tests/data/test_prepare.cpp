#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <filesystem>

#include "data/data_files.h"
#include "data/prepare.h"
#include "data/tokenizer.h"
#include "support/catch.h"

using namespace switchyard;
using namespace switchyard::test;
namespace fs = std::filesystem;

namespace {

const auto no_progress = [](int64_t, int64_t) {};

// A directory with input files, and "out" as output prefix.
struct Workplace {
  TemporaryDirectory directory;
  std::string out = directory.file("out");

  std::string add(const std::string& name, const std::string& content) const {
    write_bytes(directory.file(name), content);
    return directory.file(name);
  }
  PrepareOptions options(std::vector<std::string> inputs) const {
    return {.inputs = std::move(inputs), .output_prefix = out};
  }
  bool has_output() const { return fs::exists(out + ".bin") || fs::exists(out + ".idx"); }
  bool has_temporaries() const {
    return fs::exists(out + ".bin.tmp") || fs::exists(out + ".idx.tmp");
  }
};

// The documents of a pair as text; a document must end with the end-of-document token.
std::vector<std::string> documents_of(const std::string& prefix) {
  const TokenFile file(prefix);
  std::vector<std::string> documents(1);
  for (int64_t i = 0; i < file.num_tokens(); ++i)
    if (file.token(i) == ByteTokenizer::kEndOfDocument)
      documents.emplace_back();
    else
      documents.back().push_back(static_cast<char>(file.token(i)));
  REQUIRE(documents.back().empty());
  documents.pop_back();
  REQUIRE(file.num_documents() == static_cast<int64_t>(documents.size()));
  return documents;
}

// A text that does not repeat at any chunk border.
std::string long_text(size_t bytes) {
  std::string text;
  for (size_t i = 0; text.size() < bytes; ++i) text += std::to_string(i * i) + "\n";
  text.resize(bytes);
  return text;
}

}  // namespace

TEST_CASE("prepare: text files are one document each, in the order given") {
  const Workplace work;
  const std::vector<std::string> texts = {"second\nfile\n", std::string("\0\xff\r\n", 4), "",
                                          "no newline"};
  std::vector<std::string> inputs;
  for (size_t i = 0; i < texts.size(); ++i)
    inputs.push_back(work.add(std::to_string(9 - i) + ".txt", texts[i]));
  const PrepareReport report = prepare(work.options(inputs), no_progress);
  CHECK(documents_of(work.out) == texts);
  CHECK(report.documents == 4);
  CHECK(report.bytes == 12 + 4 + 10);
  CHECK(report.tokens == report.bytes + 4);
  CHECK_FALSE(work.has_temporaries());
}

TEST_CASE("prepare: long texts are streamed, with progress") {
  for (const size_t bytes : {(size_t{1} << 20) - 1, size_t{1} << 20, (size_t{5} << 19) + 3}) {
    const Workplace work;
    const std::string text = long_text(bytes);
    std::vector<int64_t> heard;
    prepare(work.options({work.add("long.txt", text)}), [&](int64_t done, int64_t total) {
      REQUIRE(total == static_cast<int64_t>(bytes));
      heard.push_back(done);
    });
    CHECK(documents_of(work.out) == std::vector<std::string>{text});
    CHECK(heard.size() == (bytes + (1 << 20) - 1) >> 20);
    CHECK(std::is_sorted(heard.begin(), heard.end()));
    CHECK(heard.back() == static_cast<int64_t>(bytes));
  }
}

TEST_CASE("prepare: JSONL is one document per line; blank lines are none") {
  const Workplace work;
  const std::string lines =
      "{\"text\": \"first \\u00e9\\n\", \"id\": 1}\n"
      "\n"
      "  {\"id\": {\"text\": \"no\"}, \"text\": \"\"}\r\n"
      " \t\n"
      "{\"text\": \"last, no newline\"}";
  const PrepareReport report = prepare(work.options({work.add("a.jsonl", lines)}), no_progress);
  CHECK(documents_of(work.out) ==
        std::vector<std::string>{"first \xc3\xa9\n", "", "last, no newline"});
  CHECK(report.documents == 3);
  CHECK(report.bytes == static_cast<int64_t>(lines.size()));
}

TEST_CASE("prepare: another key, and text and JSONL together") {
  const Workplace work;
  PrepareOptions options =
      work.options({work.add("a.jsonl", "{\"body\": \"x\", \"text\": \"y\"}\n"),
                    work.add("b.txt", "{\"body\": \"z\"}")});
  options.json_key = "body";
  prepare(options, no_progress);
  CHECK(documents_of(work.out) == std::vector<std::string>{"x", "{\"body\": \"z\"}"});
}

TEST_CASE("prepare: a bad line is named by file and number, and leaves no output") {
  const std::string good = "{\"text\": \"good\"}\n\n";
  struct Case {
    std::string line;
    const char* message;
  };
  for (const Case& bad :
       {Case{"{\"text\": \"open", "not a JSON object"}, Case{"[\"text\"]", "not a JSON object"},
        Case{"\"text\"", "not a JSON object"}, Case{"{\"text\": \"\xff\"}", "not a JSON object"},
        Case{"{\"text\": \"a\"} {\"text\": \"b\"}", "not a JSON object"},
        Case{"{\"body\": \"x\"}", "no string under the key \"text\""},
        Case{"{\"text\": 3}", "no string"}, Case{"{\"text\": null}", "no string"},
        Case{"{\"text\": [\"x\"]}", "no string"}}) {
    const Workplace work;
    const std::string path = work.add("a.jsonl", good + bad.line + "\n" + good);
    const Error error = error_of([&] { prepare(work.options({path}), no_progress); });
    CAPTURE(bad.line);
    CHECK(error.code() == ExitCode::kData);
    CHECK_THAT(error.what(), contains_text(path + ":3: ") && contains_text(bad.message));
    CHECK_FALSE(work.has_output());
    CHECK_FALSE(work.has_temporaries());
  }
}

TEST_CASE("prepare: the message about a missing key names the key and the option") {
  const Workplace work;
  PrepareOptions options = work.options({work.add("a.jsonl", "{\"text\": \"x\"}\n")});
  options.json_key = "content";
  CHECK_THROWS_WITH(prepare(options, no_progress),
                    contains_text("\"content\"") && contains_text("--json-key"));
}

TEST_CASE("prepare: an existing output is refused, and replaced by force") {
  const Workplace work;
  PrepareOptions options = work.options({work.add("a.txt", "new")});
  for (const char* extension : {".bin", ".idx"}) {
    write_bytes(work.out + extension, "old");
    const Error error = error_of([&] { prepare(options, no_progress); });
    CHECK(error.code() == ExitCode::kStorage);
    CHECK_THAT(error.what(), contains_text(work.out + extension) && contains_text("--force"));
    CHECK(read_bytes(work.out + extension) == "old");
    fs::remove(work.out + extension);
  }
  write_bytes(work.out + ".bin", "old");
  write_bytes(work.out + ".idx", "old");
  options.force = true;
  prepare(options, no_progress);
  CHECK(documents_of(work.out) == std::vector<std::string>{"new"});
}

TEST_CASE("prepare: an input that is missing or no file") {
  const Workplace work;
  const std::string good = work.add("a.txt", "x");
  for (const std::string& bad : {work.directory.file("missing.txt"), work.directory.file(".")}) {
    const Error error = error_of([&] { prepare(work.options({good, bad}), no_progress); });
    CHECK(error.code() == ExitCode::kData);
    CHECK_THAT(error.what(), contains_text(bad));
    CHECK_FALSE(work.has_output());
    CHECK_FALSE(work.has_temporaries());
  }
}

TEST_CASE("prepare: what fails half-way leaves an older output as it was") {
  const Workplace work;
  PrepareOptions options = work.options({work.add("a.txt", "old")});
  prepare(options, no_progress);
  const std::string index = read_bytes(work.out + ".idx"), tokens = read_bytes(work.out + ".bin");
  options.inputs = {work.add("long.txt", long_text(3 << 20)), work.add("b.jsonl", "{]\n")};
  options.force = true;
  CHECK_THROWS_AS(prepare(options, no_progress), Error);
  CHECK(read_bytes(work.out + ".idx") == index);
  CHECK(read_bytes(work.out + ".bin") == tokens);
  CHECK_FALSE(work.has_temporaries());
}

TEST_CASE("prepare: a killed run leaves no output, and the next one is not in its way") {
  const Workplace work;
  const PrepareOptions options = work.options({work.add("long.txt", long_text(3 << 20))});
  const pid_t child = fork();
  if (child == 0) {
    prepare(options, [](int64_t done, int64_t) {
      if (done > 1 << 20) raise(SIGKILL);
    });
    _exit(0);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  REQUIRE(WIFSIGNALED(status));
  CHECK_FALSE(work.has_output());
  prepare(options, no_progress);
  CHECK(documents_of(work.out) == std::vector<std::string>{long_text(3 << 20)});
  CHECK_FALSE(work.has_temporaries());
}

TEST_CASE("prepare: a full disk is an error of storage and leaves no output") {
  for (const char* full : {".bin.tmp", ".idx.tmp"}) {
    const Workplace work;
    fs::create_symlink("/dev/full", work.out + full);
    const PrepareOptions options = work.options({work.add("a.txt", "text")});
    const Error error = error_of([&] { prepare(options, no_progress); });
    CHECK(error.code() == ExitCode::kStorage);
    CHECK_FALSE(work.has_output());
    CHECK_FALSE(work.has_temporaries());
  }
}
