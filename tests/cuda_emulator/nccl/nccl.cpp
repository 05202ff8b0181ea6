// NCCL's functions, by NVIDIA's own prototypes, between processes of one machine. As the real ones,
// calls only put work on streams. A communicator that does not block (ncclConfig_t::blocking = 0)
// puts it there later, when its state is asked for: what was recorded before is too early, and the
// test sees it. Such a communicator refuses calls while it is in progress.
//
// One process is one rank, on the device at hand. Kernels of NCCL run one at a time, in the order
// of their launches on all communicators: so two ranks that launch in unequal orders wait for each
// other, which is found (waiting.h). A process that uses several communicators must have said that
// it launches in one order (NCCL_LAUNCH_ORDER_IMPLICIT) before its first call.
#include <nccl.h>

#include <cstdlib>
#include <cstring>
#include <set>

#include "engine/engine.h"
#include "nccl/communicator.h"
#include "nccl/waiting.h"
#include "runtime/stream.h"

using namespace cuda_emulator;
using namespace cuda_emulator::nccl;

namespace {

struct GroupedCall {
  ncclComm* comm;
  cudaStream_t stream;
  Call call;
};

thread_local int group_depth = 0;
thread_local std::vector<GroupedCall> grouped_calls;
thread_local std::string last_error;

ncclResult_t refuse(ncclResult_t result, std::string why) {
  last_error = std::move(why);
  return result;
}

// NCCL reads its environment once.
bool launches_in_one_order() {
  static const bool implicit = [] {
    const char* const value = std::getenv("NCCL_LAUNCH_ORDER_IMPLICIT");
    return value != nullptr && std::strcmp(value, "1") == 0;
  }();
  return implicit;
}

// The text outlives the process.
const char* lasting(const std::string& text) {
  static std::set<std::string> texts;
  return texts.insert(text).first->c_str();
}

ncclResult_t check(const ncclComm* comm) {
  if (comm == nullptr) return refuse(ncclInvalidArgument, "the communicator is null");
  if (comm->is_destroyed) fail("NCCL: %s is used after it was destroyed", comm->name.c_str());
  if (comm->is_busy())
    return refuse(ncclInvalidArgument,
                  comm->name + " is used while its last call is in progress: poll its state first");
  return static_cast<ncclResult_t>(comm->context.async_error.load());
}

ncclResult_t state_after(ncclComm* comm) {
  return comm->is_blocking ? comm->wait() : ncclInProgress;
}

// Bytes for other ranks.
uint64_t bytes_sent(const ncclComm& comm, const Call& call) {
  const auto others = static_cast<uint64_t>(comm.group->size() - 1);
  const uint64_t bytes =
      call.shape.count * size_in_bytes(static_cast<ncclDataType_t>(call.shape.type));
  switch (call.shape.kind) {
    case CallKind::kAllReduce:
      return 2 * bytes * others / (others + 1);  // as a ring does
    case CallKind::kBroadcast:
      return call.shape.root == comm.group->rank() ? bytes * others : 0;
    case CallKind::kSend:
      return call.peer == comm.group->rank() ? 0 : bytes;
    case CallKind::kReceive:
      return 0;
    default:
      return bytes * others;
  }
}

// "ep ncclAllGather", for messages and for counters.
std::string name_of_calls(const ncclComm& comm, const std::vector<Call>& calls) {
  std::set<std::string> names;
  for (const Call& call : calls)
    names.insert(call.shape.kind == CallKind::kReceive ? "Send" : name_of(call.shape.kind));
  return comm.name + (names.size() == 1 ? " nccl" + *names.begin() : " NCCL group");
}

void check_order_is_fixed(const ncclComm* comm, cudaStream_t stream) {
  static const ncclComm* first = comm;
  static cudaStream_t first_stream = stream;
  if (comm != first && stream != first_stream && !launches_in_one_order())
    fail("NCCL: %s and %s launch on two streams, and NCCL_LAUNCH_ORDER_IMPLICIT is not 1",
         first->name.c_str(), comm->name.c_str());
}

ncclResult_t launch(ncclComm* comm, cudaStream_t stream, std::vector<Call> calls) {
  check_order_is_fixed(comm, stream);
  Cost cost = {Cost::Kind::kCollective, 0};
  for (const Call& call : calls) cost.amount += bytes_sent(*comm, call);
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  cudaStreamIsCapturing(stream, &capture);
  const char* const what = lasting(name_of_calls(*comm, calls));
  const auto launched = std::make_shared<GroupLaunch>(comm->context, std::move(calls),
                                                      capture == cudaStreamCaptureStatusNone);
  Operation operation;
  operation.what = what;
  operation.work = [launched] { return launched->advance(); };
  operation.in_issue_order = true;
  operation.cost = cost;
  const cudaError_t error = enqueue(stream, std::move(operation));
  return error == cudaSuccess ? ncclSuccess : refuse(ncclUnhandledCudaError, "enqueue failed");
}

// Calls of one group, by communicator, in the order in which these were first named.
ncclResult_t launch_group(std::vector<GroupedCall> calls) {
  bool is_in_progress = false;
  while (!calls.empty()) {
    ncclComm* const comm = calls.front().comm;
    const cudaStream_t stream = calls.front().stream;
    std::vector<Call> mine;
    std::vector<GroupedCall> others;
    for (const GroupedCall& grouped : calls) {
      if (grouped.comm != comm) {
        others.push_back(grouped);
      } else {
        if (grouped.stream != stream)
          fail("NCCL: a group uses %s on two streams", comm->name.c_str());
        mine.push_back(grouped.call);
      }
    }
    calls = std::move(others);
    if (comm->is_blocking) {
      if (const ncclResult_t result = launch(comm, stream, std::move(mine)); result != ncclSuccess)
        return result;
      continue;
    }
    // Not at the first question for its state, but at the second.
    comm->then([asked = false]() mutable { return std::exchange(asked, true); });
    comm->then([comm, stream, mine] {
      if (launch(comm, stream, mine) != ncclSuccess)
        comm->context.async_error = ncclUnhandledCudaError;
      return true;
    });
    is_in_progress = true;
  }
  return is_in_progress ? ncclInProgress : ncclSuccess;
}

ncclResult_t submit(ncclComm* comm, cudaStream_t stream, Call call) {
  if (const ncclResult_t state = check(comm); state != ncclSuccess) return state;
  grouped_calls.push_back({comm, stream, call});
  if (group_depth > 0) return ncclSuccess;
  return launch_group(std::exchange(grouped_calls, {}));
}

CallShape shape_of(CallKind kind, size_t count, ncclDataType_t type, int op = 0, int root = 0) {
  return {.kind = kind, .type = type, .op = op, .root = root, .count = count};
}

// In place is legal at one place only.
void check_overlap(const ncclComm* comm, const void* send, size_t send_bytes, const void* receive,
                   size_t receive_bytes, const void* legal) {
  const auto* const a = static_cast<const std::byte*>(send);
  const auto* const b = static_cast<const std::byte*>(receive);
  const bool overlap = a < b + receive_bytes && b < a + send_bytes;
  if (overlap && legal != (send_bytes < receive_bytes ? send : receive))
    fail(
        "NCCL: on %s a call sends from and receives into memory that overlaps, and is not in place",
        comm->context.name.c_str());
}

ncclResult_t collective(CallShape shape, const void* send, void* receive, size_t send_count,
                        size_t receive_count, ncclComm* comm, cudaStream_t stream) {
  if (const ncclResult_t state = check(comm); state != ncclSuccess) return state;
  const size_t size = size_in_bytes(static_cast<ncclDataType_t>(shape.type));
  const auto rank = static_cast<size_t>(comm->group->rank());
  need_device(send, send_count * size, "NCCL's sendbuff");
  need_device(receive, receive_count * size, "NCCL's recvbuff");
  // The smaller of both may be this rank's part of the larger.
  const bool gathers = send_count < receive_count;
  const auto* const larger = static_cast<const std::byte*>(gathers ? receive : send);
  check_overlap(comm, send, send_count * size, receive, receive_count * size,
                send_count == receive_count ? send : larger + rank * shape.count * size);
  return submit(comm, stream, {.shape = shape, .send = send, .receive = receive});
}

// What ranks get from ncclGetUniqueId.
struct UniqueId {
  static constexpr char kMagic[8] = "cudaemu";
  char magic[8];
  int pid, fd;  // of the memory of the group
};
static_assert(sizeof(UniqueId) <= sizeof(ncclUniqueId));

bool is_valid(const ncclConfig_t& config) { return config.magic == 0xcafebeef; }

}  // namespace

