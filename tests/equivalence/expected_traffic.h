// What a training step hands over for other ranks, per communicator and kind of collective, in
// elements: the closed forms of src/comm/README.md, written a second time, from sizes and from the
// routing map alone. Dispatch counts distinct (token, expert-parallel peer) pairs.
#pragma once

#include <algorithm>
#include <map>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "backend/ops.h"
#include "comm/process_grid.h"
#include "model/moe/routing_log.h"
#include "model/stage.h"
#include "optim/flat_layout.h"

namespace switchyard::test {

struct Elements {
  int64_t all_to_all = 0, all_gather = 0, reduce_scatter = 0, all_reduce = 0, point_to_point = 0;

  bool operator==(const Elements&) const = default;
  std::string text() const {
    return fmt::format("all_to_all {} all_gather {} reduce_scatter {} all_reduce {} p2p {}",
                       all_to_all, all_gather, reduce_scatter, all_reduce, point_to_point);
  }
};
using ExpectedTraffic = std::map<std::string, Elements>;  // by communicator

class TrafficForms {
 public:
  // `config` is resolved; `parameters` are this rank's; `routing` holds the choices of every
  // micro-batch of the step, whose first has number `first_stream`.
  TrafficForms(const RunConfig& config, const ProcessGrid& grid, const ParameterList& parameters,
               const RoutingLog& routing, int64_t first_stream)
      : config_(config),
        grid_(grid),
        sizes_(grid.sizes()),
        me_(grid.me()),
        routing_(routing),
        first_stream_(first_stream),
        T_(*config.train_micro_batch_size_per_gpu * config.data.sequence_length),
        D_(config.model.hidden_size),
        M_(*config.gradient_accumulation_steps),
        own_(rows_of(me_.tp)),
        sequence_parallel_(*config.parallelism.sequence_parallel),
        again_(config.activation_checkpointing.policy == RecomputePolicy::kFull ? 2 : 1) {
    for (const StagePart& part : parts_of_rank(config, me_.pp)) add_part(part);
    add_optimizer(parameters);
  }

  const ExpectedTraffic& expected() const { return expected_; }

 private:
  int64_t rows_of(int tp_rank) const {
    return T_ * (tp_rank + 1) / sizes_.tp - T_ * tp_rank / sizes_.tp;
  }

  // A sum of n elements over P ranks, seen from rank r.
  static int64_t all_reduce(int64_t n, int64_t r, int64_t P) {
    const int64_t slice = n * (r + 1) / P - n * r / P;
    return n - slice + slice * (P - 1);
  }

  // The borders of tensor-parallel layers, `times` times.
  void gather(int64_t times) {
    if (sequence_parallel_) expected_["tp"].all_gather += times * own_ * D_ * (sizes_.tp - 1);
  }
  void reduce(int64_t times) {
    if (sequence_parallel_)
      expected_["tp"].reduce_scatter += times * (T_ - own_) * D_;
    else
      expected_["tp"].all_reduce += times * all_reduce(T_ * D_, me_.tp, sizes_.tp);
  }

  void add_part(const StagePart& part) {
    if (part.has_embedding) {
      reduce(M_);
      gather(M_);
    } else {
      expected_["pp"].point_to_point += hidden() * (sizes_.pp > 1 ? M_ : 0);
    }
    for (int layer = part.first_layer; layer < part.first_layer + part.num_layers; ++layer)
      add_block(layer);
    if (part.has_head) {
      gather(M_);
      expected_["tp"].all_gather += M_ * T_ * 3 * (sizes_.tp - 1);
      reduce(M_);
    } else {
      expected_["pp"].point_to_point += hidden() * (sizes_.pp > 1 ? M_ : 0);
    }
  }

  int64_t hidden() const { return (sequence_parallel_ ? own_ : T_) * D_; }

  // A tensor-parallel layer: gather and reduce in the forward, in each that comes again, and in the
  // backward.
  void add_layer() {
    gather(M_ * (again_ + 1));
    reduce(M_ * (again_ + 1));
  }

  void add_block(int layer) {
    add_layer();  // attention
    const auto& is_moe = config_.moe.layer_freq;
    if (is_moe[static_cast<size_t>(layer)] == 0) return add_layer();
    if (config_.moe.num_shared_experts > 0) add_layer();
    if (!sequence_parallel_)
      expected_["tp"].all_gather += M_ * (again_ + 1) * own_ * D_ * (sizes_.tp - 1);
    add_scopes();
    const auto moe_index = static_cast<int>(std::count(is_moe.begin(), is_moe.begin() + layer, 1));
    for (int64_t m = 0; m < M_; ++m) add_dispatch(moe_index, m);
  }

  // Balance loss and capacity, once per micro-batch, in recomputation not again.
  void add_scopes() {
    const MoeConfig& moe = config_.moe;
    const int64_t E = moe.num_experts, stage_rank = grid_.stage().rank();
    if (moe.load_balancing_scope == BalanceScope::kSequence)
      expected_["tp"].all_reduce +=
          M_ * all_reduce(2 * *config_.train_micro_batch_size_per_gpu * E, me_.tp, sizes_.tp);
    else
      expected_["stage"].all_reduce += M_ * all_reduce(2 * E, stage_rank, grid_.stage().size());
    if (moe.token_drop_policy == TokenDropPolicy::kDropless) return;
    const bool within_sequence = moe.capacity_scope == BalanceScope::kSequence;
    const int64_t ranks = within_sequence ? sizes_.tp : grid_.stage().size();
    expected_[within_sequence ? "tp" : "stage"].all_gather +=
        M_ * 2 * own_ * moe.top_k * (ranks - 1);
  }

