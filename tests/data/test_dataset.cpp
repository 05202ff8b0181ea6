#include <algorithm>
#include <numeric>
#include <set>

#include "data/data_files.h"
#include "data/dataset.h"
#include "support/catch.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

// One document in which every token is its own position: a sample shows where it begins.
Documents counting(int32_t num_tokens) {
  Documents documents(1, std::vector<int32_t>(static_cast<size_t>(num_tokens)));
  std::iota(documents[0].begin(), documents[0].end(), 0);
  return documents;
}

// Which samples of the stream come in epoch `epoch`, in which order.
std::vector<int64_t> order_of_epoch(const Dataset& dataset, int64_t epoch) {
  const int64_t n = dataset.num_samples(Split::kTrain);
  std::vector<int64_t> order;
  for (int64_t i = 0; i < n; ++i)
    order.push_back(dataset.sample(Split::kTrain, epoch * n + i)[0] / dataset.sequence_length());
  return order;
}

std::vector<int64_t> numbers_below(int64_t n) {
  std::vector<int64_t> numbers(static_cast<size_t>(n));
  std::iota(numbers.begin(), numbers.end(), 0);
  return numbers;
}

}  // namespace

TEST_CASE("dataset: documents are packed end to end, train and validation cover them once") {
  Documents documents;
  for (int32_t d = 0; d < 23; ++d) {
    documents.emplace_back();
    for (int32_t i = 0; i < d * 7 % 11; ++i) documents.back().push_back(1000 * (d + 1) + i);
  }
  const std::vector<int32_t> stream = concatenated(documents);
  for (const int64_t S : {1, 2, 5, 8, 13}) {
    const TemporaryDirectory directory;
    const Dataset dataset = make_dataset(directory, documents, S, 0.3);
    const auto num_samples = (static_cast<int64_t>(stream.size()) - 1) / S;
    const int64_t num_train = dataset.num_samples(Split::kTrain);
    CAPTURE(S, num_samples, num_train);
    REQUIRE(num_train + dataset.num_samples(Split::kValidation) == num_samples);
    CHECK(dataset.num_train_tokens() == num_train * S);
    CHECK(dataset.num_tokens() == num_samples * S + 1);

    std::vector<std::vector<int32_t>> expected, found;
    for (int64_t j = 0; j < num_samples; ++j)
      expected.emplace_back(stream.begin() + j * S, stream.begin() + j * S + S + 1);
    for (int64_t i = 0; i < num_train; ++i) found.push_back(dataset.sample(Split::kTrain, i));
    std::sort(found.begin(), found.end());
    for (int64_t i = num_train; i < num_samples; ++i)
      found.push_back(dataset.sample(Split::kValidation, i - num_train));
    CHECK(found == expected);  // tokens grow along the stream, so sorting restores its order
  }
}

TEST_CASE("dataset: the last incomplete sample is left out, the target of the last token needed") {
  for (const int32_t num_tokens : {40, 41, 42, 49, 50, 51}) {
    const TemporaryDirectory directory;
    const Dataset dataset = make_dataset(directory, counting(num_tokens), 10);
    const int64_t num_samples =
        dataset.num_samples(Split::kTrain) + dataset.num_samples(Split::kValidation);
    CAPTURE(num_tokens);
    CHECK(num_samples == (num_tokens <= 40 ? 3 : num_tokens <= 50 ? 4 : 5));
  }
}

TEST_CASE("dataset: validation is the end of the stream, rounded up, in order") {
  const TemporaryDirectory directory;
  const Dataset dataset = make_dataset(directory, counting(1001), 10, 0.031);
  REQUIRE(dataset.num_samples(Split::kTrain) == 96);
  REQUIRE(dataset.num_samples(Split::kValidation) == 4);
  for (int32_t i = 0; i < 4; ++i) CHECK(dataset.sample(Split::kValidation, i)[0] == 960 + 10 * i);
  CHECK_THROWS_WITH(dataset.sample(Split::kValidation, 4), contains_text("sample 100 of 100"));
  CHECK_THROWS_AS(dataset.sample(Split::kValidation, -1), Error);
  CHECK_THROWS_AS(dataset.sample(Split::kTrain, -1), Error);
}

