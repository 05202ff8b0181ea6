// The emulated NCCL against closed forms: every call, several types and sizes, with communicators
// that block and that do not, in groups of a split, in all modes.
#include "cuda_emulator/counters.h"
#include "ranks.h"

namespace cuda_emulator::test {
namespace {

template <typename T>
struct NcclType;
template <>
struct NcclType<float> {
  static constexpr ncclDataType_t kType = ncclFloat32;
};
template <>
struct NcclType<double> {
  static constexpr ncclDataType_t kType = ncclFloat64;
};
template <>
struct NcclType<int64_t> {
  static constexpr ncclDataType_t kType = ncclInt64;
};
template <>
struct NcclType<int32_t> {
  static constexpr ncclDataType_t kType = ncclInt32;
};

// A communicator, a stream, and memory that copies come from and go to.
struct Party {
  ncclComm_t comm;
  int rank, size;
  cudaStream_t stream;

  template <typename T, typename Value>
  T* device(size_t count, const Value& value) const {
    void *memory = nullptr, *host = nullptr;
    EXPECT_SUCCESS(cudaMalloc(&memory, (count + 1) * sizeof(T)));
    EXPECT_SUCCESS(cudaMallocHost(&host, (count + 1) * sizeof(T)));
    for (size_t i = 0; i < count; ++i) static_cast<T*>(host)[i] = static_cast<T>(value(i));
    EXPECT_SUCCESS(
        cudaMemcpyAsync(memory, host, count * sizeof(T), cudaMemcpyHostToDevice, stream));
    return static_cast<T*>(memory);
  }

  // Frees it, too.
  template <typename T, typename Expected>
  void check(const char* what, T* memory, size_t count, const Expected& expected) const {
    void* host = nullptr;
    EXPECT_SUCCESS(cudaMallocHost(&host, (count + 1) * sizeof(T)));
    EXPECT_SUCCESS(
        cudaMemcpyAsync(host, memory, count * sizeof(T), cudaMemcpyDeviceToHost, stream));
    EXPECT_SUCCESS(cudaStreamSynchronize(stream));
    for (size_t i = 0; i < count; ++i)
      if (static_cast<T*>(host)[i] != static_cast<T>(expected(i))) {
        fprintf(stderr, "%s: element %zu is %g, not %g\n", what, i,
                static_cast<double>(static_cast<T*>(host)[i]), static_cast<double>(expected(i)));
        _exit(1);
      }
    EXPECT_SUCCESS(cudaFreeHost(host));
    EXPECT_SUCCESS(cudaFree(memory));
  }

