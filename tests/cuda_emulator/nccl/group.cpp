#include "nccl/group.h"

#include "engine/engine.h"
#include "nccl/waiting.h"

namespace cuda_emulator::nccl {
namespace {

constexpr size_t round_up(size_t bytes) { return (bytes + 63) / 64 * 64; }
constexpr size_t kMemberBytes = round_up(sizeof(GroupMember));

}  // namespace

const char* name_of(CallKind kind) {
  constexpr const char* kNames[] = {"AllReduce", "ReduceScatter", "AllGather",
                                    "Broadcast", "Send",          "Recv"};
  return kNames[static_cast<int>(kind)];
}

size_t size_in_bytes(ncclDataType_t type) {
  switch (type) {
    case ncclInt8:
    case ncclUint8:
    case ncclFloat8e4m3:
    case ncclFloat8e5m2:
      return 1;
    case ncclFloat16:
    case ncclBfloat16:
      return 2;
    case ncclInt32:
    case ncclUint32:
    case ncclFloat32:
      return 4;
    case ncclInt64:
    case ncclUint64:
    case ncclFloat64:
      return 8;
    default:
      fail("NCCL: data type %d", static_cast<int>(type));
  }
}

const char* name_of(ncclDataType_t type) {
  constexpr const char* kNames[] = {"int8",    "uint8",    "int32",      "uint32",
                                    "int64",   "uint64",   "float16",    "float32",
                                    "float64", "bfloat16", "float8e4m3", "float8e5m2"};
  return type >= 0 && type < ncclNumTypes ? kNames[type] : "unknown";
}

const char* name_of(ncclRedOp_t op) {
  constexpr const char* kNames[] = {"sum", "product", "maximum", "minimum", "average"};
  return op >= 0 && op < ncclNumOps ? kNames[op] : "unknown";
}

std::string describe(const CallShape& shape) {
  std::string text = name_of(shape.kind);
  text +=
      " of " + std::to_string(shape.count) + " " + name_of(static_cast<ncclDataType_t>(shape.type));
  if (shape.kind == CallKind::kAllReduce || shape.kind == CallKind::kReduceScatter)
    text += std::string(" (") + name_of(static_cast<ncclRedOp_t>(shape.op)) + ")";
  if (shape.kind == CallKind::kBroadcast) text += " from rank " + std::to_string(shape.root);
  return text;
}

Group::Group(SharedMemory memory, int rank, int size)
    : memory_(std::move(memory)), rank_(rank), size_(size) {}

size_t Group::bytes_for(int size) {
  const auto ranks = static_cast<size_t>(size);
  return ranks * kMemberBytes + ranks * ranks * sizeof(Channel);
}

GroupMember& Group::member(int rank) const {
  return *reinterpret_cast<GroupMember*>(static_cast<std::byte*>(memory_.data()) +
                                         static_cast<size_t>(rank) * kMemberBytes);
}

Channel& Group::channel(int from, int to) const {
  auto* const channels = reinterpret_cast<Channel*>(static_cast<std::byte*>(memory_.data()) +
                                                    static_cast<size_t>(size_) * kMemberBytes);
  return channels[from * size_ + to];
}

void Group::join() {
  GroupMember& mine = me();
  if (mine.has_joined.load() != 0) fail("NCCL: two processes are rank %d of %d", rank_, size_);
  mine.page = my_page();
  mine.has_joined = 1;
}

bool Group::all_have_joined() const {
  for (int r = 0; r < size_; ++r)
    if (member(r).has_joined.load() == 0) return false;
  return true;
}

std::optional<std::string> Group::find_lost_rank() const {
  for (int r = 0; r < size_; ++r) {
    const GroupMember& other = member(r);
    if (other.has_aborted.load() != 0)
      return "rank " + std::to_string(r) + " has aborted its communicator";
    if (other.has_joined.load() != 0 && !is_alive(other.page))
      return "the process of rank " + std::to_string(r) + " has gone";
  }
  return std::nullopt;
}

}  // namespace cuda_emulator::nccl
