// Group: the ranks of one emulated NCCL communicator, as one of them sees it. What they share is a
// piece of memory: who they are, which collective each has called, and a channel from every rank to
// every other, through which messages travel in pieces.
//
// Nothing here blocks: what has to wait for another rank says so, and is called again.
#pragma once

#include <nccl.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "nccl/shared_memory.h"

namespace cuda_emulator::nccl {

enum class CallKind : int32_t {
  kAllReduce,
  kReduceScatter,
  kAllGather,
  kBroadcast,
  kSend,
  kReceive
};

// What all ranks must agree on in a collective, and both ends in a message.
struct CallShape {
  CallKind kind = CallKind::kSend;
  int32_t type = 0, op = 0, root = 0;
  uint64_t count = 0;
  bool operator==(const CallShape&) const = default;
};
const char* name_of(CallKind kind);            // "AllReduce"
std::string describe(const CallShape& shape);  // "AllReduce of 8 float32 (sum)"

// The n-th message from one rank to another, or part of the n-th collective. It is read when it has
// been taken: a message in NCCL may be larger than any buffer, so its sender waits for the
// receiver.
struct MessageHead {
  CallShape shape;
  uint64_t number = 0;
  uint64_t bytes = 0;
};

struct GroupMember {
  std::atomic<int> has_joined, has_finalized, has_aborted;
  SharedMemoryName page;           // waiting.h
  std::atomic<uint64_t> called;    // collectives so far
  CallShape calls[2];              // the last two: nobody is further behind
  std::atomic<uint64_t> splits;    // called so far
  int color[2], key[2];            // of the last two
  std::atomic<uint64_t> children;  // made so far as the first rank of a group split off
  SharedMemoryName child[2];       // their memory
};

struct Channel {
  static constexpr size_t kPieceBytes = size_t{128} << 10;
  static constexpr uint64_t kNumPieces = 8;
  std::atomic<uint64_t> announced, taken;  // messages
  std::atomic<uint64_t> written, read;     // pieces of all messages
  MessageHead head;                        // of the last announced
  alignas(64) std::byte pieces[kNumPieces][kPieceBytes];
};

class Group {
 public:
  Group(SharedMemory memory, int rank, int size);
  static size_t bytes_for(int size);

  int rank() const { return rank_; }
  int size() const { return size_; }
  GroupMember& member(int rank) const;
  GroupMember& me() const { return member(rank_); }
  Channel& channel(int from, int to) const;

  void join();
  bool all_have_joined() const;
  // The page of the first rank that has gone, or left by abort; nothing while all are there.
  std::optional<std::string> find_lost_rank() const;

 private:
  SharedMemory memory_;
  int rank_, size_;
};

size_t size_in_bytes(ncclDataType_t type);
const char* name_of(ncclDataType_t type);
const char* name_of(ncclRedOp_t op);

}  // namespace cuda_emulator::nccl
