#include "checkpoint/strict_json.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <utility>

#include "core/error.h"

namespace switchyard {

using nlohmann::json;

namespace {

bool is_size(const json& value) {
  return value.is_number_unsigned() &&
         value.get<uint64_t>() <= uint64_t{std::numeric_limits<int64_t>::max()};
}

std::string shortened(const std::string& text) {
  constexpr size_t kMaxShown = 200;
  return text.size() <= kMaxShown ? text : text.substr(0, kMaxShown) + "...";
}

// Builds the value as nlohmann's own parser does, but its callback for looking at keys takes time
// quadratic in the number of members.
class StrictBuilder : public nlohmann::json_sax<json> {
 public:
  StrictBuilder(int max_depth, const std::string& where, const char* what)
      : max_depth_(static_cast<size_t>(max_depth)), where_(where), what_(what) {}

  json take() { return std::move(root_); }

  bool null() override { return add(nullptr) != nullptr; }
  bool boolean(bool value) override { return add(value) != nullptr; }
  bool number_integer(int64_t value) override { return add(value) != nullptr; }
  bool number_unsigned(uint64_t value) override { return add(value) != nullptr; }
  bool number_float(double value, const std::string&) override { return add(value) != nullptr; }
  bool string(std::string& value) override { return add(std::move(value)) != nullptr; }
  bool binary(json::binary_t& value) override { return add(std::move(value)) != nullptr; }
  bool start_object(size_t) override { return open(json::object()); }
  bool start_array(size_t) override { return open(json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(std::string& text) override {
    key_ = std::move(text);
    return true;
  }
  bool parse_error(size_t, const std::string&, const json::exception& error) override {
    fail(ExitCode::kData, __FILE__, __LINE__,
         fmt::format("{}: {} is not valid JSON: {}", where_, what_, shortened(error.what())));
  }

 private:
  // Where the value is now.
  json* add(json value) {
    if (open_.empty()) return &(root_ = std::move(value));
    json& parent = *open_.back();
    if (parent.is_array()) return &parent.emplace_back(std::move(value));
    const auto [place, is_new] = parent.emplace(key_, std::move(value));
    SY_REQUIRE(kData, is_new, "{}: {} has key {} twice", where_, what_, shown(key_));
    return &*place;
  }
  bool open(json empty) {
    SY_REQUIRE(kData, open_.size() < max_depth_, "{}: {} is nested {} deep, expected {}", where_,
               what_, open_.size() + 1, max_depth_);
    open_.push_back(add(std::move(empty)));
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  size_t max_depth_;
  const std::string& where_;
  const char* what_;
  json root_;
  std::vector<json*> open_;  // objects and lists, from the outermost
  std::string key_;          // of the next value
};

}  // namespace

json parse_strict_json(const std::string& text, int max_depth, const std::string& where,
                       const char* what) {
  SY_REQUIRE(kData, text.starts_with('{') && text.find('\0') == std::string::npos,
             "{}: {} is not a JSON object", where, what);
  StrictBuilder builder(max_depth, where, what);
  json::sax_parse(text, &builder);
  return builder.take();
}

void require_keys(const json& value, std::span<const char* const> keys, const std::string& where) {
  SY_REQUIRE(kData, value.is_object(), "{}: {} found, expected an object", where, shown(value));
  for (const char* key : keys)
    SY_REQUIRE(kData, value.contains(key), "{}: \"{}\" is missing", where, key);
  for (const auto& [key, member] : value.items())
    SY_REQUIRE(kData, std::find(keys.begin(), keys.end(), key) != keys.end(), "{}: {} is not known",
               where, shown(key));
}

std::vector<int64_t> parse_sizes(const json& value, const char* key, const std::string& where) {
  SY_REQUIRE(kData, value.is_array() && std::all_of(value.begin(), value.end(), is_size),
             "{}: {} {} found, expected a list of non-negative integers", where, key, shown(value));
  return value.get<std::vector<int64_t>>();
}

int64_t parse_size(const json& value, const char* key, const std::string& where) {
  SY_REQUIRE(kData, is_size(value), "{}: {} {} found, expected a non-negative integer", where, key,
             shown(value));
  return value.get<int64_t>();
}

std::string parse_text(const json& value, const char* key, const std::string& where) {
  SY_REQUIRE(kData, value.is_string(), "{}: {} {} found, expected a string", where, key,
             shown(value));
  return value.get<std::string>();
}

uint64_t parse_hex(const json& value, int bytes, const char* key, const std::string& where) {
  uint64_t number = 0;
  const std::string text = value.is_string() ? value.get<std::string>() : std::string();
  if (text.starts_with("0x"))
    std::from_chars(text.data() + 2, text.data() + text.size(), number, 16);
  SY_REQUIRE(kData,
             text == hex_text(number, bytes) && text.size() == static_cast<size_t>(2 + 2 * bytes),
             "{}: {} {} found, expected 0x and {} lower-case hexadecimal digits", where, key,
             shown(value), 2 * bytes);
  return number;
}

std::string hex_text(uint64_t value, int bytes) {
  return fmt::format("{:#0{}x}", value, 2 + 2 * bytes);
}

std::string shown(const json& value) { return shortened(value.dump(-1, ' ', true)); }

}  // namespace switchyard
