// Document: a JSON text as a tree in which every value knows where it stands, so that messages can
// say so. nlohmann's own DOM knows no positions and silently keeps the last of duplicate keys.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "config/options.h"

namespace switchyard {

struct Node {
  std::string where;    // "config.json:12:5" or "--set moe.top_k=1"
  std::string pointer;  // JSON pointer
  bool is_object = false;
  Json value = nullptr;            // unless is_object
  std::vector<Node> members = {};  // of an object, in the order of the text
};

// One line of an error message, about the value at `pointer`.
struct Problem {
  std::string pointer;
  std::string text;  // "config.json:12:5: /moe/top_k: found 0, expected an integer of at least 1"
};

// Parses JSON with comments. Syntax errors end the parse and leave an empty object; duplicate keys
// keep the first. Both are added to `problems`.
Node parse_document(const std::string& name, const std::string& text,
                    std::vector<Problem>& problems);

// Applies "moe.top_k=1": the value is JSON, or else a string.
void apply_override(Node& root, const std::string& assignment, std::vector<Problem>& problems);

const Node* find_node(const Node& root, std::string_view pointer);

}  // namespace switchyard
