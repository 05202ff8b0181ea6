#include "train/metrics_file.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <optional>
#include <span>
#include <string_view>

#include "checkpoint/file.h"
#include "core/error.h"

namespace switchyard {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kStands = "\"superseded\":false}", kSuperseded = "\"superseded\":true }";
static_assert(kStands.size() == kSuperseded.size());

std::optional<Json> parse_line(const std::string& line) {
  Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return std::nullopt;
  return json;
}

// The lines of a file from its end to its beginning, read in blocks.
class LinesBackwards {
 public:
  explicit LinesBackwards(const File& file) : file_(file), begin_(file.size()), end_(begin_) {}

  struct Line {
    int64_t begin = 0, end = 0;  // in the file
    std::string text = {};       // without the line's end
    bool is_whole = false;       // it has one
  };

  std::optional<Line> next() {
    if (end_ == 0) return std::nullopt;
    const bool is_whole = at(end_ - 1) == '\n';
    int64_t begin = end_ - (is_whole ? 1 : 0);
    const int64_t text_end = begin;
    while (begin > 0 && at(begin - 1) != '\n') --begin;
    Line line = {.begin = begin,
                 .end = end_,
                 .text = text_.substr(static_cast<size_t>(begin - begin_),
                                      static_cast<size_t>(text_end - begin)),
                 .is_whole = is_whole};
    text_.resize(static_cast<size_t>(begin - begin_));
    end_ = begin;
    return line;
  }

 private:
  char at(int64_t offset) {
    constexpr int64_t kBlock = 1 << 16;
    if (offset < begin_) {
      const int64_t size = std::min(begin_, std::max(kBlock, begin_ - offset));
      std::string block(static_cast<size_t>(size), '\0');
      file_.read_at(begin_ - size, std::as_writable_bytes(std::span(block)));
      text_.insert(0, block);
      begin_ -= size;
    }
    return text_[static_cast<size_t>(offset - begin_)];
  }

  const File& file_;
  int64_t begin_;     // of text_ in the file
  int64_t end_;       // of the lines not given yet
  std::string text_;  // what has been read of them
};

void mark(File& file, const LinesBackwards::Line& line) {
  const auto end = line.begin + static_cast<int64_t>(line.text.size());
  file.write_at(end - static_cast<int64_t>(kSuperseded.size()),
                std::as_bytes(std::span(kSuperseded)));
}

}  // namespace

std::string stamped(const std::string& object, int64_t attempt) {
  return fmt::format("{},\"attempt\":{},{}", object.substr(0, object.size() - 1), attempt, kStands);
}

ResumedMetrics resume_metrics(const std::string& path, int64_t step) {
  ResumedMetrics resumed = {.furthest_step = step};
  if (!std::filesystem::exists(path)) return resumed;
  File file = File::open_to_change(path);
  const int64_t size = file.size();
  int64_t end = size;  // of the lines that are whole
  LinesBackwards lines(file);
  while (const std::optional<LinesBackwards::Line> line = lines.next()) {
    const std::optional<Json> json = line->is_whole ? parse_line(line->text) : std::nullopt;
    // Torn; or, where power was lost, never written.
    if (!json && line->end == end) end = line->begin;
    if (!json) continue;
    if (!line->text.ends_with(kStands)) continue;  // superseded before
    const int64_t its_step = json->value("step", int64_t{0});
    if (its_step <= step) break;  // and so are those before it that stand
    mark(file, *line);
    ++resumed.superseded_lines;
    resumed.furthest_step = std::max(resumed.furthest_step, its_step);
  }
  resumed.torn_bytes = size - end;
  if (resumed.torn_bytes > 0) file.cut_at(end);
  file.sync();
  return resumed;
}

std::vector<Json> read_metrics(const std::string& path) {
  std::ifstream file(path);
  SY_REQUIRE(kStorage, file.is_open(), "cannot open {}", path);
  std::vector<Json> standing;
  std::string line;
  while (std::getline(file, line)) {
    std::optional<Json> json = parse_line(line);
    if (!json && file.peek() == std::ifstream::traits_type::eof()) break;
    SY_REQUIRE(kData, json, "{}: this line is no JSON object: {}", path, line.substr(0, 80));
    if (!json->value("superseded", false)) standing.push_back(std::move(*json));
  }
  return standing;
}

}  // namespace switchyard
