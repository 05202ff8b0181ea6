#include "backend/backend.h"

#include <algorithm>
#include <utility>

#include "core/log.h"
#include "core/math.h"

namespace switchyard {
namespace {

constexpr int64_t kAlignment = 64;
constexpr int64_t kSmallestBlock = int64_t{1} << 20;

}  // namespace

std::byte* Backend::allocate(int64_t bytes) {
  std::byte* memory = do_allocate(bytes);
  ++memory_.allocations;
  memory_.bytes_in_use += bytes;
  memory_.peak_bytes = std::max(memory_.peak_bytes, memory_.bytes_in_use);
  return memory;
}

void Backend::free(std::byte* memory, int64_t bytes) {
  do_free(memory, bytes);
  memory_.bytes_in_use -= bytes;
}

HostMemory Backend::allocate_host(int64_t bytes) {
  return HostMemory(new std::byte[static_cast<size_t>(bytes)],
                    [](std::byte* memory) { delete[] memory; });
}

Buffer::Buffer(Backend& backend, int64_t bytes) : backend_(&backend), bytes_(bytes) {
  if (bytes > 0) data_ = backend.allocate(bytes);
}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(backend_, other.backend_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

Buffer::~Buffer() {
  if (data_ != nullptr) backend_->free(data_, bytes_);
}

Tensor Buffer::tensor(DType dtype, std::initializer_list<int64_t> shape) const {
  Tensor view(data_, dtype, shape);
  SY_CHECK(view.bytes() <= bytes_, "a tensor of {} bytes in a buffer of {}", view.bytes(), bytes_);
  return view;
}

Tensor Arena::allocate(DType dtype, std::span<const int64_t> shape) {
  const int64_t bytes = round_up(Tensor(nullptr, dtype, shape).bytes(), kAlignment);
  while (block_ < blocks_.size() && used_ + bytes > blocks_[block_].bytes()) {
    ++block_;
    used_ = 0;
  }
  if (block_ == blocks_.size()) {
    // Each new block is at least as large as all before it together: few blocks, whatever comes.
    const int64_t block_bytes =
        std::max({kSmallestBlock, round_up(bytes, kSmallestBlock), capacity_bytes()});
    blocks_.emplace_back(*backend_, block_bytes);
    ++growths_;
    spdlog::debug("arena grew by {} bytes to {}", block_bytes, capacity_bytes());
  }
  Tensor tensor(blocks_[block_].data() + used_, dtype, shape);
  used_ += bytes;
  return tensor;
}

int64_t Arena::capacity_bytes() const {
  int64_t bytes = 0;
  for (const Buffer& block : blocks_) bytes += block.bytes();
  return bytes;
}

Arena::Scope::Scope(Arena& arena) : arena_(arena), block_(arena.block_), used_(arena.used_) {}

Arena::Scope::~Scope() { arena_.give_back(block_, used_); }

void Arena::give_back(size_t first_block, int64_t first_byte) {
  for (size_t i = first_block; i <= block_ && i < blocks_.size(); ++i) {
    const int64_t begin = i == first_block ? first_byte : 0;
    const int64_t end = i == block_ ? used_ : blocks_[i].bytes();
    if (begin < end)
      backend_->released(backend_->compute_queue(), blocks_[i].data() + begin, end - begin);
  }
  block_ = first_block;
  used_ = first_byte;
}

}  // namespace switchyard
