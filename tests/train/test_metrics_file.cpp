// metrics.jsonl through several attempts: every step once among the lines that stand.
#include <sys/resource.h>

#include <csignal>

#include "core/error.h"
#include "support/catch.h"
#include "support/temporary_directory.h"
#include "train/metrics.h"
#include "train/metrics_file.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

struct Log {
  void steps(int64_t attempt, int64_t first, int64_t last, const std::string& more = "") {
    for (int64_t step = first; step <= last; ++step)
      append(stamped("{\"step\":" + std::to_string(step) + more + "}", attempt) + "\n");
  }
  void append(const std::string& text) { write_bytes(path, read_bytes(path) + text); }

  // "1a1 2a1 3a2": the steps that stand, and of which attempt.
  std::string standing() const {
    std::string text;
    for (const auto& line : read_metrics(path))
      text += (text.empty() ? "" : " ") + line["step"].dump() + "a" + line["attempt"].dump();
    return text;
  }

  TemporaryDirectory directory;
  std::string path = directory.file("metrics.jsonl");
};

}  // namespace

TEST_CASE("a line ends in its attempt and whether it stands") {
  CHECK(stamped(R"({"step":3})", 2) == R"({"step":3,"attempt":2,"superseded":false})");
}

TEST_CASE("lines of steps that are taken again are marked, and stay as long as they were") {
  Log log;
  log.steps(1, 1, 8);
  const std::string before = read_bytes(log.path);
  const ResumedMetrics resumed = resume_metrics(log.path, 5);
  CHECK(resumed.superseded_lines == 3);
  CHECK(resumed.furthest_step == 8);
  CHECK(resumed.torn_bytes == 0);
  CHECK(read_bytes(log.path).size() == before.size());
  CHECK_THAT(read_bytes(log.path), contains_text(R"({"step":6,"attempt":1,"superseded":true })"));
  log.steps(2, 6, 7);
  CHECK(log.standing() == "1a1 2a1 3a1 4a1 5a1 6a2 7a2");

  CHECK(resume_metrics(log.path, 6).superseded_lines == 1);
  log.steps(3, 7, 9);
  CHECK(log.standing() == "1a1 2a1 3a1 4a1 5a1 6a2 7a3 8a3 9a3");
  // Back to before all of them, and to where nothing is lost.
  CHECK(resume_metrics(log.path, 9).superseded_lines == 0);
  CHECK(resume_metrics(log.path, 2).superseded_lines == 7);
  CHECK(log.standing() == "1a1 2a1");
  CHECK(resume_metrics(log.path, 0).superseded_lines == 2);
  CHECK(log.standing().empty());
  CHECK(resume_metrics(log.path, 0).furthest_step == 0);
}

TEST_CASE("validations go with their step") {
  Log log;
  log.steps(1, 1, 4);
  log.append(stamped(R"({"step":4,"validation_lm_loss":2.5})", 1) + "\n");
  log.steps(1, 5, 6);
  resume_metrics(log.path, 4);
  CHECK(log.standing() == "1a1 2a1 3a1 4a1 4a1");
  resume_metrics(log.path, 3);
  CHECK(log.standing() == "1a1 2a1 3a1");
}

TEST_CASE("a last line torn anywhere is cut off, and only that") {
  Log whole;
  whole.steps(1, 1, 3);
  const std::string text = read_bytes(whole.path);
  const size_t third = text.rfind("{\"step\":3");
  for (size_t size = third + 1; size < text.size(); ++size) {
    Log log;
    log.append(text.substr(0, size));
    CAPTURE(size);
    CHECK(log.standing().substr(0, 7) == "1a1 2a1");
    const ResumedMetrics resumed = resume_metrics(log.path, 3);
    CHECK(resumed.torn_bytes == static_cast<int64_t>(size - third));
    CHECK(read_bytes(log.path) == text.substr(0, third));
  }
  whole.append(std::string(100, '\0') + "\n" +
               std::string(5000, '\0'));  // as after a loss of power
  CHECK(resume_metrics(whole.path, 3).torn_bytes == 5101);
  CHECK(read_bytes(whole.path) == text);
}

TEST_CASE("lines longer than a block, and a file of many") {
  Log log;
  const std::string more = ",\"text\":\"" + std::string(100000, 'x') + "\"";
  log.steps(1, 1, 3, more);
  log.steps(1, 4, 400);
  log.steps(1, 401, 403, more);
  CHECK(resume_metrics(log.path, 2).superseded_lines == 401);
  CHECK(log.standing() == "1a1 2a1");
}

TEST_CASE("no file: nothing to do; a line that is none: the reader says so") {
  Log log;
  CHECK(resume_metrics(log.path, 7).furthest_step == 7);
  CHECK_THROWS_AS(read_metrics(log.path), Error);
  log.append("nonsense\n");
  log.steps(1, 1, 2);
  CHECK_THROWS_AS(read_metrics(log.path), Error);
  CHECK(resume_metrics(log.path, 1).superseded_lines == 1);
  CHECK(resume_metrics(log.path, 1).torn_bytes == 0);
}

TEST_CASE("lines that the disk does not take are kept, and written with later ones") {
  Log log;
  log.steps(1, 1, 2);
  Metrics metrics(log.path, 2, 100, 1000);
  const auto whole_files = [](rlim_t bytes) {
    rlimit limit = {};
    getrlimit(RLIMIT_FSIZE, &limit);
    limit.rlim_cur = bytes;
    setrlimit(RLIMIT_FSIZE, &limit);
  };
  std::signal(SIGXFSZ, SIG_IGN);
  whole_files(400);  // the next line is longer than the room that is left
  for (int64_t step = 3; step <= 4; ++step) metrics.add({.step = step});
  CHECK(log.standing() == "1a1 2a1");  // no part of a line
  whole_files(RLIM_INFINITY);
  metrics.add({.step = 5});
  CHECK(log.standing() == "1a1 2a1 3a2 4a2 5a2");
}
