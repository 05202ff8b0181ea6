#include "nccl/transfer.h"

#include <algorithm>
#include <cstring>

#include "engine/engine.h"
#include "runtime/stream.h"

namespace cuda_emulator::nccl {

Transfer::Transfer(const Group& group, bool is_send, int peer, void* memory, MessageHead what)
    : group_(group),
      channel_(is_send ? group.channel(group.rank(), peer) : group.channel(peer, group.rank())),
      is_send_(is_send),
      peer_(peer),
      memory_(static_cast<std::byte*>(memory)),
      what_(what) {}

bool Transfer::advance() {
  bool has_moved = false;
  if (state_ == State::kWaits) has_moved = begin();
  while (state_ == State::kMoves && move_piece()) has_moved = true;
  return has_moved;
}

// A channel holds one message at a time.
bool Transfer::begin() {
  const uint64_t announced = channel_.announced.load(std::memory_order_acquire);
  const bool holds_message = announced != channel_.taken.load(std::memory_order_acquire);
  if (holds_message == is_send_) return false;
  state_ = State::kMoves;
  if (is_send_) {
    channel_.head = what_;
    channel_.announced.store(announced + 1, std::memory_order_release);
  } else {
    check_announced();
  }
  return true;
}

void Transfer::check_announced() const {
  const MessageHead& theirs = channel_.head;
  const bool is_message = what_.shape.kind == CallKind::kReceive;
  CallShape expected = what_.shape;
  if (is_message) expected.kind = CallKind::kSend;
  if (theirs.shape == expected && theirs.number == what_.number && theirs.bytes == what_.bytes)
    return;
  fail("NCCL: rank %d of %d expects from rank %d the %s #%llu, but rank %d sends for its %s #%llu",
       group_.rank(), group_.size(), peer_, describe(what_.shape).c_str(),
       static_cast<unsigned long long>(what_.number), peer_, describe(theirs.shape).c_str(),
       static_cast<unsigned long long>(theirs.number));
}

bool Transfer::move_piece() {
  const uint64_t written = channel_.written.load(std::memory_order_acquire);
  const uint64_t read = channel_.read.load(std::memory_order_acquire);
  const size_t bytes = std::min<uint64_t>(Channel::kPieceBytes, what_.bytes - moved_);
  if (is_send_ &&
      bytes == 0) {  // until the last piece is read: nobody is handed the channel before
    if (channel_.taken.load(std::memory_order_acquire) !=
        channel_.announced.load(std::memory_order_relaxed))
      return false;
    state_ = State::kDone;
    return true;
  }
  if (!is_send_ && bytes == 0) {
    channel_.taken.fetch_add(1, std::memory_order_release);
    state_ = State::kDone;
    return true;
  }
  if (is_send_ ? written - read == Channel::kNumPieces : written == read) return false;
  if (is_send_) {
    note_read(memory_ + moved_, bytes);
    std::memcpy(channel_.pieces[written % Channel::kNumPieces], memory_ + moved_, bytes);
    channel_.written.store(written + 1, std::memory_order_release);
  } else {
    note_write(memory_ + moved_, bytes);
    std::memcpy(memory_ + moved_, channel_.pieces[read % Channel::kNumPieces], bytes);
    channel_.read.store(read + 1, std::memory_order_release);
  }
  moved_ += bytes;
  return true;
}

}  // namespace cuda_emulator::nccl