extern "C" {

ncclResult_t ncclGetVersion(int* version) {
  *version = NCCL_VERSION_CODE;
  return ncclSuccess;
}

const char* ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclSuccess:
      return "no error";
    case ncclUnhandledCudaError:
      return "unhandled cuda error (run with NCCL_DEBUG=INFO for details)";
    case ncclSystemError:
      return "unhandled system error (run with NCCL_DEBUG=INFO for details)";
    case ncclInternalError:
      return "internal error - please report this issue to the NCCL developers";
    case ncclInvalidArgument:
      return "invalid argument (run with NCCL_DEBUG=WARN for details)";
    case ncclInvalidUsage:
      return "invalid usage (run with NCCL_DEBUG=WARN for details)";
    case ncclRemoteError:
      return "remote process exited or there was a network error";
    case ncclInProgress:
      return "NCCL operation in progress";
    default:
      return "unknown result code";
  }
}

const char* ncclGetLastError(ncclComm_t comm) {
  return comm != nullptr && comm->context.async_error != ncclSuccess
             ? comm->context.error_text.c_str()
             : last_error.c_str();
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  launches_in_one_order();
  // Open until the process ends: others may join at any time.
  static std::vector<SharedMemory> memories;
  UniqueId mine;
  std::memcpy(mine.magic, UniqueId::kMagic, sizeof(mine.magic));
  const SharedMemoryName memory = memories.emplace_back(SharedMemory::create(0)).name();
  mine.pid = memory.pid;
  mine.fd = memory.fd;
  std::memset(id, 0, sizeof(*id));
  std::memcpy(id, &mine, sizeof(mine));
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int size, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  launches_in_one_order();
  UniqueId theirs;
  std::memcpy(&theirs, &id, sizeof(theirs));
  if (std::memcmp(theirs.magic, UniqueId::kMagic, sizeof(theirs.magic)) != 0)
    return refuse(ncclInvalidArgument, "the unique id is not one of ncclGetUniqueId");
  if (size < 1 || rank < 0 || rank >= size)
    return refuse(ncclInvalidArgument,
                  "rank " + std::to_string(rank) + " of " + std::to_string(size));
  if (config != nullptr && !is_valid(*config))
    return refuse(ncclInvalidArgument, "the configuration is not initialized");
  *comm = new_communicator({theirs.pid, theirs.fd}, rank, size,
                           config != nullptr ? *config : ncclConfig_t NCCL_CONFIG_INITIALIZER);
  if (*comm == nullptr) return refuse(ncclSystemError, "the rank that made the id has gone");
  return state_after(*comm);
}

