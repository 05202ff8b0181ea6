#include "config/document.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

namespace switchyard {
namespace {

// Every level costs a longer path, and recursion later on.
constexpr size_t kMaxDepth = 64;

// Hands the text to nlohmann's lexer one character at a time and counts them: that is how a SAX
// callback knows where it is.
class CountingIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  CountingIterator(const char* at, size_t& consumed) : at_(at), consumed_(&consumed) {}
  reference operator*() const { return *at_; }
  CountingIterator& operator++() {
    ++at_;
    ++*consumed_;
    return *this;
  }
  CountingIterator operator++(int) {
    CountingIterator before = *this;
    ++*this;
    return before;
  }
  bool operator==(const CountingIterator& other) const { return at_ == other.at_; }
  bool operator!=(const CountingIterator& other) const { return at_ != other.at_; }

 private:
  const char* at_;
  size_t* consumed_;
};

std::string position_text(const std::string& name, std::string_view text, size_t offset) {
  const std::string_view before = text.substr(0, std::min(offset, text.size()));
  const auto line = 1 + std::count(before.begin(), before.end(), '\n');
  const size_t line_start = before.rfind('\n') + 1;  // npos + 1 is 0
  return fmt::format("{}:{}:{}", name, line, before.size() - line_start + 1);
}

class TreeBuilder : public nlohmann::json_sax<Json> {
 public:
  TreeBuilder(const std::string& name, const std::string& text, std::vector<Problem>& problems)
      : name_(name), text_(text), problems_(problems) {}

  size_t& consumed() { return consumed_; }
  Node take_root() { return std::move(root_); }

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(value); }
  bool number_unsigned(number_unsigned_t value) override { return add(value); }
  bool number_float(number_float_t value, const string_t&) override { return add(value); }
  bool string(string_t& value) override { return add(value); }
  bool binary(binary_t&) override { return false; }  // not in text

  bool start_object(size_t) override {
    if (is_too_deep()) return false;
    if (!arrays_.empty()) {
      problem(path(), here(1), "an object is not expected inside a list");
      return false;
    }
    open_.push_back(
        {.where = keys_.empty() ? here(1) : where_of_key_, .pointer = path(), .is_object = true});
    return true;
  }

  bool key(string_t& name) override {
    const Node& object = open_.back();
    keys_.push_back(name);
    const bool is_new = std::none_of(object.members.begin(), object.members.end(),
                                     [&](const Node& member) { return member.pointer == path(); });
    where_of_key_ = position_text(name_, text_, start_of_string());
    if (!is_new) problem(path(), where_of_key_, "this key was given before; remove one of the two");
    return true;
  }

  bool end_object() override {
    Node object = std::move(open_.back());
    open_.pop_back();
    place(std::move(object));
    return true;
  }

  bool start_array(size_t) override {
    if (is_too_deep()) return false;
    if (arrays_.empty()) where_of_array_ = here(1);
    arrays_.push_back(Json::array());
    return true;
  }

  bool end_array() override {
    Json array = std::move(arrays_.back());
    arrays_.pop_back();
    if (!arrays_.empty())
      arrays_.back().push_back(std::move(array));
    else
      place({.where = where_of_array_, .pointer = path(), .value = std::move(array)});
    return true;
  }

  // `characters`: read so far, the last of them is the one that cannot be.
  bool parse_error(size_t characters, const std::string&,
                   const nlohmann::json::exception& error) override {
    // "[json.exception.parse_error.101] parse error at line 3, column 5: syntax error while ..."
    std::string reason = error.what();
    for (const std::string_view marker : {": syntax error ", "] "})
      if (const size_t at = reason.find(marker); at != std::string::npos) {
        reason = reason.substr(at + (marker.front() == ':' ? 2 : marker.size()));
        break;
      }
    problem("", position_text(name_, text_, characters > 0 ? characters - 1 : 0),
            "not valid JSON: " + reason);
    return false;
  }

 private:
  bool is_too_deep() {
    if (open_.size() + arrays_.size() < kMaxDepth) return false;
    problem("", here(1), fmt::format("nested more than {} deep", kMaxDepth));
    return true;
  }

  bool add(Json value) {
    if (!arrays_.empty())
      arrays_.back().push_back(std::move(value));
    else
      place({.where = keys_.empty() ? here(1) : where_of_key_,
             .pointer = path(),
             .value = std::move(value)});
    return true;
  }

  // A finished value goes into the object that is open, unless its key was there before.
  void place(Node node) {
    if (open_.empty()) {
      root_ = std::move(node);
      return;
    }
    auto& members = open_.back().members;
    if (std::none_of(members.begin(), members.end(),
                     [&](const Node& member) { return member.pointer == node.pointer; }))
      members.push_back(std::move(node));
    keys_.pop_back();
  }

