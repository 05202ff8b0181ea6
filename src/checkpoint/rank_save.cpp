#include "checkpoint/rank_save.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "checkpoint/digest.h"
#include "checkpoint/run_names.h"
#include "checkpoint/shard_file.h"
#include "core/error.h"

namespace switchyard {
namespace {

using nlohmann::json;

// In the order in which the rank writes them.
struct PlacedChunk {
  const Declaration* tensor;
  Box box;
};

std::vector<PlacedChunk> chunks_of(const SavePlan& plan, int rank) {
  std::vector<PlacedChunk> chunks;
  for (const SavePiece& piece : plan.pieces[static_cast<size_t>(rank)]) {
    const Region& region = plan.regions[piece.region];
    for (Box& box : boxes_of(piece, region)) chunks.push_back({&region.tensor, std::move(box)});
  }
  return chunks;
}

}  // namespace

RankReport save_rank(Storage& storage, const std::string& staging, const CheckpointId& id,
                     const SavePlan& plan, int rank, const std::vector<HeldTensor>& held,
                     const HeldBytes& bytes) {
  RankReport report;
  const std::vector<SavePiece>& mine = plan.pieces[static_cast<size_t>(rank)];
  std::vector<ShardPiece> pieces;
  for (PlacedChunk& chunk : chunks_of(plan, rank))
    pieces.push_back({chunk.tensor->key, chunk.tensor->dtype, std::move(chunk.box)});
  std::optional<ShardFile> file;
  if (!pieces.empty())
    file.emplace(storage, staging, id, rank, static_cast<int>(plan.pieces.size()),
                 std::move(pieces));
  auto piece = mine.begin();  // pieces come in the order of held tensors
  for (size_t i = 0; i < held.size(); ++i) {
    const std::span<const std::byte> all = bytes(i);
    report.digests.push_back(digest_of(held[i], all));
    const size_t item = size_in_bytes(held[i].data.dtype());
    for (; piece != mine.end() && piece->held == i; ++piece)
      file->append(all.subspan(static_cast<size_t>(piece->begin) * item,
                               static_cast<size_t>(piece->count) * item));
  }
  SY_CHECK(piece == mine.end(), "pieces are not in the order of held tensors");
  if (!file) return report;
  ShardFile::Written written = file->finish();
  report.has_file = true;
  report.file = written.info;
  for (Chunk& chunk : written.chunks) {
    report.begins.push_back(chunk.begin);
    report.crc32c.push_back(std::move(chunk.crc32c));
  }
  return report;
}

std::string to_text(const RankReport& report) {
  json text = {{"digests", report.digests}};
  if (report.has_file)
    text["file"] = {report.file.bytes, report.file.header_bytes, report.file.header_crc32c};
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
    if (const auto file = parsed.find("file"); file != parsed.end()) {
      report.has_file = true;
      report.file = {file->at(0).get<int64_t>(), file->at(1).get<int64_t>(),
                     file->at(2).get<uint32_t>()};
    }
  } catch (const json::exception& error) {
    SY_CHECK(false, "a rank's report of its save cannot be read: {}", error.what());
  }
  return report;
}

std::map<std::string, SavedFile> files_of(const std::vector<RankReport>& reports) {
  std::map<std::string, SavedFile> files;
  for (size_t rank = 0; rank < reports.size(); ++rank)
    if (reports[rank].has_file) files[shard_name(static_cast<int>(rank))] = reports[rank].file;
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
    std::vector<PlacedChunk> chunks = chunks_of(plan, static_cast<int>(rank));
    SY_CHECK(chunks.size() == report.begins.size() && chunks.size() == report.crc32c.size(),
             "rank {} wrote {} chunks, planned are {}", rank, report.begins.size(), chunks.size());
    for (size_t i = 0; i < chunks.size(); ++i) {
      const int64_t numel = chunks[i].box.numel();
      tensors.at(chunks[i].tensor->key)
          .chunks.push_back(
              {.file = shard_name(static_cast<int>(rank)),
               .begin = report.begins[i],
               .bytes = numel * static_cast<int64_t>(size_in_bytes(chunks[i].tensor->dtype)),
               .box = std::move(chunks[i].box),
               .crc32c = report.crc32c[i]});
    }
  }
  return tensors;
}

DigestsByRank digests_of(const std::vector<RankReport>& reports) {
  DigestsByRank digests;
  for (const RankReport& report : reports) digests.push_back(report.digests);
  return digests;
}

}  // namespace switchyard
