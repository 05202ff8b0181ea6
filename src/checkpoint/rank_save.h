// What one rank does and tells in a save: it writes its pieces to files of its own and reports
// the checksums and the digests of all it holds; rank 0 makes the manifest's tables of the reports.
// Runs on a writer thread (background_task.h): no MPI, no device.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/held_tensor.h"
#include "checkpoint/manifest.h"
#include "checkpoint/save_plan.h"
#include "checkpoint/storage.h"
#include "checkpoint/tensor_digests.h"

namespace switchyard {

// Host memory with the elements of a held tensor, until the next call.
using HeldBytes = std::function<std::span<const std::byte>(size_t held)>;

struct RankReport {
  std::vector<uint64_t> digests = {};              // of each held tensor
  std::vector<SavedFile> files = {};               // none where there is nothing to write
  std::vector<int64_t> begins = {};                // of each chunk in its file,
  std::vector<std::vector<uint32_t>> crc32c = {};  // and of its blocks; in the order of the plan
};

// Collective in effect, not in calls: every rank of the job writes to the same directory.
RankReport save_rank(Storage& storage, const std::string& staging, const CheckpointId& id,
                     const SavePlan& plan, int rank, const std::vector<HeldTensor>& held,
                     const HeldBytes& bytes);

// How reports travel between the ranks of a job.
std::string to_text(const RankReport& report);
RankReport report_from_text(const std::string& text);

// The tables of the manifest.
std::map<std::string, SavedFile> files_of(const std::vector<RankReport>& reports);
std::map<std::string, SavedTensor> tensors_of(const SavePlan& plan,
                                              const std::vector<RankReport>& reports);
DigestsByRank digests_of(const std::vector<RankReport>& reports);

}  // namespace switchyard
