#include <cmath>
#include <map>
#include <set>

#include "core/random.h"
#include "data/data_files.h"
#include "data/ngram_baseline.h"
#include "data/tokenizer.h"
#include "support/catch.h"

using namespace switchyard;
using namespace switchyard::test;
using Catch::Matchers::WithinRel;

namespace {

Documents document_of(const std::string& text) { return {ByteTokenizer().encode(text)}; }

// Witten-Bell by dictionary: the probability of the token at `i` after `order` tokens of context,
// counted in stream[0, num_train).
double probability(const std::vector<int32_t>& stream, size_t num_train, size_t i, int order) {
  if (order < 0) return 1.0 / 257;
  const auto window = [&](size_t last, size_t length) {
    const auto end = stream.begin() + static_cast<ptrdiff_t>(last) + 1;
    return std::vector<int32_t>(end - static_cast<ptrdiff_t>(length), end);
  };
  const auto context_length = static_cast<size_t>(order);
  const std::vector<int32_t> context = window(i - 1, context_length);
  std::map<int32_t, int> continuations;
  int total = 0;
  for (size_t j = context_length; j < num_train; ++j)
    if (context_length == 0 || window(j - 1, context_length) == context) {
      ++continuations[stream[j]];
      ++total;
    }
  const double lower = probability(stream, num_train, i, order - 1);
  const auto distinct = static_cast<double>(continuations.size());
  return total == 0 ? lower : (continuations[stream[i]] + distinct * lower) / (total + distinct);
}

}  // namespace

TEST_CASE("ngram baselines: closed form on a text of one letter") {
  const TemporaryDirectory directory;
  // 21 letters: 5 samples of 4; 4 of them, 16 tokens, are for training.
  const Dataset dataset = make_dataset(directory, document_of(std::string(21, 'a')), 4, 0.2);
  REQUIRE(dataset.num_train_tokens() == 16);
  const double p1 = (16 + 1.0 / 257) / 17, p2 = (15 + p1) / 16, p3 = (14 + p2) / 15;
  const NgramBaselines bits = ngram_baselines(dataset);
  CHECK_THAT(bits.bigram, WithinRel(-std::log2(p2), 1e-12));
  CHECK_THAT(bits.trigram, WithinRel(-std::log2(p3), 1e-12));
}

TEST_CASE("ngram baselines: a letter never seen costs what the lower orders leave for it") {
  const TemporaryDirectory directory;
  // Training "aaaaaaaa", validation "aaaab": its targets are "aaab".
  const Dataset dataset = make_dataset(directory, document_of("aaaaaaaaaaaab"), 4, 0.3);
  REQUIRE(dataset.num_train_tokens() == 8);
  const double a1 = (8 + 1.0 / 257) / 9, a2 = (7 + a1) / 8;
  const double b1 = 1.0 / 257 / 9, b2 = b1 / 8;
  CHECK_THAT(ngram_baselines(dataset).bigram,
             WithinRel(-(3 * std::log2(a2) + std::log2(b2)) / 4, 1e-12));
}

TEST_CASE("ngram baselines: equal to a count by dictionary, contexts never seen included") {
  const uint64_t key = random_key(8, "text");
  std::vector<int32_t> stream;
  for (uint64_t i = 0; i < 302; ++i) {
    const double u = random_uniform(key, i);
    stream.push_back(u < 0.1 ? 256 : 'a' + static_cast<int32_t>(u * u * 20));
  }
  const TemporaryDirectory directory;
  const Dataset dataset = make_dataset(directory, {stream}, 5, 0.25);
  double bigram = 0, trigram = 0;
  const auto num_train = static_cast<size_t>(dataset.num_train_tokens());
  const auto num_tokens = static_cast<size_t>(dataset.num_tokens());
  REQUIRE(num_train == 225);
  REQUIRE(num_tokens == 301);
  for (size_t i = num_train + 1; i < num_tokens; ++i) {
    bigram -= std::log2(probability(stream, num_train, i, 1)) / 75;
    trigram -= std::log2(probability(stream, num_train, i, 2)) / 75;
  }
  const NgramBaselines bits = ngram_baselines(dataset);
  CHECK_THAT(bits.bigram, WithinRel(bigram, 1e-12));
  CHECK_THAT(bits.trigram, WithinRel(trigram, 1e-12));
}

TEST_CASE("ngram baselines: tokens that are no bytes are refused") {
  const TemporaryDirectory directory;
  const Dataset dataset = make_dataset(directory, {{1, 2, 257, 3, 4, 5, 6, 7, 8}}, 2, 0.2);
  const Error error = error_of([&] { ngram_baselines(dataset); });
  CHECK(error.code() == ExitCode::kData);
  CHECK_THAT(error.what(), contains_text("token 2 has id 257") && contains_text("below 257"));
}
