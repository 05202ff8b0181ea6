// Boxes, digests of boxes, and loading from boxes into boxes: against one element at a time.
#include <algorithm>
#include <bit>
#include <numeric>
#include <random>

#include "backend/cpu/cpu_backend.h"
#include "checkpoint/box.h"
#include "checkpoint/digest.h"
#include "checkpoint/load_state.h"
#include "support/catch.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

class Dice {
 public:
  explicit Dice(uint64_t seed) : engine_(seed) {}
  int64_t between(int64_t first, int64_t last) {
    return std::uniform_int_distribution<int64_t>(first, last)(engine_);
  }

 private:
  std::mt19937_64 engine_;
};

std::vector<int64_t> random_shape(Dice& dice, int64_t max_dim) {
  std::vector<int64_t> shape;
  for (int64_t d = dice.between(0, 4); d > 0; --d) shape.push_back(dice.between(1, max_dim));
  return shape;
}

// Global index of every element of the box, in its own order.
std::vector<int64_t> indices_of(const std::vector<int64_t>& shape, const Box& box) {
  std::vector<int64_t> indices;
  for (int64_t element = 0; element < box.numel(); ++element) {
    int64_t rest = element, index = 0, stride = 1;
    for (size_t d = shape.size(); d-- > 0;) {
      index += (box.offset[d] + rest % box.shape[d]) * stride;
      rest /= box.shape[d];
      stride *= shape[d];
    }
    indices.push_back(index);
  }
  return indices;
}

// Cuts the box at random places into up to about `parts` boxes, in random order.
std::vector<Box> random_cut(Dice& dice, const Box& box, int64_t parts) {
  std::vector<Box> boxes = {box};
  for (int64_t i = 1; i < parts && !box.shape.empty(); ++i) {
    const auto which = static_cast<size_t>(dice.between(0, std::ssize(boxes) - 1));
    const auto d = static_cast<size_t>(dice.between(0, std::ssize(box.shape) - 1));
    Box& first = boxes[which];
    if (first.shape[d] < 2) continue;
    Box second = first;
    const int64_t at = dice.between(1, first.shape[d] - 1);
    first.shape[d] = at;
    second.offset[d] += at;
    second.shape[d] -= at;
    std::swap(boxes[static_cast<size_t>(dice.between(0, std::ssize(boxes) - 1))], boxes.back());
    boxes.push_back(second);
  }
  return boxes;
}

}  // namespace

TEST_CASE("a range of elements is few boxes, each contiguous, one after another") {
  const std::vector<std::vector<int64_t>> shapes = {
      {}, {1}, {7}, {3, 5}, {5, 1}, {1, 5}, {2, 3, 4}, {3, 1, 2, 5}, {2, 2, 2, 2}, {1, 1, 1}};
  for (const std::vector<int64_t>& shape : shapes) {
    const int64_t numel = numel_of(shape);
    for (int64_t begin = 0; begin <= numel; ++begin)
      for (int64_t end = begin; end <= numel; ++end) {
        const std::vector<Box> boxes = contiguous_boxes(shape, begin, end);
        std::vector<int64_t> indices;
        for (const Box& box : boxes) {
          const std::vector<int64_t> of_box = indices_of(shape, box);
          indices.insert(indices.end(), of_box.begin(), of_box.end());
          int runs = 0;
          for_each_run(shape, box, [&](const Run&) { ++runs; });
          REQUIRE(runs == 1);
        }
        std::vector<int64_t> expected(static_cast<size_t>(end - begin));
        std::iota(expected.begin(), expected.end(), begin);
        CAPTURE(shape_text(shape), begin, end);
        REQUIRE(indices == expected);
        REQUIRE(std::ssize(boxes) <= std::max<int64_t>(1, 2 * std::ssize(shape) - 1));
      }
  }
  CHECK(contiguous_boxes(std::vector<int64_t>{4, 6}, 0, 24) == std::vector<Box>{{{0, 0}, {4, 6}}});
  CHECK(contiguous_boxes(std::vector<int64_t>{4, 6}, 4, 20) ==
        std::vector<Box>{{{0, 4}, {1, 2}}, {{1, 0}, {2, 6}}, {{3, 0}, {1, 2}}});
  CHECK_THROWS_AS(contiguous_boxes(std::vector<int64_t>{4, 6}, 4, 25), Error);
}

