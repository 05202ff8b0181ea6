// The collectives of an MpiCommunicator under way: each is a sequence of rounds of messages, and
// advance() goes from round to round as far as messages have arrived.
#pragma once

#include <cstddef>
#include <vector>

#include "backend/backend.h"
#include "comm/mpi_exchange.h"

namespace switchyard {

// Memory that collectives borrow one after another, so that the same call again allocates nothing.
class SpareMemory {
 public:
  std::vector<std::byte> take(int64_t bytes);  // at least
  void give_back(std::vector<std::byte> memory) { spare_.push_back(std::move(memory)); }

 private:
  std::vector<std::vector<std::byte>> spare_;
};

// One round of messages, and a copy of what this rank has for itself (none: no tensors).
class MpiRound final : public PendingWork {
 public:
  MpiRound(MpiExchange exchange, std::vector<MpiMessage> sends, std::vector<MpiMessage> receives,
           Tensor kept = {}, Tensor kept_from = {});
  bool advance() override;
  int64_t num_arrived() const override { return exchange_.num_arrived(); }
  int missing_peer() const override { return exchange_.missing_peer(); }

 private:
  MpiExchange exchange_;
  const std::vector<MpiMessage> sends_, receives_;
  const Tensor kept_, kept_from_;
  bool is_posted_ = false;
};

// out = the sum of what all ranks have for rank `rank` (this one), added in their order. A round
// for each piece of `out`; pieces are small enough to be in the cache when they are added.
class MpiReduceScatter final : public PendingWork {
 public:
  // slices[r]: what this rank has for rank r. `out` may be slices[rank].
  MpiReduceScatter(MpiExchange exchange, int tag, int rank, Tensor out, std::vector<Tensor> slices,
                   SpareMemory& spare);
  bool advance() override;
  int64_t num_arrived() const override { return exchange_.num_arrived(); }
  int missing_peer() const override { return exchange_.missing_peer(); }

 private:
  Tensor piece_of(Tensor slice) const;
  void post_piece();

  MpiExchange exchange_;
  const int tag_, rank_;
  const Tensor out_;
  const std::vector<Tensor> slices_;
  SpareMemory& spare_;
  int64_t piece_items_, longest_;  // elements of a piece, and of the longest slice
  int64_t begin_ = 0;              // of the piece under way, in each slice
  bool is_posted_ = false;
  std::vector<std::byte> received_;    // the other ranks' contributions to one piece
  std::vector<Tensor> contributions_;  // of all ranks: views of it, and of my own slice
};

}  // namespace switchyard
