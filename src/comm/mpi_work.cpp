#include "comm/mpi_work.h"

#include <algorithm>
#include <utility>

#include "comm/host_memory.h"

namespace switchyard {
namespace {

// One piece of the slices of all ranks together.
constexpr int64_t kPieceBytes = int64_t{1} << 22;

}  // namespace

std::vector<std::byte> SpareMemory::take(int64_t bytes) {
  std::vector<std::byte> memory;
  if (!spare_.empty()) {
    memory = std::move(spare_.back());
    spare_.pop_back();
  }
  memory.resize(std::max(memory.size(), static_cast<size_t>(bytes)));
  return memory;
}

MpiRound::MpiRound(MpiExchange exchange, std::vector<MpiMessage> sends,
                   std::vector<MpiMessage> receives, Tensor kept, Tensor kept_from)
    : exchange_(std::move(exchange)),
      sends_(std::move(sends)),
      receives_(std::move(receives)),
      kept_(kept),
      kept_from_(kept_from) {}

bool MpiRound::advance() {
  if (!is_posted_) {
    exchange_.post(sends_, receives_);
    copy_host(kept_, kept_from_);
    is_posted_ = true;
  }
  return exchange_.advance();
}

MpiReduceScatter::MpiReduceScatter(MpiExchange exchange, int tag, int rank, Tensor out,
                                   std::vector<Tensor> slices, SpareMemory& spare)
    : exchange_(std::move(exchange)),
      tag_(tag),
      rank_(rank),
      out_(out),
      slices_(std::move(slices)),
      spare_(spare) {
  const auto item = static_cast<int64_t>(size_in_bytes(out.dtype()));
  const auto size = static_cast<int64_t>(slices_.size());
  piece_items_ = std::max<int64_t>(1, kPieceBytes / (item * size));
  longest_ = 0;
  for (const Tensor& slice : slices_) longest_ = std::max(longest_, slice.numel());
}

bool MpiReduceScatter::advance() {
  for (; begin_ < longest_; begin_ += piece_items_) {
    if (!is_posted_) post_piece();
    is_posted_ = true;
    if (!exchange_.advance()) return false;
    sum_host(piece_of(out_), contributions_);
    is_posted_ = false;
  }
  spare_.give_back(std::move(received_));
  return true;
}

// A shorter slice has fewer pieces; the rest of them are empty.
Tensor MpiReduceScatter::piece_of(Tensor slice) const {
  const int64_t begin = std::min(begin_, slice.numel());
  return slice.rows(begin, std::min(piece_items_, slice.numel() - begin));
}

void MpiReduceScatter::post_piece() {
  const auto size = static_cast<int>(slices_.size());
  const Tensor mine = piece_of(slices_[rank_]);
  if (received_.empty() && size > 1) received_ = spare_.take(size * mine.bytes());
  contributions_.clear();
  for (int r = 0; r < size; ++r)
    contributions_.emplace_back(received_.data() + r * mine.bytes(), mine.dtype(), mine.shape());
  contributions_[rank_] = mine;

  std::vector<MpiMessage> sends, receives;
  for (int step = 1; step < size; ++step) {  // the next rank first: not all start with rank 0
    const int peer = (rank_ + step) % size;
    sends.push_back({piece_of(slices_[peer]), peer, tag_});
    receives.push_back({contributions_[peer], peer, tag_});
  }
  exchange_.post(sends, receives);
}

}  // namespace switchyard