ncclResult_t ncclCommInitRank(ncclComm_t* comm, int size, ncclUniqueId id, int rank) {
  return ncclCommInitRankConfig(comm, size, id, rank, nullptr);
}

ncclResult_t ncclCommSplit(ncclComm_t comm, int color, int key, ncclComm_t* child,
                           ncclConfig_t* config) {
  if (const ncclResult_t state = check(comm); state != ncclSuccess) return state;
  if (color < 0 && color != NCCL_SPLIT_NOCOLOR)
    return refuse(ncclInvalidArgument, "color " + std::to_string(color));
  ncclConfig_t inherited = NCCL_CONFIG_INITIALIZER;
  inherited.blocking = comm->is_blocking ? 1 : 0;
  *child = nullptr;
  split(comm, color, key, child, config != nullptr ? *config : inherited);
  return state_after(comm);
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* state) {
  if (comm == nullptr) return refuse(ncclInvalidArgument, "the communicator is null");
  if (comm->is_destroyed) fail("NCCL: %s is used after it was destroyed", comm->name.c_str());
  *state = comm->poll();
  return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  if (const ncclResult_t state = check(comm); state != ncclSuccess) return state;
  comm->then([comm] {
    if (comm->context.num_running != 0) return false;
    comm->group->me().has_finalized = 1;
    return true;
  });
  comm->then([comm] {
    for (int r = 0; r < comm->group->size(); ++r)
      if (comm->group->member(r).has_finalized == 0) return false;
    return true;
  });
  return state_after(comm);
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  if (const ncclResult_t state = check(comm); state != ncclSuccess) return state;
  if (comm->context.num_running != 0)
    fail("NCCL: %s is destroyed while operations are in flight", comm->context.name.c_str());
  comm->is_destroyed = true;
  return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
  if (comm == nullptr) return refuse(ncclInvalidArgument, "the communicator is null");
  if (comm->is_destroyed) fail("NCCL: %s is aborted after it was destroyed", comm->name.c_str());
  comm->steps.clear();
  comm->context.is_aborted = true;
  comm->group->me().has_aborted = 1;
  comm->is_destroyed = true;
  return ncclSuccess;
}

