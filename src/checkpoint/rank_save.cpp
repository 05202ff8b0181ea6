#include "checkpoint/rank_save.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "checkpoint/digest.h"
#include "checkpoint/run_names.h"
#include "checkpoint/shard_file.h"
#include "core/error.h"

namespace switchyard {
namespace {

using nlohmann::json;

// The files of a rank, one after another: bytes come as if they all went to one.
class RankFiles {
 public:
  RankFiles(Storage& storage, std::string staging, CheckpointId id, int rank, const SavePlan& plan)
      : storage_(storage),
        staging_(std::move(staging)),
        id_(std::move(id)),
        place_{.writer = rank, .num_writers = static_cast<int>(plan.pieces.size()), .part = 0},
        files_(files_of(plan, rank)) {
    place_.num_parts = static_cast<int>(files_.size());
    open_next();
  }

  void append(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      SY_CHECK(file_, "rank {}: {} bytes too many", place_.writer, bytes.size());
      const auto part = bytes.first(std::min(bytes.size(), static_cast<size_t>(left_)));
      file_->append(part);
      bytes = bytes.subspan(part.size());
      left_ -= static_cast<int64_t>(part.size());
      if (left_ > 0) continue;
      written_.push_back(file_->finish());
      open_next();
    }
  }

  // All bytes must have come.
  std::vector<ShardFile::Written> finish() {
    SY_CHECK(!file_, "rank {}: {} of {} files are complete", place_.writer, written_.size(),
             files_.size());
    return std::move(written_);
  }

 private:
  void open_next() {
    file_.reset();
    if (place_.part == place_.num_parts) return;
    const FilePieces& pieces = files_[static_cast<size_t>(place_.part++)];
    for (const ShardPiece& piece : pieces) left_ += piece.bytes();
    file_.emplace(storage_, staging_, id_, place_, pieces);
  }

  Storage& storage_;
  const std::string staging_;
  const CheckpointId id_;
  ShardPlace place_;  // of the file that is open
  const std::vector<FilePieces> files_;
  std::optional<ShardFile> file_;
  int64_t left_ = 0;  // bytes that the open file lacks
  std::vector<ShardFile::Written> written_;
};

std::string name_of_file(size_t rank, size_t index, size_t num_files) {
  return shard_name({.writer = static_cast<int>(rank),
                     .part = static_cast<int>(index) + 1,
                     .num_parts = static_cast<int>(num_files)});
}

}  // namespace

RankReport save_rank(Storage& storage, const std::string& staging, const CheckpointId& id,
                     const SavePlan& plan, int rank, const std::vector<HeldTensor>& held,
                     const HeldBytes& bytes) {
  RankReport report;
  const std::vector<SavePiece>& mine = plan.pieces[static_cast<size_t>(rank)];
  RankFiles files(storage, staging, id, rank, plan);
  auto piece = mine.begin();  // pieces come in the order of held tensors
  for (size_t i = 0; i < held.size(); ++i) {
    const std::span<const std::byte> all = bytes(i);
    report.digests.push_back(digest_of(held[i], all));
    const size_t item = size_in_bytes(held[i].data.dtype());
    for (; piece != mine.end() && piece->held == i; ++piece)
      files.append(all.subspan(static_cast<size_t>(piece->begin) * item,
                               static_cast<size_t>(piece->count) * item));
  }
  SY_CHECK(piece == mine.end(), "pieces are not in the order of held tensors");
  for (ShardFile::Written& written : files.finish()) {
    report.files.push_back(written.info);
    for (Chunk& chunk : written.chunks) {
      report.begins.push_back(chunk.begin);
      report.crc32c.push_back(std::move(chunk.crc32c));
    }
  }
  return report;
}

std::string to_text(const RankReport& report) {
  json text = {{"digests", report.digests}, {"files", json::array()}};
  for (const SavedFile& file : report.files)
    text["files"].push_back({file.bytes, file.header_bytes, file.header_crc32c});
  text["begins"] = report.begins;
  text["crc32c"] = report.crc32c;
  return text.dump();
}

RankReport report_from_text(const std::string& text) {
  RankReport report;
  try {
    const json parsed = json::parse(text);
    parsed.at("digests").get_to(report.digests);
    parsed.at("begins").get_to(report.begins);
    parsed.at("crc32c").get_to(report.crc32c);
    for (const json& file : parsed.at("files"))
      report.files.push_back(
          {file.at(0).get<int64_t>(), file.at(1).get<int64_t>(), file.at(2).get<uint32_t>()});
  } catch (const json::exception& error) {
    SY_CHECK(false, "a rank's report of its save cannot be read: {}", error.what());
  }
  return report;
}

std::map<std::string, SavedFile> files_of(const std::vector<RankReport>& reports) {
  std::map<std::string, SavedFile> files;
  for (size_t rank = 0; rank < reports.size(); ++rank)
    for (size_t i = 0; i < reports[rank].files.size(); ++i)
      files[name_of_file(rank, i, reports[rank].files.size())] = reports[rank].files[i];
  return files;
}

std::map<std::string, SavedTensor> tensors_of(const SavePlan& plan,
                                              const std::vector<RankReport>& reports) {
  std::map<std::string, SavedTensor> tensors;
  for (const auto& [key, digest] : tensor_digests(plan.regions, digests_of(reports)))
    tensors[key].digest = digest;
  for (const Region& region : plan.regions) {
    SavedTensor& tensor = tensors.at(region.tensor.key);
    tensor.role = region.tensor.role;
    tensor.dtype = region.tensor.dtype;
    tensor.shape = region.tensor.shape;
  }
  for (size_t rank = 0; rank < reports.size(); ++rank) {
    const RankReport& report = reports[rank];
    const std::vector<FilePieces> files = files_of(plan, static_cast<int>(rank));
    size_t next = 0;  // of the report's chunks
    for (size_t i = 0; i < files.size(); ++i)
      for (const ShardPiece& piece : files[i]) {
        SY_CHECK(next < report.begins.size() && next < report.crc32c.size(),
                 "rank {} wrote {} chunks, more are planned", rank, next);
        tensors.at(piece.key).chunks.push_back({.file = name_of_file(rank, i, files.size()),
                                                .begin = report.begins[next],
                                                .bytes = piece.bytes(),
                                                .box = piece.box,
                                                .crc32c = report.crc32c[next]});
        ++next;
      }
    SY_CHECK(next == report.begins.size() && files.size() == report.files.size(),
             "rank {} wrote {} chunks into {} files, planned are {} in {}", rank,
             report.begins.size(), report.files.size(), next, files.size());
  }
  return tensors;
}

DigestsByRank digests_of(const std::vector<RankReport>& reports) {
  DigestsByRank digests;
  for (const RankReport& report : reports) digests.push_back(report.digests);
  return digests;
}

}  // namespace switchyard
