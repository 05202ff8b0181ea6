// Which device the ranks of a job compute on, and which GPU each of them. Pure functions of what
// all ranks see: every rank decides alike.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "config/run_config.h"

namespace switchyard {

// What one rank sees.
struct GpusOfRank {
  std::string host;
  int num_visible = 0;
  std::string why_none = {};
};

// `asked`: the key "device". Unless it says otherwise: GPUs if this build can use them and every
// rank sees one. Errors (kConfig): GPUs are asked for and not to be had, or some ranks see one and
// others do not, and nobody has said what is meant.
Device choose_device(std::optional<Device> asked, bool is_built_with_cuda,
                     const std::vector<GpusOfRank>& ranks);

// The one GPU that the rank sees, or, of several, the one of its place among the ranks of its host.
// Error (kConfig): the host has more ranks than the rank sees GPUs.
int choose_gpu(int rank, const std::vector<GpusOfRank>& ranks);

// Error (kConfig) when two ranks have the same GPU. `uuids`: by rank.
void refuse_shared_gpus(const std::vector<GpusOfRank>& ranks,
                        const std::vector<std::string>& uuids);

}  // namespace switchyard
