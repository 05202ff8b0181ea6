// Catch2, version 2 (Debian 12) or 3.
#pragma once

#include <string>

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>

namespace switchyard::test {
inline auto contains_text(const std::string& text) {
  return Catch::Matchers::ContainsSubstring(text);
}
}  // namespace switchyard::test

#else
#include <catch2/catch.hpp>

namespace switchyard::test {
// A matcher for strings and exception messages that contain `text`.
inline auto contains_text(const std::string& text) { return Catch::Matchers::Contains(text); }
}  // namespace switchyard::test

#endif