  void settle() const { Rank::settle(comm); }
};

size_t value_of(int rank, size_t i) { return (size_t{1} << rank) * (1 + i % 97); }
size_t sum_of(int size, size_t i) { return ((size_t{1} << size) - 1) * (1 + i % 97); }

void accept(const Party& party, ncclResult_t result) {
  expect(result == ncclSuccess || result == ncclInProgress, "NCCL accepts a call");
  party.settle();
}

template <typename T>
void check_reductions(const Party& party, size_t count) {
  const auto size = static_cast<size_t>(party.size), me = static_cast<size_t>(party.rank);
  const auto mine = [&](size_t i) { return value_of(party.rank, i); };
  const auto total = [&](size_t i) { return sum_of(party.size, i); };
  constexpr ncclDataType_t kType = NcclType<T>::kType;
  T *x = party.device<T>(count, mine), *sum = party.device<T>(count, [](size_t) { return 0; });
  accept(party, ncclAllReduce(x, sum, count, kType, ncclSum, party.comm, party.stream));
  party.check("AllReduce", sum, count, total);
  accept(party, ncclAllReduce(x, x, count, kType, ncclMax, party.comm, party.stream));
  party.check("AllReduce, maximum, in place", x, count,
              [&](size_t i) { return value_of(party.size - 1, i); });

  T *parts = party.device<T>(count * size, mine), *part = party.device<T>(count, mine);
  accept(party, ncclReduceScatter(parts, part, count, kType, ncclSum, party.comm, party.stream));
  party.check("ReduceScatter", part, count, [&](size_t i) { return total(me * count + i); });
  T* const own = parts + me * count;
  accept(party, ncclReduceScatter(parts, own, count, kType, ncclSum, party.comm, party.stream));
  party.check("ReduceScatter in place", parts, count * size,
              [&](size_t i) { return i / std::max<size_t>(count, 1) == me ? total(i) : mine(i); });
}

template <typename T>
void check_copies(const Party& party, size_t count) {
  const auto size = static_cast<size_t>(party.size), me = static_cast<size_t>(party.rank);
  const auto mine = [&](size_t i) { return value_of(party.rank, i); };
  const auto of_rank = [&](size_t i) { return value_of(static_cast<int>(i / count), i % count); };
  constexpr ncclDataType_t kType = NcclType<T>::kType;
  T *x = party.device<T>(count, mine), *all = party.device<T>(count * size, mine);
  accept(party, ncclAllGather(x, all, count, kType, party.comm, party.stream));
  party.check("AllGather", all, count * size, of_rank);
  all = party.device<T>(count * size, [&](size_t i) { return mine(i - me * count); });
  accept(party, ncclAllGather(all + me * count, all, count, kType, party.comm, party.stream));
  party.check("AllGather in place", all, count * size, of_rank);
  for (int root = 0; root < party.size; ++root) {
    T* to = party.device<T>(count, [](size_t) { return 0; });
    accept(party, ncclBroadcast(x, to, count, kType, root, party.comm, party.stream));
    party.check("Broadcast", to, count, [&](size_t i) { return value_of(root, i); });
  }
  EXPECT_SUCCESS(cudaFree(x));
}

// To every rank, itself too, two messages of different lengths, in one group.
template <typename T>
void check_messages(const Party& party, size_t scale) {
  constexpr ncclDataType_t kType = NcclType<T>::kType;
  const auto length = [&](int from, int to, int n) {
    return scale * static_cast<size_t>(from + 2 * to + n);
  };
  const auto value = [](int from, int to, int n, size_t i) {
    return static_cast<size_t>(100 * from + 10 * to + n) + i % 1000;
  };
  std::vector<T*> sent, received;
  for (int peer = 0; peer < party.size; ++peer)
    for (int n = 0; n < 2; ++n) {
      sent.push_back(party.device<T>(length(party.rank, peer, n),
                                     [&](size_t i) { return value(party.rank, peer, n, i); }));
      received.push_back(party.device<T>(length(peer, party.rank, n), [](size_t) { return 0; }));
    }
  EXPECT_NCCL(ncclGroupStart());
  for (int peer = 0; peer < party.size; ++peer)
    for (int n = 0; n < 2; ++n) {
      EXPECT_NCCL(ncclSend(sent[2 * peer + n], length(party.rank, peer, n), kType, peer, party.comm,
                           party.stream));
      EXPECT_NCCL(ncclRecv(received[2 * peer + n], length(peer, party.rank, n), kType, peer,
                           party.comm, party.stream));
    }
  accept(party, ncclGroupEnd());
  for (int peer = 0; peer < party.size; ++peer)
    for (int n = 0; n < 2; ++n) {
      party.check("Recv", received[2 * peer + n], length(peer, party.rank, n),
                  [&](size_t i) { return value(peer, party.rank, n, i); });
      EXPECT_SUCCESS(cudaFree(sent[2 * peer + n]));
    }
}

// What NCCL rounds at every step: 256 + 1 + 1 + ... in bf16 is 256 whatever follows.
void check_rounding(const Party& party) {
  const auto bits_of = [](float x) {
    return static_cast<uint32_t>(__builtin_bit_cast(uint32_t, x)) >> 16;
  };
  void *x = nullptr, *host = nullptr;
  EXPECT_SUCCESS(cudaMalloc(&x, 2));
  EXPECT_SUCCESS(cudaMallocHost(&host, 2));
  *static_cast<uint16_t*>(host) =
      static_cast<uint16_t>(bits_of(party.rank == 1 % party.size ? 256 : 1));
  EXPECT_SUCCESS(cudaMemcpyAsync(x, host, 2, cudaMemcpyHostToDevice, party.stream));
  accept(party, ncclAllReduce(x, x, 1, ncclBfloat16, ncclSum, party.comm, party.stream));
  EXPECT_SUCCESS(cudaMemcpyAsync(host, x, 2, cudaMemcpyDeviceToHost, party.stream));
  EXPECT_SUCCESS(cudaStreamSynchronize(party.stream));
  EXPECT(*static_cast<uint16_t*>(host) == bits_of(256));
}

void check_everything(const Party& party) {
  for (const size_t count : {size_t{0}, size_t{1}, size_t{1001}, size_t{100'003}}) {
    check_reductions<float>(party, count);
    check_copies<float>(party, count);
  }
  check_reductions<double>(party, 77);
  check_reductions<int32_t>(party, 77);
  check_copies<int64_t>(party, 77);
  for (const size_t scale : {size_t{0}, size_t{1}, size_t{20'011}})
    check_messages<float>(party, scale);
  check_messages<int64_t>(party, 3);
  check_rounding(party);
  int count = 0, rank = 0;
  EXPECT_NCCL(ncclCommCount(party.comm, &count));
  EXPECT_NCCL(ncclCommUserRank(party.comm, &rank));
  EXPECT(count == party.size && rank == party.rank);
}

void leave(ncclComm_t comm, bool blocks) {
  const ncclResult_t result = ncclCommFinalize(comm);
  EXPECT(result == (blocks ? ncclSuccess : ncclInProgress));
  Rank::settle(comm);
  EXPECT_NCCL(ncclCommDestroy(comm));
}

void run_everything(Rank& rank, bool blocks) {
  const Party world = {rank.join("world", blocks), rank.rank, rank.size, make_stream()};
  check_everything(world);
  // Even and odd ranks, in reverse order; the last rank stays out.
  const bool takes_part = rank.size == 1 || rank.rank < rank.size - 1;
  const int color = takes_part ? rank.rank % 2 : NCCL_SPLIT_NOCOLOR;
  ncclComm_t part = nullptr;
  const ncclResult_t result = ncclCommSplit(world.comm, color, -rank.rank, &part, nullptr);
  EXPECT(result == (blocks ? ncclSuccess : ncclInProgress));
  EXPECT(blocks || part == nullptr);  // not before the parent has come to rest
  world.settle();
  EXPECT((part != nullptr) == takes_part);
  if (takes_part) {
    int count = 0, number = 0;
    EXPECT_NCCL(ncclCommCount(part, &count));
    EXPECT_NCCL(ncclCommUserRank(part, &number));
    const int last = rank.size == 1 ? 0 : rank.size - 2;
    EXPECT(number == (last - rank.rank) / 2);
    check_everything({part, number, count, world.stream});
    leave(part, blocks);
  }
  check_copies<float>(world, 5);  // the parent still works
  leave(world.comm, blocks);
}

TEST_CASE("closed forms, by communicators that block and that do not") {
  for (const int size : {1, 2, 4, 8})
    for (const bool blocks : {true, false}) {
      INFO(size << " ranks, blocking " << blocks);
      check_success(
          run_ranks(size, in_mode("eager"), [&](Rank& rank) { run_everything(rank, blocks); }));
    }
}

TEST_CASE("closed forms, as late as legal and in random order") {
  for (const char* mode : {"lazy", "random"})
    for (const char* seed : {"1", "2"}) {
      INFO(mode << " " << seed);
      check_success(
          run_ranks(4, in_mode(mode, seed), [](Rank& rank) { run_everything(rank, false); }));
    }
}

// Both sides of each pair must make progress while the host of one waits for the other.
TEST_CASE("what another rank waits for runs although this one's host asks for nothing") {
  check_success(run_ranks(2, in_mode("lazy"), [](Rank& rank) {
    const Party party = {rank.join("world", false), rank.rank, rank.size, make_stream()};
    float* x = party.device<float>(4, [](size_t) { return 1; });
    accept(party, ncclAllReduce(x, x, 4, ncclFloat32, ncclSum, party.comm, party.stream));
    if (rank.rank == 0) {
      party.check("AllReduce", x, 4, [](size_t) { return 2; });
      rank.note(0) = 1;
    } else {
      // As a host does that waits for something else, and asks for errors meanwhile.
      while (rank.note(0) == 0) party.settle();
    }
  }));
}

TEST_CASE("a captured graph replays its collectives") {
  for (const char* mode : {"eager", "lazy", "random"})
    check_success(run_ranks(2, in_mode(mode), [](Rank& rank) {
      const Party party = {rank.join(), rank.rank, rank.size, make_stream()};
      float* x = party.device<float>(4, [](size_t) { return 1; });
      EXPECT_SUCCESS(cudaStreamSynchronize(party.stream));
      cudaGraph_t graph = nullptr;
      cudaGraphExec_t ready = nullptr;
      EXPECT_SUCCESS(cudaStreamBeginCapture(party.stream, cudaStreamCaptureModeThreadLocal));
      EXPECT_NCCL(ncclAllReduce(x, x, 4, ncclFloat32, ncclSum, party.comm, party.stream));
      EXPECT_NCCL(ncclBroadcast(x, x, 4, ncclFloat32, 1, party.comm, party.stream));
      EXPECT_SUCCESS(cudaStreamEndCapture(party.stream, &graph));
      EXPECT_SUCCESS(cudaGraphInstantiate(&ready, graph, 0));
      for (int i = 0; i < 3; ++i) EXPECT_SUCCESS(cudaGraphLaunch(ready, party.stream));
      party.check("three times the sum", x, 4, [](size_t) { return 8; });
    }));
}

// What of `what` is counted: calls and bytes.
std::pair<uint64_t, uint64_t> counted(const std::string& what) {
  std::vector<cuda_emulator_count> counts(64);
  counts.resize(cuda_emulator_counts(CUDA_EMULATOR_COLLECTIVE, counts.data(), counts.size()));
  for (const cuda_emulator_count& count : counts)
    if (count.what == what) return {count.calls, count.amount};
  return {0, 0};
}

TEST_CASE("bytes for other ranks are counted by communicator and function") {
  check_success(run_ranks(4, in_mode("eager"), [](Rank& rank) {
    const Party party = {rank.join("dp"), rank.rank, rank.size, make_stream()};
    float* x = party.device<float>(400, [](size_t) { return 1; });
    cuda_emulator_reset_counts();
    EXPECT_NCCL(ncclAllReduce(x, x, 100, ncclFloat32, ncclSum, party.comm, party.stream));
    for (int root = 0; root < 2; ++root)
      EXPECT_NCCL(ncclBroadcast(x, x, 10, ncclFloat32, root, party.comm, party.stream));
    EXPECT_NCCL(ncclAllGather(x + 5 * rank.rank, x, 5, ncclFloat32, party.comm, party.stream));
    EXPECT_NCCL(ncclGroupStart());
    EXPECT_NCCL(ncclSend(x, 7, ncclFloat32, rank.rank, party.comm, party.stream));
    EXPECT_NCCL(ncclSend(x, 9, ncclFloat32, rank.rank ^ 1, party.comm, party.stream));
    EXPECT_NCCL(ncclRecv(x + 100, 7, ncclFloat32, rank.rank, party.comm, party.stream));
    EXPECT_NCCL(ncclRecv(x + 200, 9, ncclFloat32, rank.rank ^ 1, party.comm, party.stream));
    EXPECT_NCCL(ncclGroupEnd());
    EXPECT_SUCCESS(cudaStreamSynchronize(party.stream));
    const uint64_t as_root = rank.rank < 2 ? 10 * 3 * 4 : 0;
    EXPECT(counted("dp ncclAllReduce") == std::pair(uint64_t{1}, uint64_t{2 * 100 * 4 * 3 / 4}));
    EXPECT(counted("dp ncclBroadcast") == std::pair(uint64_t{2}, as_root));
    EXPECT(counted("dp ncclAllGather") == std::pair(uint64_t{1}, uint64_t{5 * 3 * 4}));
    EXPECT(counted("dp ncclSend") == std::pair(uint64_t{1}, uint64_t{9 * 4}));
  }));
}

}  // namespace
}  // namespace cuda_emulator::test
