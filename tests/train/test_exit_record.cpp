// RUN/exit.json: one record per attempt, of whoever knows best why it ended.
#include <filesystem>

#include "comm/collective_error.h"
#include "support/catch.h"
#include "support/temporary_directory.h"
#include "train/exit_record.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

// The recorders of a job on one run directory.
struct Job {
  explicit Job(int64_t attempt) {
    first.begin_attempt(attempt);
    second.begin_attempt(attempt);
  }
  std::optional<ExitRecord> record() const { return read_exit_record(directory.file("")); }

  TemporaryDirectory directory;
  ExitRecorder first{directory.file(""), 0}, second{directory.file(""), 1};
};

}  // namespace

TEST_CASE("a record reads back, and a shell can take it apart line by line") {
  Job job(3);
  job.first.at_step(120);
  job.first.write(ExitCode::kStopped, "SIGUSR1 \"quoted\"\n\xff", true);
  const auto record = job.record();
  REQUIRE(record);
  CHECK(record->code == ExitCode::kStopped);
  CHECK(record->step == 120);
  CHECK(record->rank == 0);
  CHECK(record->attempt == 3);
  CHECK(record->requeue);
  CHECK_THAT(record->reason, contains_text("SIGUSR1 \"quoted\""));
  CHECK(record->time.size() == 20);
  const std::string text = read_bytes(job.directory.file("exit.json"));
  CHECK_THAT(text, contains_text("\n  \"code\": 75,\n  \"name\": \"stopped\",\n"));
  CHECK_THAT(text, contains_text("\n  \"requeue\": true,\n"));
  CHECK(utc_text(1700000000.7) == "2023-11-14T22:13:20Z");
}

TEST_CASE("the first record of an attempt stays, but what may only follow from it gives way") {
  Job job(1);
  job.second.write(ExitCode::kHang, "rank 1 hangs");
  job.first.write(ExitCode::kInternal, "MPI: a peer is gone");
  job.first.write(ExitCode::kStorage, "another");
  CHECK(job.record()->code == ExitCode::kHang);
  CHECK(job.record()->rank == 1);

  Job other(1);
  other.first.write(ExitCode::kInternal, "MPI: a peer is gone");
  other.second.write(ExitCode::kStorage, "disk full");
  CHECK(other.record()->code == ExitCode::kStorage);
}

TEST_CASE("each attempt has its own record; the one before is set aside") {
  Job job(1);
  job.first.write(ExitCode::kOk, "done");
  ExitRecorder next(job.directory.file(""), 0);
  next.begin_attempt(2);
  CHECK_FALSE(job.record());
  CHECK_THAT(read_bytes(job.directory.file("exit.previous.json")), contains_text("\"done\""));
  next.write(ExitCode::kInternal, "a bug");
  CHECK(job.record()->attempt == 2);
}

TEST_CASE("a record of an earlier attempt, or what is none, is replaced") {
  Job job(2);
  write_bytes(job.directory.file("exit.json"), to_json({.code = ExitCode::kHang, .attempt = 1}));
  job.second.write(ExitCode::kInternal, "a bug");
  CHECK(job.record()->code == ExitCode::kInternal);
  write_bytes(job.directory.file("exit.json"), "{");
  CHECK_THROWS_AS(job.record(), Error);
  job.second.write(ExitCode::kInternal, "a bug");
  CHECK(job.record()->attempt == 2);
}

TEST_CASE("before the attempt has begun nothing is written: the directory may be another job's") {
  TemporaryDirectory directory;
  ExitRecorder recorder(directory.file(""), 0);
  recorder.write(ExitCode::kLocked, "another job");
  CHECK(std::filesystem::is_empty(directory.file("")));
}

TEST_CASE("a record that cannot be written is no error") {
  TemporaryDirectory directory;
  ExitRecorder recorder(directory.file("none"), 1);
  recorder.begin_attempt(1);
  recorder.write(ExitCode::kStorage, "no disk");
  CHECK_FALSE(std::filesystem::exists(directory.file("none")));
}

TEST_CASE("errors are recorded on their way out: shared ones by rank 0, others by their rank") {
  const auto fail_with = [](ExitRecorder& recorder, int rank, const auto& error) {
    CHECK_THROWS(record_errors(recorder, rank, [&] { throw error; }));
  };
  Job job(1);
  fail_with(job.second, 1, CollectiveError(ExitCode::kNumeric, "shared"));
  CHECK_FALSE(job.record());
  fail_with(job.first, 0, CollectiveError(ExitCode::kNumeric, "shared"));
  CHECK(job.record()->code == ExitCode::kNumeric);

  Job own(1);
  fail_with(own.second, 1, std::runtime_error("a bug"));
  CHECK(own.record()->code == ExitCode::kInternal);
  CHECK(own.record()->rank == 1);
  CHECK(own.record()->reason == "a bug");

  Job fine(1);
  record_errors(fine.first, 0, [] {});
  CHECK_FALSE(fine.record());
}
