// Report: where the checks of a configuration put what they find, so that all of it is told at
// once.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "config/document.h"

namespace switchyard {

class Report {
 public:
  explicit Report(std::string name) : name_(std::move(name)) {}

  std::vector<Problem>& problems() { return problems_; }

  // Positions in messages come from this document.
  void set_document(const Node* document) { document_ = document; }

  // False when one of these values was found wrong by itself: a check that joins it with others
  // would only repeat that.
  bool is_sound(std::initializer_list<std::string_view> pointers) const {
    return std::none_of(problems_.begin(), problems_.end(), [&](const Problem& problem) {
      return std::find(pointers.begin(), pointers.end(), problem.pointer) != pointers.end();
    });
  }

  void add(std::string pointer, const std::string& what) {
    const Node* node = document_ == nullptr ? nullptr : find_node(*document_, pointer);
    const std::string where = node == nullptr ? name_ : node->where;
    std::string text = fmt::format("{}: {}: {}", where, pointer, what);
    problems_.push_back({std::move(pointer), std::move(text)});
  }

  // Throws Error(kConfig) with one line per problem, unless there is none.
  void throw_if_any() const;

 private:
  std::string name_;
  const Node* document_ = nullptr;
  std::vector<Problem> problems_;
};

// Fills the optional fields and checks what no single key can show: sizes against each other and
// against the number of ranks.
void resolve(RunConfig& config, int num_ranks, Report& report);

}  // namespace switchyard
