#include "core/random.h"
#include "data/data_files.h"
#include "data/loader.h"
#include "support/catch.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

constexpr int32_t kEnd = 256;

// Documents of 0 to 11 tokens, each ended: some are empty, some longer than a sequence.
Documents random_documents(int count) {
  const uint64_t key = random_key(21, "documents");
  Documents documents;
  uint64_t draw = 0;
  for (int d = 0; d < count; ++d) {
    documents.emplace_back();
    const auto length = static_cast<int>(random_uniform(key, draw++) * 12);
    for (int i = 0; i < length; ++i)
      documents.back().push_back(static_cast<int32_t>(random_uniform(key, draw++) * 256));
    documents.back().push_back(kEnd);
  }
  return documents;
}

void append(std::vector<int32_t>& all, const std::vector<int32_t>& part, int64_t offset = 0) {
  for (const int32_t value : part) all.push_back(static_cast<int32_t>(value + offset));
}

// The batches of all ranks as one: the rows of the global micro-batch.
Batch union_of_ranks(const Dataset& dataset, Split split, LoaderOptions options, int64_t index) {
  Batch all;
  for (int rank = 0; rank < options.data_parallel_size; ++rank) {
    options.data_parallel_rank = rank;
    const Batch batch = Loader(dataset, split, options).at(index);
    REQUIRE(batch.first_row == static_cast<int64_t>(all.token_ids.size()));
    all.num_sequences += batch.num_sequences;
    all.sequence_length = batch.sequence_length;
    all.global_rows = batch.global_rows;
    append(all.token_ids, batch.token_ids);
    append(all.targets, batch.targets);
    append(all.positions, batch.positions);
    append(all.first_visible, batch.first_visible, batch.first_row);
  }
  return all;
}

bool equal(const Batch& a, const Batch& b) {
  return a.num_sequences == b.num_sequences && a.sequence_length == b.sequence_length &&
         a.global_rows == b.global_rows && a.token_ids == b.token_ids && a.targets == b.targets &&
         a.positions == b.positions && a.first_visible == b.first_visible;
}

// One batch of all validation samples on one rank.
Batch whole_validation(const Dataset& dataset, LoaderOptions options) {
  options.micro_batch_size = dataset.num_samples(Split::kValidation);
  return Loader(dataset, Split::kValidation, options).at(0);
}

}  // namespace

TEST_CASE("loader: the ranks' batches together are the batch of one rank") {
  const TemporaryDirectory directory;
  const Dataset dataset = make_dataset(directory, random_documents(120), 8);
  const int64_t one_and_a_half_epochs = dataset.num_samples(Split::kTrain) * 3 / 2;
  for (const bool masked : {false, true})
    for (const Split split : {Split::kTrain, Split::kValidation})
      for (int64_t index = 0; index < one_and_a_half_epochs; index += 8) {
        LoaderOptions options{
            .micro_batch_size = 8, .document_mask = masked, .eod_mask_loss = masked};
        const Batch reference = union_of_ranks(dataset, split, options, index);
        CAPTURE(masked, split == Split::kTrain, index);
        REQUIRE(reference.global_rows == 64);
        for (const int dp : {2, 4}) {
          options.data_parallel_size = dp;
          options.micro_batch_size = 8 / dp;
          CHECK(equal(union_of_ranks(dataset, split, options, index), reference));
        }
      }
}

TEST_CASE("loader: each target is the token after, the samples are those of the dataset") {
  const TemporaryDirectory directory;
  const Dataset dataset = make_dataset(directory, random_documents(60), 5);
  const Loader loader(dataset, Split::kTrain,
                      {.micro_batch_size = 3, .data_parallel_size = 2, .data_parallel_rank = 1});
  const Batch batch = loader.at(12);
  CHECK(batch.num_sequences == 3);
  CHECK(batch.sequence_length == 5);
  CHECK(batch.first_row == 15);
  CHECK(batch.global_rows == 30);
  CHECK(batch.num_targets() == 15);
  for (int64_t b = 0; b < 3; ++b) {
    const std::vector<int32_t> sample = dataset.sample(Split::kTrain, 12 + 3 + b);
    for (int64_t s = 0; s < 5; ++s) {
      const auto row = static_cast<size_t>(5 * b + s);
      CHECK(batch.token_ids[row] == sample[static_cast<size_t>(s)]);
      CHECK(batch.targets[row] == sample[static_cast<size_t>(s + 1)]);
    }
  }
}

TEST_CASE("loader: without a document mask, attention and positions run over the whole sequence") {
  const TemporaryDirectory directory;
  const Dataset dataset = make_dataset(directory, random_documents(60), 7);
  const Batch batch = whole_validation(dataset, {});
  for (size_t row = 0; row < batch.token_ids.size(); ++row) {
    CHECK(batch.positions[row] == static_cast<int32_t>(row % 7));
    CHECK(batch.first_visible[row] == static_cast<int32_t>(row - row % 7));
  }
}

