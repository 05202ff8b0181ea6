// Where two checkpoints differ: elements of tensors in any layout, forms, training state.
#include <cmath>
#include <numeric>

#include "inspect/checkpoint_diff.h"
#include "made_checkpoint.h"
#include "support/catch.h"
#include "support/temporary_directory.h"

namespace switchyard::test {
namespace {

std::vector<float> counting(int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  std::iota(values.begin(), values.end(), 1.0F);
  return values;
}

// Three tensors, by key: "a" of bf16, "b" and "c" of f32, cut along rows or columns.
MadeCheckpoint three_tensors(size_t dim) {
  return {.tensors = {{.key = "c",
                       .shape = {4, 6},
                       .values = counting(24),
                       .boxes = sliced({4, 6}, dim, 2)},
                      {.key = "b",
                       .shape = {2, 2, 2},
                       .values = counting(8),
                       .boxes = sliced({2, 2, 2}, dim, 2)},
                      {.key = "a",
                       .shape = {4},
                       .values = counting(4),
                       .boxes = {whole_box({4})},
                       .dtype = DType::kBF16}},
          .train = {{"step", 7}, {"accepted_losses", {1.0, 2.0, 3.0}}}};
}

CheckpointDiff diff_of(const MadeCheckpoint& a, const MadeCheckpoint& b, bool all = false) {
  const TemporaryDirectory directory;
  write_checkpoint(directory.file("a"), a);
  write_checkpoint(directory.file("b"), b);
  const CheckpointReader one(directory.file("a")), other(directory.file("b"));
  one.verify_everything();  // what the test made is sound
  other.verify_everything();
  return compare_checkpoints(one, other, all);
}

}  // namespace

TEST_CASE("the same state cut by rows and by columns is equal") {
  MadeCheckpoint by_columns = three_tensors(1);
  by_columns.layout["tp"] = 2;
  by_columns.config = {{"parallelism", {{"tensor_parallel_size", 2}}}};
  const CheckpointDiff diff = diff_of(three_tensors(0), by_columns);
  CHECK(diff.equal());
  CHECK(diff.num_tensors == 3);
  REQUIRE(diff.layout.size() == 1);
  CHECK(diff.layout[0].key == "tp");
  REQUIRE(diff.config.size() == 1);
  CHECK(diff.config[0].key == "parallelism");
  CHECK_THAT(to_text(diff, "A", "B"), contains_text("all 3 tensors are equal"));
}

TEST_CASE("every single element that differs is found, whatever the layouts") {
  for (int64_t element = 0; element < 24; ++element) {
    MadeCheckpoint changed = three_tensors(1);
    changed.tensors[0].values[static_cast<size_t>(element)] += 0.5F;
    const CheckpointDiff diff = diff_of(three_tensors(0), changed);
    CHECK_FALSE(diff.equal());
    REQUIRE(diff.tensors.size() == 1);
    const TensorDifference& tensor = diff.tensors[0];
    CHECK(tensor.key == "c");
    REQUIRE(tensor.first.has_value());
    CHECK(tensor.first->index == std::vector<int64_t>{element / 6, element % 6});
    CHECK(tensor.num_different == 1);
    CHECK(tensor.num_elements == 24);
  }
}

TEST_CASE("the first of several elements is named with both values") {
  MadeCheckpoint changed = three_tensors(1);
  changed.tensors[0].values[9] = 0.125F;
  changed.tensors[0].values[20] = 0;
  const CheckpointDiff diff = diff_of(three_tensors(0), changed);
  REQUIRE(diff.tensors.size() == 1);
  CHECK(diff.tensors[0].num_different == 2);
  CHECK_THAT(to_text(diff, "A", "B"),
             contains_text("c f32 (4, 6): first at [1, 3]: 10 (0x41200000) | 0.125 (0x3e000000); 2 "
                           "of 24 elements"));
}

TEST_CASE("only the first tensor is looked into, or all") {
  MadeCheckpoint changed = three_tensors(1);
  for (MadeTensor& tensor : changed.tensors) tensor.values.back() = -1;
  for (const bool all : {false, true}) {
    const CheckpointDiff diff = diff_of(three_tensors(0), changed, all);
    REQUIRE(diff.tensors.size() == 3);
    CHECK(diff.tensors[0].key == "a");
    REQUIRE(diff.tensors[0].first.has_value());
    CHECK(diff.tensors[0].first->b == "-1 (0xbf80)");
    REQUIRE(diff.tensors[1].first.has_value() == all);
    CHECK(diff.tensors[2].first.has_value() == all);
    if (all) CHECK(diff.tensors[1].first->index == std::vector<int64_t>{1, 1, 1});
  }
}

TEST_CASE("elements are compared by their bits") {
  MadeCheckpoint one = three_tensors(0), other = three_tensors(1);
  one.tensors[0].values[3] = other.tensors[0].values[3] = std::nanf("");
  CHECK(diff_of(one, other).equal());
  one.tensors[0].values[5] = 0.0F;
  other.tensors[0].values[5] = -0.0F;
  const CheckpointDiff diff = diff_of(one, other);
  REQUIRE(diff.tensors.size() == 1);
  REQUIRE(diff.tensors[0].first.has_value());
  CHECK(diff.tensors[0].first->index == std::vector<int64_t>{0, 5});
  CHECK(diff.tensors[0].first->b == "-0 (0x80000000)");
}

TEST_CASE("a difference beyond what is read at once is found") {
  constexpr int64_t kRows = 3, kColumns = 3'000'001;  // 34 MiB
  const auto large = [](std::vector<Box> boxes, float last) {
    std::vector<float> values(static_cast<size_t>(kRows * kColumns), 1.0F);
    values[static_cast<size_t>(2 * kColumns + 5)] = last;
    return MadeCheckpoint{.tensors = {{"t", {kRows, kColumns}, values, std::move(boxes)}}};
  };
  const CheckpointDiff diff = diff_of(large({whole_box({kRows, kColumns})}, 1.0F),
                                      large(sliced({kRows, kColumns}, 0, 3), 2.0F));
  REQUIRE(diff.tensors.size() == 1);
  REQUIRE(diff.tensors[0].first.has_value());
  CHECK(diff.tensors[0].first->index == std::vector<int64_t>{2, 5});
  CHECK(diff.tensors[0].num_different == 1);
  CHECK(diff.tensors[0].num_elements == kRows * kColumns);
}

TEST_CASE("tensors of another form, or of one checkpoint only") {
  MadeCheckpoint changed = three_tensors(0);
  changed.tensors[0].key = "d";
  changed.tensors[1].dtype = DType::kBF16;
  const CheckpointDiff diff = diff_of(three_tensors(0), changed);
  CHECK(diff.num_tensors == 4);
  REQUIRE(diff.tensors.size() == 3);
  const std::string text = to_text(diff, "A", "B");
  CHECK_THAT(text, contains_text("3 of 4 tensors differ"));
  CHECK_THAT(text, contains_text("b: f32 (2, 2, 2) | bf16 (2, 2, 2)"));
  CHECK_THAT(text, contains_text("c: f32 (4, 6) | not there"));
  CHECK_THAT(text, contains_text("d: not there | f32 (4, 6)"));
}

TEST_CASE("training state that differs counts") {
  MadeCheckpoint changed = three_tensors(0);
  changed.train = {{"step", 8}, {"accepted_losses", {1.0, 2.5, 4.0}}, {"more", 1}};
  const CheckpointDiff diff = diff_of(three_tensors(0), changed);
  CHECK(diff.tensors.empty());
  CHECK_FALSE(diff.equal());
  const std::string text = to_text(diff, "A", "B");
  for (const char* part : {"step: 7 | 8", "accepted_losses[1]: 2.0 | 2.5", "more: not there | 1"})
    CHECK_THAT(text, contains_text(part));
  CHECK(diff.train.size() == 3);
}

TEST_CASE("bytes that are not what the manifest says are not compared") {
  const TemporaryDirectory directory;
  MadeCheckpoint changed = three_tensors(0);
  changed.tensors[0].values[0] = 9;
  write_checkpoint(directory.file("a"), three_tensors(0));
  write_checkpoint(directory.file("b"), changed);
  const std::string path = directory.file("b/w00000.safetensors");
  std::string bytes = read_bytes(path);
  const float nine = 9;
  const size_t place = bytes.find(std::string(reinterpret_cast<const char*>(&nine), 4));
  REQUIRE(place != std::string::npos);
  bytes[place] = static_cast<char>(bytes[place] ^ 1);
  write_bytes(path, bytes);
  CHECK_THROWS_WITH(compare_checkpoints(CheckpointReader(directory.file("a")),
                                        CheckpointReader(directory.file("b")), false),
                    contains_text("is corrupt"));
}

}  // namespace switchyard::test
