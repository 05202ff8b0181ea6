// What a save holds is the state at its snapshot, whatever training does meanwhile; bits that turn
// over are found; a job that ends with a save in flight leaves it committed or not at all
// (reliability: B6, E6, I1, I2, I5).
#include <atomic>
#include <cstdlib>
#include <string>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "comm/self_communicator.h"
#include "core/error.h"
#include "core/fault_injection.h"
#include "log_lines.h"
#include "save_job.h"
#include "support/catch.h"
#include "support/temporary_directory.h"

namespace switchyard::test {
namespace {

constexpr int kNumRanks = 4;
constexpr const char* kCommitted = "committed step ";
constexpr const char* kResumed = "resumed step ";

TEST_CASE("tensors change while they are written: the file holds the snapshot") {
  const TemporaryDirectory directory;
  const LogLines log;
  const char* asked = std::getenv("SWITCHYARD_SNAPSHOTS");
  const int64_t num_saves = asked == nullptr ? 50 : std::atoll(asked);
  std::atomic<int64_t> changes = 0, whole = 0;
  SaveJob job{.directory = directory.file("run"), .last_step = num_saves - 1};
  job.after_begin = [&](Checkpointer& checkpointer, StepState& state, int64_t step) {
    for (int64_t n = 1; checkpointer.is_busy(); ++n) {
      state.set(step + n);
      ++changes;
      checkpointer.advance();
    }
    const bool is_rank_0 = state.held()[0].box.offset[0] == 0;
    if (is_rank_0 && is_whole(job.directory, step)) ++whole;
  };
  set_faults("point=checkpoint.shard.write,nth=1+,action=sleep:0.001");
  run_save_job(job);
  set_faults("");
  CHECK(changes > 4 * num_saves);
  CHECK(whole == num_saves);
}

// Passes everything on, and counts what is downloaded.
class CountingBackend final : public Backend {
 public:
  std::string description() const override { return inner_.description(); }
  Ops& ops() override { return inner_.ops(); }
  double peak_flops(DType real) override { return inner_.peak_flops(real); }
  Queue compute_queue() override { return inner_.compute_queue(); }
  Event record(Queue queue) override { return inner_.record(queue); }
  void wait(Queue queue, Event event) override { inner_.wait(queue, event); }
  void host_wait(Event event) override { inner_.host_wait(event); }
  Event start(std::unique_ptr<PendingWork> work, Event after) override {
    return inner_.start(std::move(work), after);
  }
  void progress() override { inner_.progress(); }
  bool is_complete(Event event) override { return inner_.is_complete(event); }
  void upload(Queue queue, Tensor device, const void* host) override {
    inner_.upload(queue, device, host);
  }
  void download(Queue queue, void* host, Tensor device) override {
    downloaded += device.bytes();
    inner_.download(queue, host, device);
  }

  int64_t downloaded = 0;

 private:
  std::byte* do_allocate(int64_t) override { fail(ExitCode::kInternal, __FILE__, __LINE__, "?"); }
  void do_free(std::byte*, int64_t) override {}

