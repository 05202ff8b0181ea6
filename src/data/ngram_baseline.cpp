#include "data/ngram_baseline.h"

#include <cmath>
#include <vector>

#include "core/error.h"
#include "data/tokenizer.h"

namespace switchyard {
namespace {

constexpr int64_t kSymbols = ByteTokenizer::kVocabSize;

// Counts of next tokens after each context of `order` tokens.
class NgramCounts {
 public:
  explicit NgramCounts(int order)
      : counts_(static_cast<size_t>(power(order + 1)), 0),
        total_(static_cast<size_t>(power(order)), 0),
        distinct_(total_.size(), 0) {}

  void add(int64_t context, int32_t next) {
    const auto c = static_cast<size_t>(context);
    uint32_t& count = counts_[c * kSymbols + static_cast<size_t>(next)];
    distinct_[c] += count == 0 ? 1 : 0;
    ++count;
    ++total_[c];
  }

  // Witten-Bell: the weight of the lower order is the number of distinct continuations seen.
  double probability(int64_t context, int32_t next, double lower_order) const {
    const auto c = static_cast<size_t>(context);
    if (total_[c] == 0) return lower_order;
    const double count = counts_[c * kSymbols + static_cast<size_t>(next)];
    const double distinct = distinct_[c];
    return (count + distinct * lower_order) / (static_cast<double>(total_[c]) + distinct);
  }

 private:
  static int64_t power(int exponent) { return exponent == 0 ? 1 : kSymbols * power(exponent - 1); }

  std::vector<uint32_t> counts_;
  std::vector<uint64_t> total_;
  std::vector<uint32_t> distinct_;
};

}  // namespace

NgramBaselines ngram_baselines(const Dataset& dataset) {
  NgramCounts unigram(0), bigram(1), trigram(2);
  const auto token = [&](int64_t i) {
    const int32_t id = dataset.token(i);
    SY_REQUIRE(kData, id >= 0 && id < kSymbols,
               "token {} has id {}: training.ngram_baselines needs byte tokens, ids below {}", i,
               id, kSymbols);
    return id;
  };
  const int64_t num_train = dataset.num_train_tokens();
  for (int64_t i = 0; i < num_train; ++i) {
    unigram.add(0, token(i));
    if (i >= 1) bigram.add(token(i - 1), token(i));
    if (i >= 2) trigram.add(token(i - 2) * kSymbols + token(i - 1), token(i));
  }
  // The model's validation targets are all tokens after the first of the validation part.
  NgramBaselines bits;
  for (int64_t i = num_train + 1; i < dataset.num_tokens(); ++i) {
    const double uniform = 1.0 / static_cast<double>(kSymbols);
    const double p1 = unigram.probability(0, token(i), uniform);
    const double p2 = bigram.probability(token(i - 1), token(i), p1);
    const double p3 = trigram.probability(token(i - 2) * kSymbols + token(i - 1), token(i), p2);
    bits.bigram -= std::log2(p2);
    bits.trigram -= std::log2(p3);
  }
  const auto count = static_cast<double>(dataset.num_tokens() - num_train - 1);
  bits.bigram /= count;
  bits.trigram /= count;
  return bits;
}

}  // namespace switchyard
