#include "mutator.h"

#include <algorithm>
#include <iterator>
#include <string_view>

#include "core/random.h"

namespace switchyard::fuzz {
namespace {

constexpr std::string_view kNumbers[] = {"0",
                                         "1",
                                         "-1",
                                         "-0",
                                         "7",
                                         "8",
                                         "9",
                                         "255",
                                         "4096",
                                         "2147483647",
                                         "2147483648",
                                         "4294967296",
                                         "4611686018427387904",
                                         "9223372036854775807",
                                         "9223372036854775808",
                                         "18446744073709551615",
                                         "18446744073709551616",
                                         "-9223372036854775809",
                                         "1.0",
                                         "0.5",
                                         "1e3",
                                         "1e999",
                                         "1e-999",
                                         "00",
                                         "NaN",
                                         "Infinity",
                                         "0x10",
                                         "1e",
                                         "99999999999999999999999999999999"};

constexpr std::string_view kTexts[] = {"",
                                       "..",
                                       "../x",
                                       "/etc/passwd",
                                       "a/b",
                                       ".",
                                       "w00000.safetensors",
                                       "w00000-00001.safetensors",
                                       R"(\u0000)",
                                       R"(\n)",
                                       R"(\ud800)",
                                       R"(\u001b[2J)",
                                       "\xff",
                                       "\xc0\xaf",
                                       "F32",
                                       "BF16",
                                       "f32",
                                       "param",
                                       "master",
                                       "exp_avg",
                                       "__metadata__",
                                       "0x00000000",
                                       "0xffffffff",
                                       "0x0000000000000000",
                                       "%n",
                                       "$(x)"};

constexpr std::string_view kPieces[] = {"{",
                                        "}",
                                        "[",
                                        "]",
                                        ":",
                                        ",",
                                        "\"",
                                        "null",
                                        "true",
                                        "{}",
                                        "[]",
                                        "\"\":",
                                        "/*",
                                        "//",
                                        "\\",
                                        "\xef\xbb\xbf",
                                        " ",
                                        "\n",
                                        "[[[[[[[[",
                                        "{\"a\":{\"a\":",
                                        std::string_view("\0", 1)};

constexpr uint64_t kIntegers[] = {0,          1,          2,          127,        128,
                                  255,        256,        32767,      65535,      (1u << 31) - 1,
                                  1u << 31,   UINT32_MAX, 1ull << 32, 1ull << 62, (1ull << 63) - 1,
                                  1ull << 63, UINT64_MAX, 34,         4096,       100'000'000};

class Random {
 public:
  Random(uint64_t seed, uint64_t number) : key_(random_key(seed, "fuzz")), number_(number) {}

  size_t below(size_t bound) {
    const auto words = philox(key_, number_, draws_++);
    return static_cast<size_t>(((uint64_t{words[0]} << 32) | words[1]) % bound);
  }
  // Mostly small.
  size_t length() { return 1 + below(size_t{1} << below(8)); }
  template <typename List>
  auto one_of(const List& list) {
    return list[below(std::size(list))];
  }

 private:
  uint64_t key_, number_;
  uint64_t draws_ = 0;
};

struct Range {
  size_t begin = 0, count = 0;
};

Range some_range(const std::string& text, Random& random) {
  const size_t begin = random.below(text.size() + 1);
  return {begin, std::min(random.length(), text.size() - begin)};
}

// From a random place on, the first stretch of characters that `is_part` accepts.
template <typename IsPart>
Range next_stretch(const std::string& text, Random& random, IsPart is_part) {
  const auto from = text.begin() + static_cast<std::ptrdiff_t>(random.below(text.size() + 1));
  const auto begin = std::find_if(from, text.end(), is_part);
  const auto end = std::find_if_not(begin, text.end(), is_part);
  return {static_cast<size_t>(begin - text.begin()), static_cast<size_t>(end - begin)};
}

Range some_number(const std::string& text, Random& random) {
  return next_stretch(text, random, [](char c) { return c >= '0' && c <= '9'; });
}

// What stands between two quotation marks, or, as often, between two strings.
Range some_string(const std::string& text, Random& random) {
  const size_t open = std::min(text.find('"', random.below(text.size() + 1)), text.size());
  const size_t begin = std::min(open + 1, text.size());
  return {begin, std::min(text.find('"', begin), text.size()) - begin};
}

// A member of an object or list, from its comma to the next.
Range some_member(const std::string& text, Random& random) {
  const size_t begin = std::min(text.find(',', random.below(text.size() + 1)), text.size());
  const size_t end = text.find_first_of(",]}", std::min(begin + 1, text.size()));
  return {begin, std::min(end, text.size()) - begin};
}

void replace(std::string& text, Range range, std::string_view by) {
  text.replace(range.begin, range.count, by);
}

void overwrite_integer(std::string& text, Random& random) {
  const size_t bytes = size_t{1} << random.below(4), begin = random.below(text.size() + 1);
  const uint64_t value = random.one_of(kIntegers);
  for (size_t i = 0; i < bytes && begin + i < text.size(); ++i)
    text[begin + i] = static_cast<char>(value >> (8 * i));
}

std::string repeated(std::string_view piece, size_t times) {
  std::string text;
  for (size_t i = 0; i < times; ++i) text += piece;
  return text;
}

void change(std::string& text, const std::vector<std::string>& corpus, Random& random) {
  const std::string before = text;
  const auto cut = [&](Range range) { return before.substr(range.begin, range.count); };
  const auto insert = [&](std::string_view what) {
    text.insert(random.below(text.size() + 1), what);
  };
  const auto tail_of_another = [&] {
    const std::string other = random.one_of(corpus);
    return other.substr(random.below(other.size() + 1));
  };
  const auto flip = [&] {
    if (!text.empty()) text[random.below(text.size())] ^= static_cast<char>(1 << random.below(8));
  };
  switch (random.below(16)) {
    case 0:
    case 1:
      return flip();
    case 2:
      return replace(text, some_range(text, random), "");
    case 3:
      return insert(cut(some_range(text, random)));
    case 4:
      return insert(random.one_of(kPieces));
    case 5:
      return insert(repeated(random.one_of(kPieces), random.length() * random.length()));
    case 6:
      return text.resize(random.below(text.size() + 1));
    case 7:
      return replace(text, {random.below(text.size() + 1), std::string::npos}, tail_of_another());
    case 8:
      return overwrite_integer(text, random);
    case 9:
    case 10:
      return replace(text, some_number(text, random), random.one_of(kNumbers));
    case 11:
      return replace(text, some_string(text, random), random.one_of(kTexts));
    case 12:
      return replace(text, some_member(text, random), "");
    case 13:
      return insert(cut(some_member(text, random)));
    case 14:
      return replace(text, some_string(text, random), cut(some_string(text, random)));
    default:
      return replace(text, some_number(text, random), cut(some_number(text, random)));
  }
}

}  // namespace

std::string mutated_input(const std::vector<std::string>& corpus, uint64_t seed, uint64_t number) {
  Random random(seed, number);
  std::string input = random.one_of(corpus);
  const size_t changes = 1 + random.below(4);
  for (size_t i = 0; i < changes; ++i) {
    change(input, corpus, random);
    if (input.size() > kMaxInputBytes) input.resize(kMaxInputBytes);
  }
  return input;
}

}  // namespace switchyard::fuzz
