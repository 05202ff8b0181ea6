#include "inspect/text_table.h"

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace switchyard {

TextTable::TextTable(const std::vector<std::string>& headings) {
  std::vector<std::string> names;
  for (const std::string& heading : headings) {
    is_right_.push_back(heading.ends_with('>'));
    names.push_back(heading.substr(0, heading.find('>')));
  }
  rows_.push_back(std::move(names));
}

void TextTable::add(std::vector<std::string> row) {
  SY_CHECK(row.size() == is_right_.size(), "{} texts for {} columns", row.size(), is_right_.size());
  rows_.push_back(std::move(row));
}

std::string TextTable::text() const {
  std::vector<size_t> widths(is_right_.size(), 0);
  for (const auto& row : rows_)
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  std::string text;
  for (const auto& row : rows_) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i)
      line += is_right_[i] ? fmt::format("  {:>{}}", row[i], widths[i])
                           : fmt::format("  {:<{}}", row[i], widths[i]);
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  return text;
}

std::string megabytes(int64_t bytes) {
  if (bytes < 100'000) return fmt::format("{} bytes", bytes);
  return fmt::format("{:.1f} MB", static_cast<double>(bytes) / 1e6);
}

}  // namespace switchyard