  std::string path() const {
    std::string pointer;
    for (const std::string& key : keys_) {
      pointer += '/';
      for (const char c : key)  // RFC 6901
        pointer += c == '~' ? "~0" : c == '/' ? "~1" : std::string(1, c);
    }
    return pointer;
  }

  std::string here(size_t back) const { return position_text(name_, text_, consumed_ - back); }

  // The lexer has just read a string's closing quote; inside, quotes are always escaped.
  size_t start_of_string() const {
    size_t at = consumed_ - 2;
    while (at > 0 && (text_[at] != '"' || is_escaped(at))) --at;
    return at;
  }
  bool is_escaped(size_t at) const {
    size_t backslashes = 0;
    while (backslashes < at && text_[at - 1 - backslashes] == '\\') ++backslashes;
    return backslashes % 2 == 1;
  }

  void problem(const std::string& pointer, const std::string& where, const std::string& what) {
    problems_.push_back({pointer, pointer.empty()
                                      ? fmt::format("{}: {}", where, what)
                                      : fmt::format("{}: {}: {}", where, pointer, what)});
  }

  const std::string& name_;
  const std::string& text_;
  std::vector<Problem>& problems_;
  size_t consumed_ = 0;
  Node root_{.where = "", .pointer = "", .is_object = true};
  std::vector<Node> open_;
  std::vector<std::string> keys_;
  std::vector<Json> arrays_;
  std::string where_of_key_, where_of_array_;
};

bool is_utf8(const std::string& text) {
  const std::string replaced = Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
  return Json::parse(replaced) == text;
}

Node* find_mutable(Node& root, std::string_view pointer) {
  if (root.pointer == pointer) return &root;
  for (Node& member : root.members)
    if (pointer == member.pointer ||
        (pointer.starts_with(member.pointer) && pointer[member.pointer.size()] == '/'))
      return find_mutable(member, pointer);
  return nullptr;
}

// The object at `pointer`, made where it is missing; null where something else is in its place.
Node* object_at(Node& root, const std::string& pointer, const std::string& where) {
  if (Node* found = find_mutable(root, pointer)) return found->is_object ? found : nullptr;
  Node* parent = object_at(root, std::string(parent_of(pointer)), where);
  if (parent == nullptr) return nullptr;
  parent->members.push_back({.where = where, .pointer = pointer, .is_object = true});
  return &parent->members.back();
}

}  // namespace

Node parse_document(const std::string& name, const std::string& text,
                    std::vector<Problem>& problems) {
  TreeBuilder builder(name, text, problems);
  const size_t problems_before = problems.size();
  const bool parsed = Json::sax_parse(
      CountingIterator(text.data(), builder.consumed()),
      CountingIterator(text.data() + text.size(), builder.consumed()), &builder,
      nlohmann::json::input_format_t::json, /*strict=*/true, /*ignore_comments=*/true);
  Node root = builder.take_root();
  if (parsed && !root.is_object)
    problems.push_back(
        {"", name + ": found " + root.value.dump() + ", expected an object { ... }"});
  if (!parsed && problems.size() == problems_before)
    problems.push_back({"", name + ": not valid JSON"});
  if (!root.is_object) root = {.where = name, .pointer = "", .is_object = true};
  return root;
}

void apply_override(Node& root, const std::string& assignment, std::vector<Problem>& problems) {
  if (!is_utf8(assignment)) {
    problems.push_back({"", "--set: found a text that is not UTF-8"});
    return;
  }
  const std::string where = "--set " + assignment;
  const size_t equals = assignment.find('=');
  if (equals == std::string::npos || equals == 0) {
    problems.push_back({"", where + ": expected KEY=VALUE, as in moe.top_k=1"});
    return;
  }
  std::string pointer = "/" + assignment.substr(0, equals);
  std::replace(pointer.begin(), pointer.end(), '.', '/');
  if (std::count(pointer.begin(), pointer.end(), '/') > static_cast<std::ptrdiff_t>(kMaxDepth)) {
    problems.push_back({"", fmt::format("--set: a key nested more than {} deep", kMaxDepth)});
    return;
  }
  const std::string text = assignment.substr(equals + 1);
  Node node{.where = where, .pointer = pointer, .value = Json::parse(text, nullptr, false)};
  if (node.value.is_discarded()) node.value = text;

  Node* parent = object_at(root, std::string(parent_of(pointer)), where);
  if (parent == nullptr) {
    problems.push_back(
        {pointer, fmt::format("{}: {} is not a section", where, parent_of(pointer))});
    return;
  }
  if (Node* old = find_mutable(*parent, pointer))
    *old = std::move(node);
  else
    parent->members.push_back(std::move(node));
}

const Node* find_node(const Node& root, std::string_view pointer) {
  return find_mutable(const_cast<Node&>(root), pointer);
}

}  // namespace switchyard
