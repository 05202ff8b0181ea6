// ProcessGrid: who am I, and with whom do I talk? Built once by the
// subcommand (cli/), passed down by reference.
//
// World W = dp * tp * pp. Dense order, fastest axis first: tp, dp, pp: rank = t + tp * (d + dp *
// p). Each pipeline stage (dp * tp ranks) is cut a second time for the experts: rank_in_stage = x +
// etp * (e + ep * f), with edp = dp * tp / (ep * etp). Where there are more tp ranks than key/value
// heads, kv_copies consecutive tp ranks hold the same head. Ranks that talk most are neighbours, so
// that their traffic stays inside a node whenever their group fits into one.
#pragma once

#include <memory>
#include <string>

#include "comm/communicator.h"

namespace switchyard {

struct GridSizes {
  int dp = 1;         // data parallel
  int tp = 1;         // tensor parallel
  int pp = 1;         // pipeline parallel
  int ep = 1;         // expert parallel
  int etp = 1;        // expert tensor parallel
  int kv_copies = 1;  // tp ranks that hold the same key/value head

  int world() const { return dp * tp * pp; }
  int edp() const { return dp * tp / (ep * etp); }  // expert data parallel
};

// Position on every axis, from 0.
struct GridCoordinates {
  int dp = 0, tp = 0, pp = 0;    // dense cut
  int ep = 0, etp = 0, edp = 0;  // expert cut
  int kv = 0;                    // among the tp ranks with the same key/value head
};

// Pure function; `rank` in [0, sizes.world()).
GridCoordinates coordinates_of(int rank, const GridSizes& sizes);

class ProcessGrid {
 public:
  // Splits `world` into one communicator per group below; all use `backend`, if one is given, which
  // outlives the grid. Collective.
  ProcessGrid(Communicator& world, const GridSizes& sizes, Backend* backend = nullptr);

  const GridSizes& sizes() const { return sizes_; }
  const GridCoordinates& me() const { return me_; }

  Communicator& world() const { return *world_; }
  Communicator& dp() const { return *dp_; }        // dense gradients and parameters
  Communicator& tp() const { return *tp_; }        // activations of column/row-parallel layers
  Communicator& pp() const { return *pp_; }        // activations between stages
  Communicator& ep() const { return *ep_; }        // tokens to experts and back
  Communicator& etp() const { return *etp_; }      // slices of one expert
  Communicator& edp() const { return *edp_; }      // expert gradients and parameters
  Communicator& stage() const { return *stage_; }  // all ranks of my pipeline stage
  Communicator& kv() const { return *kv_; }        // gradients of key/value heads with copies
  // The ranks of the first and the last stage at my place in the stage: gradients of an embedding
  // that is the head too. A group of one on other stages and in a pipeline of one stage.
  Communicator& tied() const { return *tied_; }

  std::string description() const;  // "dp 4 x tp 1 x pp 1, experts: ep 2 x etp 1 x edp 2"

 private:
  GridSizes sizes_;
  GridCoordinates me_;
  std::unique_ptr<Communicator> world_, dp_, tp_, pp_, ep_, etp_, edp_, stage_, kv_, tied_;
};

}  // namespace switchyard
