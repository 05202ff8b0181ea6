// NamePattern: which names a user means.
//   *         any text, dots included       model.layers.*.mlp.gate.weight
//   {3,5}     one of these                  model.layers.{3,5}.self_attn.*
//   {10..12}  a whole number, 10 to 12      model.layers.{10..12}.mlp.experts.*
// Braces mix both: {0,4..6}. A pattern covers the whole name.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace switchyard {

class NamePattern {
 public:
  // Errors (kConfig): braces that do not close, that nest or hold nothing; a range that is not
  // two whole numbers in ascending order.
  explicit NamePattern(std::string text);

  const std::string& text() const { return text_; }
  bool matches(std::string_view name) const;
  // Edits of the plain text that would make it match, whatever stands in place of * and braces.
  // For messages that name what was meant.
  int64_t distance(std::string_view name) const;

 private:
  // Text, or the numbers from first to last.
  struct Alternative {
    std::string text = {};
    bool is_range = false;
    int64_t first = 0, last = 0;
  };
  struct Piece {
    bool is_any = false;                         // *
    std::vector<Alternative> alternatives = {};  // of braces; plain text is the only one
  };

  void add_braces(std::string_view inside);
  Alternative alternative_of(std::string_view text) const;
  static void advance(const Alternative& alternative, std::string_view name, size_t from,
                      std::vector<bool>& reached);

  std::string text_;
  std::vector<Piece> pieces_;
};

}  // namespace switchyard