  // Rows that the rank at (etp x, ep e) of this rank's expert data parallel group sends to ep peer
  // `peer`: distinct tokens among its own with a kept choice there.
  int64_t rows_sent(int x, int e, int peer, int moe_index, int64_t m) const {
    const int rank_in_stage = x + sizes_.etp * (e + sizes_.ep * me_.edp);
    const int t = rank_in_stage % sizes_.tp, d = rank_in_stage / sizes_.tp;
    const int64_t first = d * T_ + T_ * t / sizes_.tp;
    const auto& kept = routing_.at(first_stream_ + m, moe_index).kept;
    const int64_t A = config_.moe.top_k, per_peer = config_.moe.num_experts / sizes_.ep;
    int64_t rows = 0;
    for (int64_t row = first; row < first + rows_of(t); ++row) {
      bool any = false;
      for (int64_t a = 0; a < A; ++a) {
        const int32_t expert = kept[static_cast<size_t>(row * A + a)];
        any = any || (expert >= 0 && expert / per_peer == peer);
      }
      rows += any ? 1 : 0;
    }
    return rows;
  }

  void add_dispatch(int moe_index, int64_t m) {
    const DType real = config_.real();
    const int64_t A = config_.moe.top_k;
    const int64_t row = dispatch_row_bytes(D_, A, real),
                  gradient_row = gradient_row_bytes(D_, A, real);
    int64_t sent = 0, received = 0;                                // to and from other ep peers
    std::vector<int64_t> slices(static_cast<size_t>(sizes_.etp));  // received by each etp rank
    for (int e = 0; e < sizes_.ep; ++e) {
      if (e != me_.ep) {
        sent += rows_sent(me_.etp, me_.ep, e, moe_index, m);
        received += rows_sent(me_.etp, e, me_.ep, moe_index, m);
      }
      for (int x = 0; x < sizes_.etp; ++x)
        slices[static_cast<size_t>(x)] += rows_sent(x, e, me_.ep, moe_index, m);
    }
    const int64_t mine = slices[static_cast<size_t>(me_.etp)];
    const int64_t all = std::accumulate(slices.begin(), slices.end(), int64_t{0});
    // Forward: rows of bytes there, hidden states back. Backward: hidden states there, rows back.
    expected_["ep"].all_to_all +=
        again_ * (sent * row + received * D_) + sent * D_ + received * gradient_row;
    expected_["etp"].all_gather += (sizes_.etp - 1) * mine * (again_ * row + D_);
    expected_["etp"].reduce_scatter += (all - mine) * (again_ * D_ + D_ + A);
  }

  void add_optimizer(const ParameterList& parameters) {
    const ZeroConfig& zero = config_.zero_optimization;
    const bool per_micro_batch = zero.stage == 2 && !zero.reduce_once_per_step;
    for (const FlatLayout& layout : lay_out(parameters, sizes_.dp, sizes_.edp())) {
      Elements& sharers = expected_[layout.key.group == ReplicaGroup::kDense ? "dp" : "edp"];
      const int64_t d = layout.num_sharers;
      for (const Bucket& bucket : layout.buckets) {
        const int64_t slice = bucket.size / d;
        // Tied on one rank: the head adds to the embedding's bucket first.
        const bool twice =
            config_.model.tie_word_embeddings && sizes_.pp == 1 && bucket.unit == embedding_unit();
        const int64_t times = per_micro_batch ? M_ * (twice ? 2 : 1) : 1;
        if (zero.stage == 0)
          sharers.all_reduce += all_reduce(bucket.size, rank_among(layout), d);
        else
          sharers.reduce_scatter += times * (bucket.size - slice);
        if (zero.stage > 0) sharers.all_gather += slice * (d - 1);
        if (layout.key.is_partial) add_copies(layout, zero.stage == 0 ? bucket.size : slice);
      }
    }
    expected_["world"].all_gather += 2 * (sizes_.world() - 1);  // gradient norm and loss
  }

  int64_t rank_among(const FlatLayout& layout) const {
    return layout.key.group == ReplicaGroup::kDense ? me_.dp : me_.edp;
  }

  void add_copies(const FlatLayout& layout, int64_t n) {
    if (layout.key.copies == Copies::kTensor)
      expected_["tp"].all_reduce += all_reduce(n, me_.tp, sizes_.tp);
    if (layout.key.copies == Copies::kKeyValue)
      expected_["kv"].all_reduce += all_reduce(n, me_.kv, sizes_.kv_copies);
    if (layout.key.copies == Copies::kTied)
      expected_["tied"].all_reduce += all_reduce(n, me_.pp == 0 ? 0 : 1, 2);
  }

  const RunConfig& config_;
  const ProcessGrid& grid_;
  GridSizes sizes_;
  GridCoordinates me_;
  const RoutingLog& routing_;
  int64_t first_stream_;
  int64_t T_, D_, M_;  // tokens of a micro-batch on this rank, width, micro-batches
  int64_t own_;        // tokens this rank owns
  bool sequence_parallel_;
  int64_t again_;  // forward passes of a block
  ExpectedTraffic expected_;
};

}  // namespace switchyard::test