TEST_CASE("dataset: each epoch is a permutation of its own, and so is each seed") {
  for (const int64_t num_train : {1, 2, 3, 31, 32, 33, 257}) {
    const auto num_tokens = static_cast<int32_t>(2 * (num_train + 1) + 1);
    std::set<std::vector<int64_t>> orders;
    for (const uint64_t seed : {0, 1, 2, 1234}) {
      const TemporaryDirectory directory;
      const double one_sample = 0.5 / static_cast<double>(num_train + 1);
      const Dataset dataset = make_dataset(directory, counting(num_tokens), 2, one_sample, seed);
      REQUIRE(dataset.num_samples(Split::kTrain) == num_train);
      for (int64_t epoch = 0; epoch < 4; ++epoch) {
        std::vector<int64_t> order = order_of_epoch(dataset, epoch);
        orders.insert(order);
        std::sort(order.begin(), order.end());
        CHECK(order == numbers_below(num_train));
      }
    }
    // 16 orders, all different once there are enough samples to tell them apart.
    if (num_train >= 31) CHECK(orders.size() == 16);
    if (num_train >= 31) CHECK(orders.count(numbers_below(num_train)) == 0);
  }
}

TEST_CASE("dataset: neighbours of the stream are not neighbours of the shuffle") {
  const TemporaryDirectory directory;
  const Dataset dataset = make_dataset(directory, counting(40'001), 10, 0.0001);
  const std::vector<int64_t> order = order_of_epoch(dataset, 0);
  int64_t neighbours = 0, in_place = 0;
  for (size_t i = 1; i < order.size(); ++i) neighbours += order[i] == order[i - 1] + 1 ? 1 : 0;
  for (size_t i = 0; i < order.size(); ++i) in_place += order[i] == static_cast<int64_t>(i) ? 1 : 0;
  // Both are 1 on average for a random permutation.
  CHECK(neighbours <= 8);
  CHECK(in_place <= 8);
}

TEST_CASE("dataset: a sample is a function of its index, whoever asked for what before") {
  const TemporaryDirectory directory, other_directory;
  const Dataset dataset = make_dataset(directory, counting(501), 5);
  const Dataset other = make_dataset(other_directory, counting(501), 5);
  std::vector<std::vector<int32_t>> backwards;
  for (int64_t i = 300; i-- > 0;) backwards.push_back(other.sample(Split::kTrain, i));
  for (int64_t i = 0; i < 300; ++i)
    CHECK(dataset.sample(Split::kTrain, i) == backwards[static_cast<size_t>(299 - i)]);
}

TEST_CASE("dataset: too few tokens for a sample of each part") {
  const auto error_with = [](int32_t num_tokens, double validation_fraction) {
    const TemporaryDirectory directory;
    return error_of(
        [&] { make_dataset(directory, counting(num_tokens), 10, validation_fraction); });
  };
  CHECK(error_with(21, 0.05).code() == ExitCode::kOk);
  for (const int32_t num_tokens : {0, 1, 11, 20}) {
    const Error error = error_with(num_tokens, 0.05);
    CHECK(error.code() == ExitCode::kData);
    CHECK_THAT(error.what(), contains_text(std::to_string(num_tokens) + " tokens make") &&
                                 contains_text("data.sequence_length"));
  }
  CHECK(error_with(1001, 0.0).code() == ExitCode::kData);
  CHECK(error_with(1001, 1.0).code() == ExitCode::kData);
}

TEST_CASE("dataset: opening it checks every token against the vocabulary of the model") {
  const TemporaryDirectory directory;
  Documents documents = counting(200);
  documents[0].back() = 200;  // in the incomplete last sample, which training never sees
  write_token_file(directory.file("tokens"), documents, 300);
  RunConfig config;
  config.data.path = directory.file("tokens");
  config.data.sequence_length = 9;
  config.data.validation_fraction = 0.25;
  config.model.vocab_size = 201;
  CHECK(open_dataset(config).num_samples(Split::kTrain) == 16);
  config.model.vocab_size = 200;
  const Error error = error_of([&] { open_dataset(config); });
  CHECK(error.code() == ExitCode::kData);
  CHECK_THAT(error.what(), contains_text("tokens.bin: token 199 has id 200") &&
                               contains_text("model.vocab_size is 200"));
}