TEST_CASE("runs are the longest there are") {
  const auto runs = [](const std::vector<int64_t>& shape, const Box& box) {
    std::vector<int64_t> counts;
    for_each_run(shape, box, [&](const Run& run) { counts.push_back(run.count); });
    return counts;
  };
  CHECK(runs({4, 3, 5}, {{1, 0, 0}, {2, 3, 5}}) == std::vector<int64_t>{30});
  CHECK(runs({4, 3, 5}, {{1, 1, 0}, {2, 2, 5}}) == std::vector<int64_t>{10, 10});
  CHECK(runs({2, 3}, {{0, 1}, {2, 2}}) == std::vector<int64_t>{2, 2});
  CHECK(runs({}, {}) == std::vector<int64_t>{1});
  CHECK(runs({2, 3}, {{0, 1}, {0, 2}}).empty());
}

TEST_CASE("boxes that do not fit, and sizes beyond 64 bits, are refused") {
  constexpr int64_t kHuge = int64_t{1} << 62;
  const std::vector<int64_t> shape = {4, 6};
  CHECK(fits({{1, 2}, {3, 4}}, shape));
  CHECK(fits({{4, 6}, {0, 0}}, shape));
  CHECK_FALSE(fits({{1, 2}, {4, 4}}, shape));
  CHECK_FALSE(fits({{-1, 2}, {1, 4}}, shape));
  CHECK_FALSE(fits({{1, 2}, {-1, 4}}, shape));
  CHECK_FALSE(fits({{INT64_MAX, 2}, {1, 4}}, shape));
  CHECK_FALSE(fits({{1}, {1}}, shape));
  CHECK_THROWS_AS((numel_of(std::vector<int64_t>{kHuge, 4})), Error);
  CHECK_THROWS_AS((numel_of(std::vector<int64_t>{-2, -3})), Error);
  CHECK(numel_of(std::vector<int64_t>{kHuge, 4, 0}) == 0);
  CHECK_THROWS_AS(placed_in({{1, 1}, {2, 2}}, {{1, 1}, {2, 1}}), Error);
  CHECK_THROWS_AS(counted_from({{1, 1}, {2, 2}}, {{0, 1}, {2, 1}}), Error);
}

TEST_CASE("intersections, and boxes in boxes") {
  const Box a = {{1, 2}, {3, 4}}, b = {{2, 0}, {5, 3}};
  CHECK(intersection(a, b) == Box{{2, 2}, {2, 1}});
  CHECK(intersection(a, {{4, 2}, {1, 4}}).numel() == 0);
  CHECK(intersection({}, {}).numel() == 1);
  CHECK(counted_from(a, {{2, 2}, {2, 1}}) == Box{{1, 0}, {2, 1}});
  CHECK(placed_in(a, {{1, 0}, {2, 1}}) == Box{{2, 2}, {2, 1}});
  CHECK(box_text(a) == "[1:4, 2:6]");
}

TEST_CASE("digests of parts sum to the digest of the whole, whatever the parts") {
  Dice dice(1);
  for (const DType dtype : {DType::kBF16, DType::kF32, DType::kF64, DType::kU8})
    for (int i = 0; i < 200; ++i) {
      const TensorInfo info = {dtype, random_shape(dice, 7)};
      std::vector<std::byte> bytes(static_cast<size_t>(info.bytes()));
      for (std::byte& byte : bytes) byte = static_cast<std::byte>(dice.between(0, 255));
      const uint64_t whole = digest_of(info.shape, whole_box(info.shape), dtype, bytes);
      uint64_t sum = 0;
      for (const Box& box : random_cut(dice, whole_box(info.shape), dice.between(1, 9)))
        sum += digest_of(info.shape, box, dtype, cut_out(bytes, info, box));
      REQUIRE(sum == whole);
      // Any bit counts, and so does every place.
      const auto at = static_cast<size_t>(dice.between(0, std::ssize(bytes) - 1));
      bytes[at] ^= static_cast<std::byte>(1 << dice.between(0, 7));
      REQUIRE(digest_of(info.shape, whole_box(info.shape), dtype, bytes) != whole);
    }
  const std::vector<float> ab = {1, 2}, ba = {2, 1}, zeros = {0, 0};
  const auto digest = [](const std::vector<float>& values) {
    const std::vector<int64_t> shape = {std::ssize(values)};
    return digest_of(shape, whole_box(shape), DType::kF32, std::as_bytes(std::span(values)));
  };
  CHECK(digest(ab) != digest(ba));
  CHECK(digest(zeros) != digest({0}));
  CHECK(digest({}) == 0);
}

