#include "backend/cuda/staging.h"

#include <cuda_runtime.h>

#include <cstring>
#include <exception>

#include "backend/cuda/cuda_check.h"
#include "core/error.h"
#include "core/math.h"

namespace switchyard {
namespace {

constexpr int64_t kAlignment = 64;

}  // namespace

Staging::Staging(int64_t bytes) : capacity_(round_up(bytes, 4 * kAlignment)) {
  CUDA_CHECK(cudaHostAlloc(reinterpret_cast<void**>(&memory_), static_cast<size_t>(capacity_),
                           cudaHostAllocDefault));
}

// Copies may be in flight when an error ends the job.
Staging::~Staging() {
  if (std::uncaught_exceptions() == 0) cudaFreeHost(memory_);
}

std::optional<std::byte*> Staging::take(int64_t bytes) {
  SY_CHECK(bytes <= largest_piece(), "a copy of {} bytes through {}", bytes, capacity_);
  const int64_t room = round_up(bytes, kAlignment);
  const int64_t left_at_end = next_ + room > capacity_ ? capacity_ - next_ : 0;
  if (used_ + left_at_end + room > capacity_) return std::nullopt;
  std::byte* const staged = memory_ + (next_ + left_at_end) % capacity_;
  copies_.push_back({.staged = staged, .bytes = bytes, .span = left_at_end + room});
  used_ += left_at_end + room;
  next_ = (next_ + left_at_end + room) % capacity_;
  return staged;
}

void Staging::copies(Event done, void* host) {
  copies_.back().done = done;
  copies_.back().host = host;
}

void Staging::settle(const std::function<bool(Event)>& is_complete) {
  for (Copy& copy : copies_) {
    if (copy.is_over || !is_complete(copy.done)) continue;
    if (copy.host != nullptr) std::memcpy(copy.host, copy.staged, static_cast<size_t>(copy.bytes));
    copy.is_over = true;
  }
  while (!copies_.empty() && copies_.front().is_over) {
    used_ -= copies_.front().span;
    copies_.pop_front();
  }
}

void Staging::abandon() {
  for (Copy& copy : copies_) copy.host = nullptr;
}

}  // namespace switchyard
