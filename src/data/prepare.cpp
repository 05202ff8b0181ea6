#include "data/prepare.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "data/token_file.h"
#include "data/tokenizer.h"

namespace switchyard {
namespace {

namespace fs = std::filesystem;

constexpr size_t kChunkBytes = size_t{1} << 20;

class Preparation {
 public:
  Preparation(const PrepareOptions& options, const std::function<void(int64_t, int64_t)>& progress)
      : options_(options),
        progress_(progress),
        writer_(options.output_prefix, tokenizer_.vocab_size()) {
    for (const std::string& input : options.inputs)
      total_bytes_ += static_cast<int64_t>(fs::file_size(input));
  }

  PrepareReport run() {
    for (const std::string& input : options_.inputs)
      fs::path(input).extension() == ".jsonl" ? add_json_lines(input) : add_text(input);
    writer_.finish();
    return {
        .documents = writer_.num_documents(), .tokens = writer_.num_tokens(), .bytes = done_bytes_};
  }

 private:
  void add_text(const std::string& path) {
    std::ifstream file = open(path);
    std::string chunk(kChunkBytes, '\0');
    while (file.read(chunk.data(), static_cast<std::streamsize>(chunk.size())) ||
           file.gcount() > 0) {
      const std::string_view text(chunk.data(), static_cast<size_t>(file.gcount()));
      writer_.add_tokens(tokenizer_.encode(text));
      advance(text.size());
    }
    check_read(file, path);
    end_document();
  }

  void add_json_lines(const std::string& path) {
    std::ifstream file = open(path);
    std::string line;
    for (int64_t number = 1; std::getline(file, line); ++number) {
      advance(line.size() + (file.eof() ? 0 : 1));  // the last line may have no newline
      if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
      writer_.add_tokens(tokenizer_.encode(text_of(line, path, number)));
      end_document();
    }
    check_read(file, path);
  }

  static std::ifstream open(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    SY_REQUIRE(kData, file.is_open(), "{}: cannot open", path);
    return file;
  }

  static void check_read(const std::ifstream& file, const std::string& path) {
    SY_REQUIRE(kData, !file.bad(), "{}: reading failed", path);
  }

  std::string text_of(const std::string& line, const std::string& path, int64_t number) const {
    const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    SY_REQUIRE(kData, json.is_object(), "{}:{}: not a JSON object: {:.60}", path, number, line);
    const auto text = json.find(options_.json_key);
    SY_REQUIRE(kData, text != json.end() && text->is_string(),
               "{}:{}: no string under the key \"{}\" (--json-key chooses another)", path, number,
               options_.json_key);
    return text->get<std::string>();
  }

  void end_document() {
    const int32_t end = tokenizer_.end_of_document();
    writer_.add_tokens({&end, 1});
    writer_.end_document();
  }

  void advance(size_t bytes) {
    done_bytes_ += static_cast<int64_t>(bytes);
    progress_(std::min(done_bytes_, total_bytes_), total_bytes_);
  }

  const PrepareOptions& options_;
  const std::function<void(int64_t, int64_t)>& progress_;
  ByteTokenizer tokenizer_;
  TokenFileWriter writer_;
  int64_t done_bytes_ = 0, total_bytes_ = 0;
};

void check_paths(const PrepareOptions& options) {
  for (const std::string& input : options.inputs)
    SY_REQUIRE(kData, fs::is_regular_file(input), "{}: no such file", input);
  for (const char* extension : {".bin", ".idx"}) {
    const std::string path = options.output_prefix + extension;
    SY_REQUIRE(kStorage, options.force || !fs::exists(path),
               "{} exists already: choose another --output, or --force to overwrite it", path);
  }
}

}  // namespace

PrepareReport prepare(const PrepareOptions& options,
                      const std::function<void(int64_t done, int64_t total)>& progress) {
  check_paths(options);
  return Preparation(options, progress).run();
}

}  // namespace switchyard