  CpuBackend inner_{1};
};

TEST_CASE("training stands still for one copy of the state") {
  const TemporaryDirectory directory;
  const LogLines log;
  set_faults("");
  SelfCommunicator world("world");
  CountingBackend backend;
  StepState state(0, 1, int64_t{1} << 20);  // 16 MiB
  state.set(0);
  const auto storage = std::make_shared<Storage>();
  const auto run = std::make_shared<RunDirectory>(*storage, directory.file("run"),
                                                  RunDirectory::Options{.lock_wait_s = 0});
  const bool async = GENERATE(true, false);
  Checkpointer checkpointer({.async = async}, world, backend, state.held(), storage, run);
  for (int64_t step = 0; step < 3; ++step) {
    backend.downloaded = 0;
    checkpointer.begin(contents_of(step));
    CHECK(checkpointer.is_busy() == async);
    CHECK(backend.downloaded == state.bytes());
    checkpointer.finish();
    CHECK(backend.downloaded == state.bytes());
  }
  for (const std::string& line : log.with("stood still")) WARN(line);
}

TEST_CASE("a bit that turns over in a copy, before its checksum, is reported") {
  for (int rank = 0; rank < kNumRanks; ++rank) {
    for (size_t held = kFirstCopied; held < kNumHeld; ++held) {
      const TemporaryDirectory directory;
      const LogLines log;
      INFO("rank " << rank << ", held tensor " << held);
      set_faults(fmt::format("rank={},point=checkpoint.snapshot,nth={},action=flip", rank,
                             kNumHeld + held + 1));  // in the second save
      std::string message = "none";
      try {
        run_save_job({.directory = directory.file("run"), .last_step = 3});
      } catch (const Error& error) {
        message = error.what();
        CHECK(error.code() == ExitCode::kInternal);
      }
      set_faults("");
      CHECK_THAT(message, contains_text(held == kFirstCopied ? "\"vector\"" : "\"state/biases\""));
      CHECK_THAT(message, contains_text(fmt::format("agree, rank {} differs", rank)));
      CHECK(whole_steps(directory.file("run")) == std::vector<int64_t>{0});
    }
  }
}

TEST_CASE("a bit that turns over between checksum and disk is found when it is loaded") {
  for (int rank = 0; rank < kNumRanks; ++rank) {
    for (int nth = 3; nth <= 4; ++nth) {  // of the second save: header, data
      const TemporaryDirectory directory;
      const LogLines log;
      INFO("rank " << rank << ", write " << nth);
      set_faults(fmt::format("rank={},point=checkpoint.shard.write,nth={},action=flip", rank, nth));
      run_save_job({.directory = directory.file("run"), .last_step = 1});
      set_faults("");
      REQUIRE(log.numbers_after(kCommitted).back() == 1);
      run_save_job({.directory = directory.file("run"), .last_step = 1});
      CHECK(log.with("step 1 is passed over").size() == 1);
      CHECK(log.with("w0000" + std::to_string(rank)).size() == 1);
      CHECK(log.numbers_after(kResumed) == std::vector<int64_t>{0});
      CHECK(whole_steps(directory.file("run")) == std::vector<int64_t>{1, 0});
    }
  }
}

// Step 0 is committed; the save of step 1 is somewhere. Which is where a rank's thread sleeps.
void check_after_end_in_flight(const std::string& path, const LogLines& log) {
  const std::vector<int64_t> said = log.numbers_after(kCommitted);
  REQUIRE_FALSE(said.empty());
  for (const int64_t step : whole_steps(path)) CHECK(step <= 1);
  CHECK(is_whole(path, said.back()));
  run_save_job({.directory = path, .last_step = 2});
  const std::vector<int64_t> resumed = log.numbers_after(kResumed);
  REQUIRE(resumed.size() == 1);
  CHECK(resumed[0] >= said.back());
  CHECK(leftovers(path).empty());
  CHECK(whole_steps(path) == newest_and_loaded({2, 1}, resumed));
}

TEST_CASE("a job that ends with a save in flight leaves it committed or not at all") {
  const bool throws = GENERATE(false, true);
  std::atomic<int> in_flight = 0;
  for (int n = 0; n < 50; ++n) {
    const TemporaryDirectory directory;
    const LogLines log;
    SaveJob job{.directory = directory.file("run"), .last_step = 1, .drains = false};
    job.after_begin = [&](Checkpointer& checkpointer, StepState& state, int64_t step) {
      if (step == 0) return checkpointer.finish();
      for (int votes = n % 10; votes > 0; --votes) checkpointer.advance();
      const bool is_rank_1 = state.held()[0].box.offset[0] == 2;
      SY_CHECK(!throws || !is_rank_1, "rank 1 fails on purpose");
      in_flight += is_rank_1 && checkpointer.is_busy() ? 1 : 0;
    };
    set_faults(fmt::format("rank={},point=checkpoint.*,nth={},action=sleep:0.002", n % 4, 20 + n));
    INFO("case " << n);
    if (throws)
      CHECK_THROWS_AS(run_save_job(job), Error);
    else
      run_save_job(job);
    set_faults("");
    check_after_end_in_flight(job.directory, log);
  }
  if (!throws) CHECK(in_flight > 10);
}

}  // namespace
}  // namespace switchyard::test
