// Bugs in how ranks use NCCL, planted one at a time: the emulator must catch each one and name both
// sides, and let the same program without the bug pass.
#include "nccl_bugs.h"

namespace cuda_emulator::test {
namespace {

constexpr const char* kModes[] = {"eager", "lazy", "random"};

using Program = void (*)(Rank& rank, bool planted);

const Environment& one_order() {
  static const Environment environment = {{"NCCL_LAUNCH_ORDER_IMPLICIT", "1"}};
  return environment;
}

Environment with_order(Environment environment) {
  environment.push_back(one_order().front());
  return environment;
}

std::vector<Ended> run(const char* mode, Program program, bool planted, int size = 2) {
  return run_ranks(size, with_order(in_mode(mode)), [&](Rank& rank) { program(rank, planted); });
}

void check_control(Program program, int size = 2) {
  for (const char* mode : kModes) {
    INFO(mode);
    check_success(run(mode, program, false, size));
  }
}

// In every mode.
void check_caught(Program program, const std::vector<std::string>& texts, int size = 2) {
  for (const char* mode : kModes) {
    INFO(mode);
    check_stopped(run(mode, program, true, size), texts);
  }
  check_control(program, size);
}

// ---- Ranks that call different things ----------------------------------------------------------

void equal_counts(Rank& rank, bool planted) {
  ncclComm_t comm = rank.join("dp");
  cudaStream_t stream = make_stream();
  float* x = device_floats();
  const size_t count = planted && rank.rank == 1 ? 9 : 8;
  EXPECT_NCCL(ncclAllReduce(x, x, count, ncclFloat32, ncclSum, comm, stream));
  synchronize(stream);
}

void equal_types(Rank& rank, bool planted) {
  ncclComm_t comm = rank.join("dp");
  cudaStream_t stream = make_stream();
  float* x = device_floats();
  const ncclDataType_t type = planted && rank.rank == 1 ? ncclInt32 : ncclFloat32;
  EXPECT_NCCL(ncclAllReduce(x, x, 8, type, ncclSum, comm, stream));
  synchronize(stream);
}

void equal_operators(Rank& rank, bool planted) {
  ncclComm_t comm = rank.join("dp");
  cudaStream_t stream = make_stream();
  float* x = device_floats();
  EXPECT_NCCL(ncclAllReduce(x, x, 8, ncclFloat32, planted && rank.rank == 1 ? ncclMax : ncclSum,
                            comm, stream));
  synchronize(stream);
}

void equal_roots(Rank& rank, bool planted) {
  ncclComm_t comm = rank.join("dp");
  cudaStream_t stream = make_stream();
  float* x = device_floats();
  EXPECT_NCCL(ncclBroadcast(x, x, 8, ncclFloat32, planted ? rank.rank : 0, comm, stream));
  synchronize(stream);
}

void equal_collectives(Rank& rank, bool planted) {
  ncclComm_t comm = rank.join("dp");
  cudaStream_t stream = make_stream();
  float *x = device_floats(), *y = device_floats();
  EXPECT_NCCL(ncclAllReduce(x, x, 8, ncclFloat32, ncclSum, comm, stream));
  if (planted && rank.rank == 1)
    EXPECT_NCCL(ncclReduceScatter(x, y, 8, ncclFloat32, ncclSum, comm, stream));
  else
    EXPECT_NCCL(ncclAllGather(x, y, 8, ncclFloat32, comm, stream));
  synchronize(stream);
}

// Rank 1 leaves out a collective.
void equal_sequences(Rank& rank, bool planted) {
  ncclComm_t comm = rank.join("dp");
  cudaStream_t stream = make_stream();
  float* x = device_floats();
  for (int i = 0; i < 3; ++i)
    if (!planted || rank.rank == 0 || i != 1)
      EXPECT_NCCL(
          ncclAllReduce(x, x, static_cast<size_t>(8 + i), ncclFloat32, ncclSum, comm, stream));
  synchronize(stream);
}

void equal_messages(Rank& rank, bool planted) {
  ncclComm_t comm = rank.join("pp");
  cudaStream_t stream = make_stream();
  float* x = device_floats();
  if (rank.rank == 0)
    EXPECT_NCCL(ncclSend(x, 8, ncclFloat32, 1, comm, stream));
  else
    EXPECT_NCCL(ncclRecv(x, planted ? 9 : 8, ncclFloat32, 0, comm, stream));
  synchronize(stream);
}

void equal_types_of_messages(Rank& rank, bool planted) {
  ncclComm_t comm = rank.join("pp");
  cudaStream_t stream = make_stream();
  float* x = device_floats();
  if (rank.rank == 0)
    EXPECT_NCCL(ncclSend(x, 8, ncclFloat32, 1, comm, stream));
  else
    EXPECT_NCCL(ncclRecv(x, 8, planted ? ncclInt32 : ncclFloat32, 0, comm, stream));
  synchronize(stream);
}

TEST_CASE("ranks that differ in what they call") {
  check_caught(equal_counts,
               {"of 2 of dp calls AllReduce of", "of 8 float32", "of 9 float32", "#1"});
  check_caught(equal_types, {"8 float32 (sum)", "8 int32 (sum)"});
  check_caught(equal_operators, {"8 float32 (sum)", "8 float32 (maximum)"});
  check_caught(equal_roots, {"Broadcast of 8 float32 from rank 0", "from rank 1"});
  check_caught(equal_collectives, {"AllGather of 8 float32", "ReduceScatter of 8 float32", "#2"});
  check_caught(equal_sequences, {"AllReduce of 9 float32", "AllReduce of 10 float32", "#2"});
}

TEST_CASE("messages that differ at both ends") {
  check_caught(equal_messages,
               {"rank 1 of 2 expects from rank 0 the Recv of 9 float32", "Send of 8 float32"});
  check_caught(equal_types_of_messages, {"Recv of 8 int32", "Send of 8 float32"});
}

// ---- Ranks that wait for each other
// --------------------------------------------------------------

void sends_are_grouped_with_receives(Rank& rank, bool planted) {
  ncclComm_t comm = rank.join("pp");
  cudaStream_t stream = make_stream();
  float *x = device_floats(), *y = device_floats();
  const int peer = 1 - rank.rank;
  if (!planted) EXPECT_NCCL(ncclGroupStart());
  EXPECT_NCCL(ncclSend(x, 8, ncclFloat32, peer, comm, stream));
  EXPECT_NCCL(ncclRecv(y, 8, ncclFloat32, peer, comm, stream));
  if (!planted) EXPECT_NCCL(ncclGroupEnd());
  synchronize(stream);
}

// Each rank sends to the next before it receives: a circle of four.
void circles_are_grouped(Rank& rank, bool planted) {
  ncclComm_t comm = rank.join("pp");
  cudaStream_t stream = make_stream();
  float *x = device_floats(), *y = device_floats();
  if (!planted) EXPECT_NCCL(ncclGroupStart());
  EXPECT_NCCL(ncclSend(x, 8, ncclFloat32, (rank.rank + 1) % rank.size, comm, stream));
  EXPECT_NCCL(ncclRecv(y, 8, ncclFloat32, (rank.rank + 3) % rank.size, comm, stream));
  if (!planted) EXPECT_NCCL(ncclGroupEnd());
  synchronize(stream);
}

void messages_to_oneself_are_received(Rank& rank, bool planted) {
  ncclComm_t comm = rank.join("pp");
  cudaStream_t stream = make_stream();
  float *x = device_floats(), *y = device_floats();
  EXPECT_NCCL(ncclGroupStart());
  EXPECT_NCCL(ncclSend(x, 8, ncclFloat32, rank.rank, comm, stream));
  if (!planted) EXPECT_NCCL(ncclRecv(y, 8, ncclFloat32, rank.rank, comm, stream));
  EXPECT_NCCL(ncclGroupEnd());
  synchronize(stream);
}

struct TwoCommunicators {
  explicit TwoCommunicators(Rank& rank) : first(rank.join("tp")) {
    EXPECT_NCCL(ncclCommSplit(first, 0, rank.rank, &second, nullptr));
  }
  ncclComm_t first, second = nullptr;
  cudaStream_t first_stream = make_stream(), second_stream = make_stream();
  float *x = device_floats(), *y = device_floats(), *z = device_floats();
};

void communicators_are_used_in_one_order(Rank& rank, bool planted) {
  TwoCommunicators both(rank);
  const bool reversed = planted && rank.rank == 1;
  for (const bool first : {!reversed, reversed})
    if (first)
      EXPECT_NCCL(
          ncclAllReduce(both.x, both.x, 8, ncclFloat32, ncclSum, both.first, both.first_stream));
    else
      EXPECT_NCCL(ncclAllGather(both.y, both.z, 16, ncclFloat32, both.second, both.second_stream));
  synchronize(both.first_stream);
  synchronize(both.second_stream);
}

// The same with exchanges made of messages.
void exchanges_are_in_one_order(Rank& rank, bool planted) {
  TwoCommunicators both(rank);
  const int peer = 1 - rank.rank;
  const bool reversed = planted && rank.rank == 1;
  for (const bool first : {!reversed, reversed}) {
    ncclComm_t comm = first ? both.first : both.second;
    cudaStream_t stream = first ? both.first_stream : both.second_stream;
    EXPECT_NCCL(ncclGroupStart());
    EXPECT_NCCL(ncclSend(both.x, 8, ncclFloat32, peer, comm, stream));
    EXPECT_NCCL(ncclRecv(first ? both.y : both.z, 8, ncclFloat32, peer, comm, stream));
    EXPECT_NCCL(ncclGroupEnd());
  }
  synchronize(both.first_stream);
  synchronize(both.second_stream);
}

void collectives_and_messages_are_in_one_order(Rank& rank, bool planted) {
  ncclComm_t comm = rank.join("ep");
  cudaStream_t stream = make_stream();
  float *x = device_floats(), *y = device_floats();
  const auto message = [&] {
    if (rank.rank == 0)
      EXPECT_NCCL(ncclSend(x, 8, ncclFloat32, 1, comm, stream));
    else
      EXPECT_NCCL(ncclRecv(x, 8, ncclFloat32, 0, comm, stream));
  };
  if (planted && rank.rank == 1) message();
  EXPECT_NCCL(ncclAllReduce(y, y, 8, ncclFloat32, ncclSum, comm, stream));
  if (!planted || rank.rank == 0) message();
  synchronize(stream);
}

TEST_CASE("ranks that wait for each other") {
  check_caught(sends_are_grouped_with_receives,
               {"wait for each other", "rank 0 of 2 of pp in Send of 8 float32 #1 to rank 1",
                "rank 1 of 2 of pp in Send of 8 float32 #1 to rank 0"});
  check_caught(circles_are_grouped, {"wait for each other", "rank 0 of 4", "rank 3 of 4"}, 4);
  check_caught(messages_to_oneself_are_received, {"wait for each other", "waits for rank 0"}, 1);
}

TEST_CASE("two communicators in opposite order on two ranks") {
  check_caught(communicators_are_used_in_one_order,
               {"wait for each other", "AllReduce of 8 float32", "AllGather of 16 float32"});
  check_caught(exchanges_are_in_one_order, {"wait for each other", "of tp in Send"});
  check_caught(collectives_and_messages_are_in_one_order,
               {"wait for each other", "AllReduce of 8 float32", "Recv of 8 float32"});
}

TEST_CASE("several communicators without one order of launches") {
  const auto program = [](Rank& rank) { communicators_are_used_in_one_order(rank, false); };
  check_stopped(run_ranks(2, in_mode("eager"), program), {"NCCL_LAUNCH_ORDER_IMPLICIT is not 1"});
}

// ---- Order between NCCL and everything else
// ------------------------------------------------------

// What a communicator that does not block was asked for is on its stream only when it says so.
void launch_is_polled_for(Rank& rank, bool planted) {
  ncclComm_t comm = rank.join("dp", false);
  cudaStream_t stream = make_stream();
  cudaEvent_t done = make_event();
  float *x = device_floats(), *in = pinned_floats(1), *out = pinned_floats(0);
  upload(x, in, stream);
  EXPECT(ncclAllReduce(x, x, kCount, ncclFloat32, ncclSum, comm, stream) == ncclInProgress);
  if (!planted) Rank::settle(comm);
  EXPECT_SUCCESS(cudaEventRecord(done, stream));
  Rank::settle(comm);
  cudaStream_t reader = make_stream();
  EXPECT_SUCCESS(cudaStreamWaitEvent(reader, done, 0));
  download(out, x, reader);
  synchronize(reader);
  const bool sum_is_2 = all_equal(out, 2);
  EXPECT(sum_is_2);
  synchronize(stream);
}

void check_wrong_somewhere(const std::vector<Ended>& ranks, const std::string& what) {
  std::string all;
  for (const Ended& ended : ranks) all += ended.output;
  CHECK_THAT(all, switchyard::test::contains_text("not so: " + what));
}

TEST_CASE("a collective that does not wait for its input") {
  check_wrong_somewhere(run("lazy", collective_waits_for_its_input, true), "sum_is_4");
  check_control(collective_waits_for_its_input);
}

TEST_CASE("a kernel that does not wait for a collective") {
  check_wrong_somewhere(run("lazy", result_is_waited_for, true), "result_is_4");
  check_control(result_is_waited_for);
}

TEST_CASE("an event recorded before the collective is on its stream") {
  for (const char* mode : kModes)
    check_wrong_somewhere(run(mode, launch_is_polled_for, true), "sum_is_2");
  check_control(launch_is_polled_for);
}

// ---- Misuse of a communicator, and ranks that leave ---------------------------------------------

TEST_CASE("a communicator that is in progress refuses calls") {
  check_success(run_ranks(2, in_mode("eager"), [](Rank& rank) {
    ncclComm_t comm = rank.join("dp", false);
    cudaStream_t stream = make_stream();
    float* x = device_floats();
    EXPECT(ncclAllReduce(x, x, 8, ncclFloat32, ncclSum, comm, stream) == ncclInProgress);
    EXPECT(ncclAllReduce(x, x, 8, ncclFloat32, ncclSum, comm, stream) == ncclInvalidArgument);
    EXPECT(std::strstr(ncclGetLastError(comm), "in progress") != nullptr);
    Rank::settle(comm);
    synchronize(stream);
  }));
}

TEST_CASE("memory that is no device's") {
  check_stopped(run_ranks(2, in_mode("eager"),
                          [](Rank& rank) {
                            ncclComm_t comm = rank.join("dp");
                            std::vector<float> x(8);
                            ncclAllReduce(x.data(), x.data(), 8, ncclFloat32, ncclSum, comm,
                                          make_stream());
                          }),
                {"NCCL's sendbuff"});
}

TEST_CASE("input and output that overlap, but are not in place") {
  check_stopped(run_ranks(2, in_mode("eager"),
                          [](Rank& rank) {
                            ncclComm_t comm = rank.join("dp");
                            float* x = device_floats();
                            ncclAllGather(x + 4, x, 8, ncclFloat32, comm, make_stream());
                          }),
                {"memory that overlaps"});
}

TEST_CASE("a communicator is destroyed while operations are in flight") {
  check_stopped(run_ranks(2, in_mode("lazy"),
                          [](Rank& rank) {
                            ncclComm_t comm = rank.join("dp");
                            float* x = device_floats();
                            ncclAllReduce(x, x, 8, ncclFloat32, ncclSum, comm, make_stream());
                            ncclCommDestroy(comm);
                          }),
                {"destroyed while operations are in flight"});
}

// Rank 1 leaves without a word, or by ncclCommAbort; rank 0 finds out by asking, and its kernel
// ends when it aborts, too.
TEST_CASE("a rank that leaves is an asynchronous error on the others") {
  for (const bool aborts : {false, true}) {
    const auto ended = run_ranks(2, in_mode("eager"), [&](Rank& rank) {
      ncclComm_t comm = rank.join("dp", false);
      cudaStream_t stream = make_stream();
      float* x = device_floats();
      if (rank.rank == 1) {
        if (aborts) EXPECT_NCCL(ncclCommAbort(comm));
        return;
      }
      EXPECT(ncclAllReduce(x, x, 8, ncclFloat32, ncclSum, comm, stream) == ncclInProgress);
      ncclResult_t state = ncclInProgress;
      while (state == ncclInProgress) EXPECT_NCCL(ncclCommGetAsyncError(comm, &state));
      while (state == ncclSuccess) {
        EXPECT(cudaStreamQuery(stream) == cudaErrorNotReady);
        EXPECT_NCCL(ncclCommGetAsyncError(comm, &state));
      }
      EXPECT(state == ncclRemoteError);
      EXPECT(std::strstr(ncclGetLastError(comm), "rank 1") != nullptr);
      EXPECT_NCCL(ncclCommAbort(comm));
      synchronize(stream);
    });
    check_success(ended);
  }
}

}  // namespace
}  // namespace cuda_emulator::test