TEST_CASE("digests of what a device holds are those of its bytes") {
  Dice dice(2);
  CpuBackend backend(2);
  for (const DType dtype : {DType::kBF16, DType::kF32, DType::kF64, DType::kU8})
    for (int i = 0; i < 100; ++i) {
      const TensorInfo info = {dtype, random_shape(dice, 9)};
      std::vector<std::byte> bytes(static_cast<size_t>(info.bytes()));
      for (std::byte& byte : bytes) byte = static_cast<std::byte>(dice.between(0, 255));
      std::vector<HeldTensor> held;
      std::vector<std::vector<std::byte>> parts;
      std::vector<uint64_t> expected;
      for (const Box& box : random_cut(dice, whole_box(info.shape), dice.between(1, 9))) {
        parts.push_back(cut_out(bytes, info, box));
        expected.push_back(digest_of(info.shape, box, dtype, parts.back()));
        held.push_back({.shape = info.shape,
                        .box = box,
                        .data = Tensor(parts.back().data(), dtype, {box.numel()})});
      }
      REQUIRE(digests_of(held, backend) == expected);
    }
  CHECK(digests_of({}, backend).empty());
}

// The definition, one element at a time: files of different builds must agree for ever.
TEST_CASE("the digest is what it was") {
  const std::vector<double> values = {0.0, 1.0, -2.5};
  const std::vector<int64_t> shape = {3};
  uint64_t expected = 0;
  for (size_t i = 0; i < 3; ++i) {
    uint64_t x = std::bit_cast<uint64_t>(values[i]) + i * 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    expected += x ^ (x >> 31);
  }
  CHECK(digest_of(shape, whole_box(shape), DType::kF64, std::as_bytes(std::span(values))) ==
        expected);
}

TEST_CASE("tensors cut one way are loaded into parts cut another way") {
  CpuBackend backend(1);
  Dice dice(2);
  int64_t bytes_needed = 0, bytes_read = 0;
  for (int i = 0; i < 100'000; ++i) {
    const std::vector<int64_t> shape = random_shape(dice, i % 3 == 0 ? 13 : 6);
    const int64_t numel = numel_of(shape);
    // The file holds the global index of each element.
    Manifest manifest;
    SavedTensor& saved = manifest.tensors["t"];
    saved = {.role = TensorRole::kParam, .dtype = DType::kI32, .shape = shape};
    std::vector<int32_t> file;
    for (const Box& box : random_cut(dice, whole_box(shape), dice.between(1, 12))) {
      saved.chunks.push_back(
          {.file = "f", .begin = std::ssize(file) * 4, .bytes = box.numel() * 4, .box = box});
      for (const int64_t index : indices_of(shape, box))
        file.push_back(static_cast<int32_t>(index));
    }
    std::vector<int> times_read(file.size(), 0);
    const auto read = [&](const Chunk& chunk, int64_t begin, std::span<std::byte> out) {
      REQUIRE((begin >= 0 && begin + std::ssize(out) <= chunk.bytes && !out.empty()));
      const auto first = static_cast<size_t>(chunk.begin + begin);
      std::copy_n(std::as_bytes(std::span(file)).begin() + static_cast<ptrdiff_t>(first),
                  out.size(), out.begin());
      bytes_read += std::ssize(out);
      for (size_t e = first / 4; e < (first + out.size()) / 4; ++e) ++times_read[e];
    };
    // All of the tensor, or some of its parts.
    std::vector<Box> boxes = random_cut(dice, whole_box(shape), dice.between(1, 12));
    if (i % 2 == 0) boxes.resize(static_cast<size_t>(dice.between(1, std::ssize(boxes))));
    std::vector<std::vector<int32_t>> memory;
    std::vector<HeldTensor> held;
    for (const Box& box : boxes) {
      memory.emplace_back(static_cast<size_t>(box.numel()), -1);
      held.push_back({.key = "t",
                      .shape = shape,
                      .box = box,
                      .data = Tensor(memory.back().data(), DType::kI32, {box.numel()})});
      bytes_needed += box.numel() * 4;
    }
    load_state(manifest, read, held, backend);
    int64_t loaded = 0;
    for (size_t h = 0; h < held.size(); ++h) {
      const std::vector<int64_t> indices = indices_of(shape, boxes[h]);
      REQUIRE(std::equal(indices.begin(), indices.end(), memory[h].begin(), memory[h].end()));
      loaded += std::ssize(indices);
    }
    REQUIRE(*std::max_element(times_read.begin(), times_read.end()) == 1);
    REQUIRE((i % 2 == 0 || loaded == numel));
  }
  CHECK(bytes_read <= bytes_needed * 105 / 100);
}

