// Programs of several ranks, each a process of its own, that talk by NCCL.
#pragma once

#include <nccl.h>
#include <sched.h>
#include <sys/mman.h>

#include <atomic>
#include <cstring>
#include <thread>

#include "child.h"
#include "programs.h"

namespace cuda_emulator::test {

#define EXPECT_NCCL(call) \
  ::cuda_emulator::test::expect((call) == ncclSuccess, #call " returns ncclSuccess")

// Memory of all ranks.
struct JobMemory {
  std::atomic<int> has_id;
  ncclUniqueId id;
  std::atomic<int> notes[8];  // for programs
};

class Rank {
 public:
  Rank(JobMemory& job, int number, int num_ranks) : rank(number), size(num_ranks), job_(job) {}

  // A communicator of all ranks. One that does not block is polled until it is there.
  ncclComm_t join(const char* name = "world", bool blocks = true) {
    if (rank == 0) {
      EXPECT_NCCL(ncclGetUniqueId(&job_.id));
      job_.has_id = 1;
    }
    while (job_.has_id == 0) sched_yield();
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = blocks ? 1 : 0;
    config.commName = name;
    ncclComm_t comm = nullptr;
    const ncclResult_t result = ncclCommInitRankConfig(&comm, size, job_.id, rank, &config);
    expect(result == (blocks ? ncclSuccess : ncclInProgress), "joining begins");
    settle(comm);
    return comm;
  }

  static void settle(ncclComm_t comm) {
    ncclResult_t state = ncclInProgress;
    while (state == ncclInProgress) {
      EXPECT_NCCL(ncclCommGetAsyncError(comm, &state));
      sched_yield();
    }
    EXPECT_NCCL(state);
  }

  std::atomic<int>& note(int i) { return job_.notes[i]; }
  void wait_for_note(int i) {
    while (note(i) == 0) sched_yield();
  }

  const int rank, size;

 private:
  JobMemory& job_;
};

// What became of each rank.
inline std::vector<Ended> run_ranks(int size, const Environment& environment,
                                    const std::function<void(Rank&)>& program) {
  void* memory =
      mmap(nullptr, sizeof(JobMemory), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  std::vector<Ended> ended(static_cast<size_t>(size));
  std::vector<std::thread> parents;
  for (int r = 0; r < size; ++r)
    parents.emplace_back([&, r] {
      ended[static_cast<size_t>(r)] = run_in_child(environment, [&] {
        setenv("PMI_RANK", std::to_string(r).c_str(), 1);  // random orders of its own
        Rank rank(*static_cast<JobMemory*>(memory), r, size);
        program(rank);
      });
    });
  for (std::thread& parent : parents) parent.join();
  munmap(memory, sizeof(JobMemory));
  return ended;
}

inline void check_success(const std::vector<Ended>& ranks) {
  for (size_t r = 0; r < ranks.size(); ++r) {
    INFO("rank " << r);
    check_success(ranks[r]);
  }
}

// At least one rank was stopped by the emulator; its message contains all of `texts`.
inline void check_stopped(const std::vector<Ended>& ranks, const std::vector<std::string>& texts) {
  std::string all;
  bool found = false;
  for (const Ended& ended : ranks) {
    all += "status " + std::to_string(ended.status) + ": " + ended.output + "\n";
    bool contains_all = ended.status == 86;
    for (const std::string& text : texts)
      contains_all = contains_all && ended.output.find(text) != std::string::npos;
    found = found || contains_all;
  }
  INFO(all);
  CHECK(found);
}

}  // namespace cuda_emulator::test