ncclResult_t ncclCommCount(const ncclComm_t comm, int* count) {
  if (const ncclResult_t state = check(comm); state != ncclSuccess) return state;
  *count = comm->group->size();
  return ncclSuccess;
}

ncclResult_t ncclCommUserRank(const ncclComm_t comm, int* rank) {
  if (const ncclResult_t state = check(comm); state != ncclSuccess) return state;
  *rank = comm->group->rank();
  return ncclSuccess;
}

ncclResult_t ncclCommRegister(const ncclComm_t comm, void* memory, size_t bytes, void** handle) {
  if (const ncclResult_t state = check(comm); state != ncclSuccess) return state;
  need_device(memory, bytes, "the memory of ncclCommRegister");
  ++comm->num_registered;
  *handle = memory;
  return ncclSuccess;
}

ncclResult_t ncclCommDeregister(const ncclComm_t comm, void* handle) {
  if (const ncclResult_t state = check(comm); state != ncclSuccess) return state;
  if (handle == nullptr || comm->num_registered == 0)
    return refuse(ncclInvalidArgument, "nothing of that handle is registered");
  --comm->num_registered;
  return ncclSuccess;
}

ncclResult_t ncclGroupStart() {
  ++group_depth;
  return ncclSuccess;
}

ncclResult_t ncclGroupEnd() {
  if (group_depth == 0) return refuse(ncclInvalidUsage, "ncclGroupEnd without ncclGroupStart");
  if (--group_depth > 0) return ncclSuccess;
  return launch_group(std::exchange(grouped_calls, {}));
}

ncclResult_t ncclAllReduce(const void* send, void* receive, size_t count, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
  return collective(shape_of(CallKind::kAllReduce, count, type, op), send, receive, count, count,
                    comm, stream);
}

ncclResult_t ncclReduceScatter(const void* send, void* receive, size_t count, ncclDataType_t type,
                               ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
  if (const ncclResult_t state = check(comm); state != ncclSuccess) return state;
  const auto ranks = static_cast<size_t>(comm->group->size());
  return collective(shape_of(CallKind::kReduceScatter, count, type, op), send, receive,
                    count * ranks, count, comm, stream);
}

ncclResult_t ncclAllGather(const void* send, void* receive, size_t count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream) {
  if (const ncclResult_t state = check(comm); state != ncclSuccess) return state;
  const auto ranks = static_cast<size_t>(comm->group->size());
  return collective(shape_of(CallKind::kAllGather, count, type), send, receive, count,
                    count * ranks, comm, stream);
}

ncclResult_t ncclBroadcast(const void* send, void* receive, size_t count, ncclDataType_t type,
                           int root, ncclComm_t comm, cudaStream_t stream) {
  if (const ncclResult_t state = check(comm); state != ncclSuccess) return state;
  if (root < 0 || root >= comm->group->size())
    return refuse(ncclInvalidArgument, "broadcast from rank " + std::to_string(root));
  const bool is_root = root == comm->group->rank();
  return collective(shape_of(CallKind::kBroadcast, count, type, 0, root), is_root ? send : receive,
                    receive, count, count, comm, stream);
}

ncclResult_t ncclSend(const void* send, size_t count, ncclDataType_t type, int peer,
                      ncclComm_t comm, cudaStream_t stream) {
  if (const ncclResult_t state = check(comm); state != ncclSuccess) return state;
  if (peer < 0 || peer >= comm->group->size())
    return refuse(ncclInvalidArgument, "a message to rank " + std::to_string(peer));
  need_device(send, count * size_in_bytes(type), "the memory of ncclSend");
  return submit(comm, stream,
                {.shape = shape_of(CallKind::kSend, count, type), .peer = peer, .send = send});
}

ncclResult_t ncclRecv(void* receive, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  if (const ncclResult_t state = check(comm); state != ncclSuccess) return state;
  if (peer < 0 || peer >= comm->group->size())
    return refuse(ncclInvalidArgument, "a message from rank " + std::to_string(peer));
  need_device(receive, count * size_in_bytes(type), "the memory of ncclRecv");
  return submit(
      comm, stream,
      {.shape = shape_of(CallKind::kReceive, count, type), .peer = peer, .receive = receive});
}

}  // extern "C"