TEST_CASE("loader: with a document mask, both start anew after each end of a document") {
  const TemporaryDirectory directory;
  for (const int32_t S : {1, 2, 7, 30}) {
    const Dataset dataset = make_dataset(directory, random_documents(100), S);
    const Batch batch = whole_validation(dataset, {.document_mask = true});
    int num_borders = 0;
    for (int32_t row = 0; row < static_cast<int32_t>(batch.token_ids.size()); ++row) {
      int32_t begin = row;  // walk back to the document's first row in this sequence
      while (begin % S != 0 && batch.token_ids[static_cast<size_t>(begin - 1)] != kEnd) --begin;
      CAPTURE(S, row);
      REQUIRE(batch.first_visible[static_cast<size_t>(row)] == begin);
      REQUIRE(batch.positions[static_cast<size_t>(row)] == row - begin);
      num_borders += begin == row && row % S != 0 ? 1 : 0;
    }
    CHECK((S == 1 || num_borders > 5));
  }
}

TEST_CASE("loader: ends of documents lose their target with eod_mask_loss, and only with it") {
  const TemporaryDirectory directory;
  const Dataset dataset = make_dataset(directory, random_documents(100), 9);
  for (const bool document_mask : {false, true}) {
    const Batch plain = whole_validation(dataset, {.document_mask = document_mask});
    const Batch masked =
        whole_validation(dataset, {.document_mask = document_mask, .eod_mask_loss = true});
    CHECK(plain.num_targets() == static_cast<int64_t>(plain.targets.size()));
    int64_t num_ends = 0;
    for (size_t row = 0; row < plain.targets.size(); ++row) {
      const bool is_end = plain.token_ids[row] == kEnd;
      num_ends += is_end ? 1 : 0;
      CHECK(masked.targets[row] == (is_end ? Batch::kIgnored : plain.targets[row]));
    }
    CHECK(num_ends > 5);
    CHECK(masked.num_targets() == plain.num_targets() - num_ends);
  }
}

TEST_CASE("loader: the end of a document is a setting") {
  const TemporaryDirectory directory;
  const Dataset dataset = make_dataset(directory, {{1, 9, 2, 3, 1, 9, 2, 3, 1, 9, 2, 3, 1}}, 4);
  const Batch batch = whole_validation(
      dataset, {.document_mask = true, .eod_mask_loss = true, .end_of_document = 9});
  CHECK(batch.positions == std::vector<int32_t>{0, 1, 0, 1});
  CHECK(batch.first_visible == std::vector<int32_t>{0, 0, 2, 2});
  CHECK(batch.targets == std::vector<int32_t>{9, Batch::kIgnored, 3, 1});
}

TEST_CASE("loader: validation ends in padding that does not count, and counts each target once") {
  const TemporaryDirectory directory;
  const Dataset dataset = make_dataset(directory, random_documents(20), 4, 0.9);
  const int64_t num_samples = dataset.num_samples(Split::kValidation);
  REQUIRE(num_samples > 20);
  for (const int dp : {1, 2, 4})
    for (const int64_t micro_batch_size : {1, 3, 8}) {
      const int64_t per_batch = micro_batch_size * dp;
      LoaderOptions options{.micro_batch_size = micro_batch_size, .data_parallel_size = dp};
      const Loader first_rank(dataset, Split::kValidation, options);
      const int64_t num_batches = first_rank.num_global_micro_batches();
      CAPTURE(dp, micro_batch_size, num_batches);
      CHECK(num_batches == (num_samples + per_batch - 1) / per_batch);
      std::vector<int32_t> targets;
      for (int64_t i = 0; i < num_batches; ++i)
        append(targets,
               union_of_ranks(dataset, Split::kValidation, options, i * per_batch).targets);
      const auto whole = static_cast<size_t>(4 * num_samples);
      REQUIRE(targets.size() >= whole);
      for (size_t i = whole; i < targets.size(); ++i) CHECK(targets[i] == Batch::kIgnored);
      targets.resize(whole);
      CHECK(targets == whole_validation(dataset, {}).targets);
    }
}

TEST_CASE("loader: training never pads; it goes on into the next epoch") {
  const TemporaryDirectory directory;
  const Dataset dataset = make_dataset(directory, random_documents(20), 4);
  const int64_t num_samples = dataset.num_samples(Split::kTrain);
  const Loader loader(dataset, Split::kTrain, {.micro_batch_size = 4});
  const Batch batch = loader.at(num_samples - 2);
  CHECK(batch.num_targets() == 16);
  const std::vector<int32_t> next_epoch = dataset.sample(Split::kTrain, num_samples);
  CHECK(std::vector<int32_t>(batch.token_ids.begin() + 8, batch.token_ids.begin() + 12) ==
        std::vector<int32_t>(next_epoch.begin(), next_epoch.begin() + 4));
}
