#include "model/name_pattern.h"

#include <algorithm>
#include <charconv>
#include <numeric>
#include <optional>
#include <utility>

#include "core/error.h"

namespace switchyard {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// Of digits as a program writes them: "0", "12", not "012".
std::optional<int64_t> whole_number(std::string_view text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool is_whole = error == std::errc() && end == text.data() + text.size();
  if (!is_whole || !is_digit(text[0]) || (text.size() > 1 && text[0] == '0')) return std::nullopt;
  return value;
}

}  // namespace

NamePattern::NamePattern(std::string text) : text_(std::move(text)) {
  std::string plain;
  const auto end_plain = [&] {
    if (!plain.empty()) pieces_.push_back({.alternatives = {{.text = plain}}});
    plain.clear();
  };
  for (size_t i = 0; i < text_.size(); ++i) {
    SY_REQUIRE(kConfig, text_[i] != '}', "pattern \"{}\": a brace closes that was not opened",
               text_);
    if (text_[i] != '*' && text_[i] != '{') {
      plain += text_[i];
      continue;
    }
    end_plain();
    if (text_[i] == '*') {
      pieces_.push_back({.is_any = true});
      continue;
    }
    const size_t close = text_.find_first_of("{}", i + 1);
    SY_REQUIRE(kConfig, close != std::string::npos && text_[close] == '}',
               "pattern \"{}\": a brace is not closed, or another opens inside of it", text_);
    add_braces(std::string_view(text_).substr(i + 1, close - i - 1));
    i = close;
  }
  end_plain();
}

void NamePattern::add_braces(std::string_view inside) {
  Piece piece;
  for (size_t begin = 0; begin <= inside.size();) {
    const size_t end = std::min(inside.find(',', begin), inside.size());
    piece.alternatives.push_back(alternative_of(inside.substr(begin, end - begin)));
    begin = end + 1;
  }
  pieces_.push_back(std::move(piece));
}

NamePattern::Alternative NamePattern::alternative_of(std::string_view text) const {
  SY_REQUIRE(kConfig, !text.empty() && text.find('*') == std::string_view::npos,
             "pattern \"{}\": braces hold names or numbers with commas between them", text_);
  const size_t dots = text.find("..");
  if (dots == std::string_view::npos) return {.text = std::string(text)};
  const auto first = whole_number(text.substr(0, dots)), last = whole_number(text.substr(dots + 2));
  SY_REQUIRE(
      kConfig, first && last && *first <= *last,
      "pattern \"{}\": {{{}}} is not a range; expected two whole numbers in ascending order, like "
      "{{10..12}}",
      text_, text);
  return {.is_range = true, .first = *first, .last = *last};
}

bool NamePattern::matches(std::string_view name) const {
  std::vector<bool> reached(name.size() + 1, false);  // ends of what the pieces so far match
  reached[0] = true;
  for (const Piece& piece : pieces_) {
    std::vector<bool> next(reached.size(), false);
    bool is_reached = false;
    for (size_t i = 0; i < reached.size(); ++i) {
      is_reached = is_reached || reached[i];
      if (piece.is_any) next[i] = is_reached;
      if (!reached[i]) continue;
      for (const Alternative& alternative : piece.alternatives) advance(alternative, name, i, next);
    }
    reached = std::move(next);
  }
  return reached.back();
}

void NamePattern::advance(const Alternative& alternative, std::string_view name, size_t from,
                          std::vector<bool>& reached) {
  if (!alternative.is_range) {
    if (name.substr(from).starts_with(alternative.text))
      reached[from + alternative.text.size()] = true;
    return;
  }
  for (size_t end = from; end < name.size() && is_digit(name[end]); ++end) {
    const auto number = whole_number(name.substr(from, end + 1 - from));
    if (number && *number >= alternative.first && *number <= alternative.last)
      reached[end + 1] = true;
  }
}

// Levenshtein's table, one row per character of the pattern.
int64_t NamePattern::distance(std::string_view name) const {
  std::vector<int64_t> edits(name.size() + 1);  // from the pattern so far to name[0, i)
  std::iota(edits.begin(), edits.end(), 0);
  for (const Piece& piece : pieces_) {
    if (piece.is_any || piece.alternatives.size() > 1 || piece.alternatives[0].is_range) {
      for (size_t i = 1; i < edits.size(); ++i) edits[i] = std::min(edits[i], edits[i - 1]);
      continue;
    }
    for (const char c : piece.alternatives[0].text) {
      std::vector<int64_t> next = {edits[0] + 1};
      for (size_t i = 0; i < name.size(); ++i)
        next.push_back(
            std::min({edits[i] + (name[i] == c ? 0 : 1), edits[i + 1] + 1, next[i] + 1}));
      edits = std::move(next);
    }
  }
  return edits.back();
}

}  // namespace switchyard
