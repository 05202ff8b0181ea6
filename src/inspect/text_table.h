// TextTable: rows of text under headings, in columns as wide as what is in them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace switchyard {

class TextTable {
 public:
  // "bytes>": that column is aligned to the right.
  explicit TextTable(const std::vector<std::string>& headings);

  void add(std::vector<std::string> row);  // as many as there are headings
  bool empty() const { return rows_.size() == 1; }
  // Every line begins with two spaces, and none ends with one.
  std::string text() const;

 private:
  std::vector<bool> is_right_ = {};
  std::vector<std::vector<std::string>> rows_ = {};  // the headings first
};

std::string megabytes(int64_t bytes);  // "12.3 MB"; "4096 bytes" below 0.1 MB

}  // namespace switchyard