TEST_CASE("a checkpoint that does not fit is refused by name") {
  CpuBackend backend(1);
  const auto region = [](const std::string& key, TensorRole role, DType dtype,
                         const std::vector<int64_t>& shape) {
    return Region{.tensor = {key, role, dtype, shape, whole_box(shape)},
                  .holders = {{.rank = 0, .held = 0}}};
  };
  Manifest manifest;
  manifest.tensors["a"] = {TensorRole::kParam, DType::kF32, {2, 3}};
  manifest.tensors["exp_avg/a"] = {TensorRole::kExpAvg, DType::kF32, {2, 3}};
  const auto message = [&](const std::vector<Region>& regions, LoadScope scope) {
    try {
      check_contents(manifest, regions, scope, "RUN/step-1");
    } catch (const Error& error) {
      CHECK(error.code() == ExitCode::kData);
      return std::string(error.what());
    }
    return std::string();
  };
  const Region a = region("a", TensorRole::kParam, DType::kF32, {2, 3});
  const Region moment = region("exp_avg/a", TensorRole::kExpAvg, DType::kF32, {2, 3});
  CHECK(message({a, moment}, LoadScope::kEverything).empty());
  CHECK(message({a}, LoadScope::kWeights).empty());
  CHECK_THAT(message({a}, LoadScope::kEverything),
             contains_text("RUN/step-1: the checkpoint does not fit the run, in 1 tensor:\n  "
                           "\"exp_avg/a\" is not a tensor of this run"));
  CHECK_THAT(message({a, moment, region("b", TensorRole::kParam, DType::kF32, {1})},
                     LoadScope::kEverything),
             contains_text("\"b\" is missing"));
  CHECK_THAT(message({region("a", TensorRole::kParam, DType::kF32, {3, 2})}, LoadScope::kWeights),
             contains_text("\"a\" is a weight, f32 (2, 3), expected a weight, f32 (3, 2)"));
  CHECK_THAT(message({region("a", TensorRole::kParam, DType::kF64, {2, 3})}, LoadScope::kWeights),
             contains_text("expected a weight, f64 (2, 3)"));
  CHECK_THAT(message({region("a", TensorRole::kState, DType::kF32, {2, 3})}, LoadScope::kWeights),
             contains_text("expected a state, f32"));
  std::vector<Region> many = {a, moment};
  for (int i = 10; i < 40; ++i)
    many.push_back(region("x" + std::to_string(i), TensorRole::kParam, DType::kF32, {1}));
  const std::string text = message(many, LoadScope::kEverything);
  CHECK_THAT(text, contains_text("30 tensors"));
  CHECK_THAT(text, contains_text("\"x29\" is missing\n  and 10 more"));
  CHECK(text.find("x30") == std::string::npos);

  // The same at the ranks that hold the tensors, and for holes.
  std::vector<float> memory(6);
  const auto load = [&](const std::string& key) {
    load_state(
        manifest, [](const Chunk&, int64_t, std::span<std::byte>) {},
        {{.key = key,
          .shape = {2, 3},
          .box = whole_box({2, 3}),
          .data = Tensor(memory.data(), DType::kF32, {6})}},
        backend);
  };
  CHECK_THROWS_WITH(load("c"), contains_text("\"c\" is missing"));
  manifest.tensors["a"].chunks = {{.file = "f", .bytes = 12, .box = {{0, 0}, {1, 3}}}};
  CHECK_THROWS_WITH(load("a"), contains_text("has 3 of the 6 elements [0:2, 0:3] of tensor \"a\""));

  CHECK_NOTHROW(check_digests(manifest, {{"a", 0}}, "RUN/step-1"));
  CHECK_THROWS_WITH(check_digests(manifest, {{"a", 5}}, "RUN/step-1"),
                    contains_text("\"a\" has digest 0x0000000000000005, expected"));
}
