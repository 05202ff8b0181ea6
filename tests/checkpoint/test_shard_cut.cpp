// What a writer writes, cut into files: none too large, everything once and in order, nothing cut
// that a file could hold.
#include <algorithm>
#include <random>

#include "checkpoint/shard_cut.h"
#include "support/catch.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

// Of a file with a header as long as there is any.
int64_t file_bytes(const FilePieces& pieces) {
  const CheckpointId id{.run_id = std::string(32, 'f'),
                        .lineage = std::string(32, 'f'),
                        .attempt = INT64_MAX,
                        .step = INT64_MAX};
  SafetensorsHeader header{.metadata = shard_metadata(id, {INT_MAX, INT_MAX, INT_MAX, INT_MAX})};
  int64_t end = 0;
  for (const ShardPiece& piece : pieces) {
    const int64_t begin = end;
    end += piece.bytes();
    const auto number = static_cast<int64_t>(header.tensors.size());
    header.tensors.push_back(
        {shard_entry_name(piece.key, number), {piece.dtype, piece.box.shape}, begin, end});
  }
  return static_cast<int64_t>(encode_header(header, kShardDataAlignment).size()) + end;
}

// The elements of a piece, in the order in which they are written.
std::vector<std::pair<std::string, int64_t>> elements_of(const ShardPiece& piece,
                                                         const std::vector<int64_t>& shape) {
  std::vector<std::pair<std::string, int64_t>> elements;
  for_each_run(shape, piece.box, [&](const Run& run) {
    for (int64_t i = 0; i < run.count; ++i) elements.emplace_back(piece.key, run.whole + i);
  });
  return elements;
}

}  // namespace

TEST_CASE("cuts: no file is too large, and all elements are written once, in order") {
  std::mt19937_64 random(3);
  const auto between = [&](int64_t first, int64_t last) {
    return std::uniform_int_distribution<int64_t>(first, last)(random);
  };
  const std::vector<int64_t> shape = {9, 20, 30};
  size_t num_files = 0, num_cut = 0;
  for (int i = 0; i < 300; ++i) {
    std::vector<ShardPiece> pieces;
    for (int64_t n = between(0, 40); n > 0; --n) {
      Box box{{0, 0, 0}, {0, 0, 0}};
      for (size_t d = 0; d < 3; ++d) {
        box.offset[d] = between(0, shape[d] - 1);
        box.shape[d] = between(1, shape[d] - box.offset[d]);
      }
      pieces.push_back({std::string(static_cast<size_t>(between(1, 256)), 'k'),
                        n % 2 == 0 ? DType::kF32 : DType::kBF16, box});
    }
    const int64_t limit = i % 3 == 0 ? between(4200, 9000) : between(9000, 60'000);
    CAPTURE(i, limit, pieces.size());
    std::vector<std::pair<std::string, int64_t>> expected, found;
    for (const ShardPiece& piece : pieces)
      std::ranges::copy(elements_of(piece, shape), std::back_inserter(expected));
    auto whole = pieces.begin();  // the piece that comes next
    int64_t done = 0;             // elements of it
    const std::vector<FilePieces> files = cut_into_files(pieces, limit);
    for (const FilePieces& file : files) {
      REQUIRE_FALSE(file.empty());
      REQUIRE(file_bytes(file) <= limit);
      for (const ShardPiece& piece : file) {
        std::ranges::copy(elements_of(piece, shape), std::back_inserter(found));
        if (piece.box != whole->box) {
          REQUIRE(file_bytes({*whole}) > limit);
          ++num_cut;
        }
        done += piece.box.numel();
        if (done < whole->box.numel()) continue;
        ++whole;
        done = 0;
      }
    }
    REQUIRE((found == expected));
    num_files += files.size();
  }
  CHECK(num_files > 500);
  CHECK(num_cut > 100);
}

TEST_CASE("cuts: one file where all fits, none for nothing, and a piece of more than a file") {
  const ShardPiece small{"small", DType::kF32, {{0}, {1024}}};
  CHECK(cut_into_files({}, kMaxFileBytes).empty());
  CHECK(cut_into_files({small, small}, kMaxFileBytes).size() == 1);
  CHECK(cut_into_files({small, small}, 4096 + 2 * 4096).size() == 1);
  CHECK(cut_into_files({small, small}, 4096 + 2 * 4096 - 1).size() == 2);
  // 9 GiB: what four experts of a large model have.
  const int64_t rows = int64_t{9} << 20;
  const auto files =
      cut_into_files({small, {"large", DType::kF32, {{0, 0}, {rows, 256}}}, small}, kMaxFileBytes);
  CHECK(files.size() == 4);  // `small` stays alone: what follows it fits into no file
  int64_t elements = 0;
  for (const FilePieces& file : files) {
    CHECK(file_bytes(file) <= kMaxFileBytes);
    for (const ShardPiece& piece : file) elements += piece.box.numel();
  }
  CHECK(elements == rows * 256 + 2 * 1024);
  CHECK_THROWS_WITH(cut_into_files({small}, 4096),
                    contains_text("4096 bytes cannot hold an element"));
}

TEST_CASE("cuts: names of files") {
  CHECK(shard_name({.writer = 3}) == "w00003.safetensors");
  CHECK(shard_name({.writer = 3, .part = 1, .num_parts = 2}) == "w00003-00001.safetensors");
  CHECK(shard_name({.writer = 123456, .part = 12, .num_parts = 12}) == "w123456-00012.safetensors");
  CHECK(std::string(word_for("run/.staging-000000001-1/w00003-00001.safetensors")) == "shard");
}
