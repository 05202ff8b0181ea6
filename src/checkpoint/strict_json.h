// JSON from files that nobody vouches for: what nlohmann's parser lets pass (of two equal keys the
// last, a zero byte as the end) is refused, and so is nesting that recursion could not stand.
// Errors are kData and begin with `where`; they show at most the start of a wrong value, escaped.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

namespace switchyard {

// An object. Error: "{where}: {what} is not ...".
nlohmann::json parse_strict_json(const std::string& text, int max_depth, const std::string& where,
                                 const char* what);

// `value` is an object with exactly these keys. The error names those missing and unknown.
void require_keys(const nlohmann::json& value, std::span<const char* const> keys,
                  const std::string& where);

// `key` is what the value is called in errors. Sizes are integers from 0 to 2^63 - 1.
std::vector<int64_t> parse_sizes(const nlohmann::json& value, const char* key,
                                 const std::string& where);
int64_t parse_size(const nlohmann::json& value, const char* key, const std::string& where);
std::string parse_text(const nlohmann::json& value, const char* key, const std::string& where);
// "0x" and as many lower-case digits as a number of `bytes` bytes has: one spelling only.
uint64_t parse_hex(const nlohmann::json& value, int bytes, const char* key,
                   const std::string& where);
std::string hex_text(uint64_t value, int bytes);

// JSON of a value, or as much of it as a message can bear.
std::string shown(const nlohmann::json& value);

}  // namespace switchyard
