#include "nccl/communicator.h"

#include <sched.h>

#include <algorithm>

#include "engine/engine.h"
#include "nccl/waiting.h"
#include "runtime/stream.h"

using namespace cuda_emulator;
using namespace cuda_emulator::nccl;

ncclResult_t ncclComm::poll() {
  // A GPU goes on by itself; here somebody must see to it when others need what was launched.
  if (is_busy() || take_is_waited_for()) make_progress();
  while (is_busy() && steps.front()()) steps.pop_front();
  if (is_busy()) return ncclInProgress;
  return static_cast<ncclResult_t>(context.async_error.load());
}

ncclResult_t ncclComm::wait() {
  ncclResult_t state = poll();
  for (; state == ncclInProgress; state = poll()) sched_yield();
  return state;
}

namespace cuda_emulator::nccl {
namespace {

std::vector<std::unique_ptr<ncclComm>>& communicators() {
  static std::vector<std::unique_ptr<ncclComm>> all;
  return all;
}

ncclComm* make_communicator(const ncclConfig_t& config) {
  const bool is_blocking = config.blocking != 0;  // undefined: yes
  const char* const name = config.commName;
  return communicators()
      .emplace_back(
          std::make_unique<ncclComm>(name != nullptr ? name : "communicator", is_blocking))
      .get();
}

void attach(ncclComm* comm, SharedMemory memory, int rank, int size) {
  comm->group = std::make_unique<Group>(std::move(memory), rank, size);
  comm->context.group = comm->group.get();
  comm->context.name =
      "rank " + std::to_string(rank) + " of " + std::to_string(size) + " of " + comm->name;
  comm->context.sent.assign(static_cast<size_t>(size), 0);
  comm->context.received = comm->context.sent;
  comm->group->join();
  comm->then([comm] { return comm->group->all_have_joined(); });
}

// A split under way.
struct Split {
  ncclComm* parent;
  ncclComm** child;
  int color, key;
  ncclConfig_t config;
  uint64_t number;
  std::vector<int> members = {};  // ranks of the parent
  ncclComm* made = nullptr;

  bool all_have_called() {
    const Group& group = *parent->group;
    for (int r = 0; r < group.size(); ++r)
      if (group.member(r).splits.load(std::memory_order_acquire) < number) return false;
    for (int r = 0; r < group.size(); ++r)
      if (color != NCCL_SPLIT_NOCOLOR && group.member(r).color[number % 2] == color)
        members.push_back(r);
    std::stable_sort(members.begin(), members.end(), [&](int a, int b) {
      return group.member(a).key[number % 2] < group.member(b).key[number % 2];
    });
    return true;
  }

  // The first rank makes the memory, the others open it.
  bool attach_child() {
    if (members.empty()) return true;
    const Group& group = *parent->group;
    const int size = static_cast<int>(members.size());
    const auto mine = std::find(members.begin(), members.end(), group.rank());
    const int rank = static_cast<int>(mine - members.begin());
    GroupMember& first = group.member(members.front());
    if (rank != 0 && first.children.load(std::memory_order_acquire) < number) return false;
    made = make_communicator(config);
    if (rank == 0) {
      SharedMemory memory = SharedMemory::create(Group::bytes_for(size));
      first.child[number % 2] = memory.name();
      first.children.store(number, std::memory_order_release);
      attach(made, std::move(memory), rank, size);
    } else {
      auto memory = SharedMemory::open(first.child[number % 2], Group::bytes_for(size));
      if (!memory) fail("NCCL: the first rank of a split of %s has gone", parent->name.c_str());
      attach(made, std::move(*memory), rank, size);
    }
    return true;
  }

  // The handle is there when the parent is no longer in progress.
  bool hand_over() {
    if (made != nullptr && made->poll() == ncclInProgress) return false;
    *child = made;
    return true;
  }
};

}  // namespace

ncclComm* new_communicator(SharedMemoryName memory, int rank, int size,
                           const ncclConfig_t& config) {
  auto shared = SharedMemory::open(memory, Group::bytes_for(size));
  if (!shared) return nullptr;
  ncclComm* const comm = make_communicator(config);
  attach(comm, std::move(*shared), rank, size);
  return comm;
}

void split(ncclComm* parent, int color, int key, ncclComm** child, const ncclConfig_t& config) {
  GroupMember& me = parent->group->me();
  const uint64_t number = ++parent->num_splits;
  me.color[number % 2] = color;
  me.key[number % 2] = key;
  me.splits.store(number, std::memory_order_release);
  auto under_way = std::make_shared<Split>(Split{parent, child, color, key, config, number});
  parent->then([under_way] { return under_way->all_have_called(); });
  parent->then([under_way] { return under_way->attach_child(); });
  parent->then([under_way] { return under_way->hand_over(); });
}

}  // namespace cuda_emulator::nccl
