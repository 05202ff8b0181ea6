// What streams, events and host functions mean, in all modes.
#include <atomic>
#include <chrono>
#include <thread>

#include "cuda_emulator/progress.h"
#include "programs.h"
#include "runtime/stream.h"

namespace cuda_emulator::test {
namespace {

// In every mode, and in random order with a few seeds.
void check_in_all_modes(const std::function<void()>& program) {
  for (const char* mode : {"eager", "lazy"}) {
    INFO(mode);
    check_success(run_in_child(in_mode(mode), program));
  }
  for (const char* seed : {"1", "2", "3", "4", "5"}) {
    INFO("random, seed " << seed);
    check_success(run_in_child(in_mode("random", seed), program));
  }
}

// The order in which named steps ran.
struct Trace {
  std::string steps;
};
struct Step {
  Trace* trace;
  char name;
};

void put_step(cudaStream_t stream, Trace& trace, char name) {
  auto* step = new Step{&trace, name};
  EXPECT_SUCCESS(cudaLaunchHostFunc(
      stream,
      [](void* argument) {
        const auto* of = static_cast<Step*>(argument);
        of->trace->steps += of->name;
        delete of;
      },
      step));
}

void put_wait(cudaStream_t stream, cudaEvent_t event) {
  EXPECT_SUCCESS(cudaStreamWaitEvent(stream, event, 0));
}

std::string two_streams_unordered() {
  Trace trace;
  cudaStream_t first = make_stream(), second = make_stream();
  for (const char name : {'a', 'b', 'c'}) put_step(first, trace, name);
  for (const char name : {'x', 'y', 'z'}) put_step(second, trace, name);
  EXPECT_SUCCESS(cudaStreamSynchronize(second));
  EXPECT_SUCCESS(cudaDeviceSynchronize());
  return trace.steps;
}

std::string order_of(const Environment& environment, std::string (*program)()) {
  const Ended ended = run_in_child(environment, [&] { fputs(program().c_str(), stdout); });
  REQUIRE(ended.status == 0);
  return ended.output;
}

}  // namespace

TEST_CASE("a stream keeps its order, in every mode") {
  check_in_all_modes([] {
    cudaStream_t stream = make_stream();
    float* x = device_floats();
    float *in = pinned_floats(1), *out = pinned_floats(0);
    upload(x, in, stream);
    for (int i = 0; i < 5; ++i) {
      scale(x, 2, stream);
      add_one(x, x, stream);
    }
    download(out, x, stream);
    EXPECT_SUCCESS(cudaStreamSynchronize(stream));
    EXPECT(all_equal(out, 63));
  });
}

TEST_CASE("events order streams, in every mode") {
  check_in_all_modes([] {
    Trace trace;
    cudaStream_t first = make_stream(), second = make_stream(), third = make_stream();
    cudaEvent_t a = make_event(), b = make_event();
    put_step(first, trace, '1');
    EXPECT_SUCCESS(cudaEventRecord(a, first));
    put_wait(second, a);
    put_step(second, trace, '2');
    EXPECT_SUCCESS(cudaEventRecord(b, second));
    put_wait(third, b);
    put_step(third, trace, '3');
    EXPECT_SUCCESS(cudaEventRecord(a, third));  // the wait above is for the first record
    put_wait(first, a);
    put_step(first, trace, '4');
    EXPECT_SUCCESS(cudaStreamSynchronize(first));
    EXPECT(trace.steps == "1234");
  });
}

TEST_CASE("the modes order what is unordered: at once, as late as can be, at random") {
  CHECK(order_of(in_mode("eager"), two_streams_unordered) == "abcxyz");
  CHECK(order_of(in_mode("lazy"), two_streams_unordered) == "xyzabc");
  std::vector<std::string> seen;
  for (const char* seed : {"1", "2", "3", "4", "5", "6"}) {
    const std::string order = order_of(in_mode("random", seed), two_streams_unordered);
    CHECK(order == order_of(in_mode("random", seed), two_streams_unordered));
    seen.push_back(order);
  }
  std::sort(seen.begin(), seen.end());
  CHECK(std::unique(seen.begin(), seen.end()) - seen.begin() >= 3);
}

TEST_CASE("lazy: nothing runs until somebody waits, and then no more than is needed") {
  check_success(run_in_child(in_mode("lazy"), [] {
    Trace trace;
    cudaStream_t first = make_stream(), second = make_stream();
    put_step(first, trace, 'a');
    cudaEvent_t after_a = make_event();
    EXPECT_SUCCESS(cudaEventRecord(after_a, first));
    put_step(first, trace, 'b');
    put_step(second, trace, 'x');
    put_wait(second, after_a);
    put_step(second, trace, 'y');
    EXPECT(trace.steps.empty());
    EXPECT_SUCCESS(cudaStreamSynchronize(second));
    EXPECT(trace.steps == "xay");
    EXPECT_SUCCESS(cudaStreamDestroy(first));  // what is queued still runs
    EXPECT_SUCCESS(cudaDeviceSynchronize());
    EXPECT(trace.steps == "xayb");
    EXPECT(cudaStreamSynchronize(first) == cudaErrorInvalidResourceHandle);
  }));
}

TEST_CASE("questions: not ready at first, ready in the end") {
  check_success(run_in_child(in_mode("lazy"), [] {
    Trace trace;
    cudaStream_t stream = make_stream();
    cudaEvent_t event = make_event();
    EXPECT(cudaEventQuery(event) == cudaSuccess);  // never recorded
    for (const char name : {'a', 'b', 'c'}) put_step(stream, trace, name);
    EXPECT_SUCCESS(cudaEventRecord(event, stream));
    EXPECT(cudaEventQuery(event) == cudaErrorNotReady);
    EXPECT(cudaStreamQuery(stream) == cudaErrorNotReady);
    EXPECT(cudaGetLastError() == cudaSuccess);  // no error, an answer
    int questions = 0;
    while (cudaEventQuery(event) == cudaErrorNotReady) ++questions;
    EXPECT(questions < 10);
    EXPECT(trace.steps == "abc");
    EXPECT(cudaStreamQuery(stream) == cudaSuccess);
  }));
}

TEST_CASE("who waits outside CUDA lets the device work") {
  check_success(run_in_child(in_mode("lazy"), [] {
    Trace trace;
    cudaStream_t stream = make_stream();
    put_step(stream, trace, 'a');
    EXPECT(trace.steps.empty());
    EXPECT(cuda_emulator_progress() == 1);
    EXPECT(trace.steps == "a");
    EXPECT(cuda_emulator_progress() == 0);
  }));
}

TEST_CASE("the time between events") {
  check_success(run_in_child(in_mode("eager"), [] {
    cudaStream_t stream = make_stream();
    cudaEvent_t begin = nullptr, end = nullptr, untimed = make_event();
    EXPECT_SUCCESS(cudaEventCreate(&begin));
    EXPECT_SUCCESS(cudaEventCreate(&end));
    float milliseconds = -1;
    EXPECT(cudaEventElapsedTime(&milliseconds, begin, end) == cudaErrorInvalidResourceHandle);
    EXPECT_SUCCESS(cudaEventRecord(begin, stream));
    EXPECT_SUCCESS(cudaEventRecord(end, stream));
    EXPECT_SUCCESS(cudaEventRecord(untimed, stream));
    EXPECT_SUCCESS(cudaEventElapsedTime(&milliseconds, begin, end));
    EXPECT(milliseconds >= 0);
    EXPECT(cudaEventElapsedTime(&milliseconds, begin, untimed) == cudaErrorInvalidResourceHandle);
    EXPECT_SUCCESS(cudaEventDestroy(begin));
    EXPECT(cudaEventRecord(begin, stream) == cudaErrorInvalidResourceHandle);
  }));
}

TEST_CASE("an operation that waits for another rank holds up its own stream only") {
  check_in_all_modes([] {
    Trace trace;
    cudaStream_t stuck = make_stream(), free = make_stream();
    bool arrived = false;
    int asked = 0;
    Operation collective;
    collective.what = "collective";
    collective.work = [&] {
      ++asked;
      return arrived;
    };
    EXPECT_SUCCESS(enqueue(stuck, collective));
    put_step(stuck, trace, 'b');
    put_step(free, trace, 'a');
    EXPECT_SUCCESS(cudaStreamSynchronize(free));
    EXPECT(trace.steps == "a");
    EXPECT(cudaStreamQuery(stuck) == cudaErrorNotReady);
    arrived = true;
    EXPECT_SUCCESS(cudaStreamSynchronize(stuck));
    EXPECT(trace.steps == "ab");
    EXPECT(asked >= 1);
  });
}

// Another thread, as another rank would, ends what the first one waits for.
TEST_CASE("a wait lets other threads use CUDA") {
  check_in_all_modes([] {
    cudaStream_t stuck = make_stream();
    std::atomic<bool> arrived = false;
    Operation collective;
    collective.what = "collective";
    collective.work = [&] { return arrived.load(); };
    EXPECT_SUCCESS(enqueue(stuck, collective));
    std::thread other([&] {
      Trace trace;
      cudaStream_t stream = make_stream();
      put_step(stream, trace, 'a');
      EXPECT_SUCCESS(cudaStreamSynchronize(stream));
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      EXPECT(trace.steps == "a");
      arrived = true;
    });
    EXPECT_SUCCESS(cudaStreamSynchronize(stuck));
    EXPECT(arrived);
    other.join();
  });
}

TEST_CASE("collectives run in the order of their calls, whatever their streams") {
  check_in_all_modes([] {
    std::string order;
    cudaStream_t first = make_stream(), second = make_stream();
    const auto collective = [&](char name) {
      Operation operation;
      operation.what = "collective";
      operation.work = [&order, name] {
        order += name;
        return true;
      };
      operation.in_issue_order = true;
      return operation;
    };
    EXPECT_SUCCESS(enqueue(first, collective('a')));
    EXPECT_SUCCESS(enqueue(second, collective('b')));
    EXPECT_SUCCESS(enqueue(first, collective('c')));
    EXPECT_SUCCESS(enqueue(second, collective('d')));
    EXPECT_SUCCESS(cudaStreamSynchronize(second));
    EXPECT(order == "abcd");
  });
}

}  // namespace cuda_emulator::test
