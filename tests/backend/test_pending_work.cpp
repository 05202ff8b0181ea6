// Work outside any queue: what CpuBackend asks of it, and when its events complete.
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "support/catch.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

// Done when asked for the `rounds`-th time; writes its name down every time.
class Rounds final : public PendingWork {
 public:
  Rounds(std::string& log, char name, int rounds) : log_(log), name_(name), rounds_(rounds) {}
  bool advance() override {
    log_ += name_;
    return --rounds_ == 0;
  }

 private:
  std::string& log_;
  const char name_;
  int rounds_;
};

class Failure final : public PendingWork {
 public:
  bool advance() override {
    if (num_asked_++ > 0) throw Error(ExitCode::kData, "lost");
    return false;
  }

 private:
  int num_asked_ = 0;
};

}  // namespace

TEST_CASE("pending work advances when started, by progress(), and while anything is waited for") {
  CpuBackend cpu(1);
  Backend& backend = cpu;
  std::string log;
  const auto start = [&](char name, int rounds, Event after = {}) {
    return backend.start(std::make_unique<Rounds>(log, name, rounds), after);
  };
  const Event a = start('a', 1), b = start('b', 3), c = start('c', 2);
  CHECK(log == "abc");
  CHECK((backend.is_complete({}) && backend.is_complete(a)));
  CHECK((!backend.is_complete(b) && !backend.is_complete(c)));
  backend.progress();
  CHECK(log == "abcbc");
  CHECK((!backend.is_complete(b) && backend.is_complete(c)));
  const Event d = start('d', 5);
  backend.host_wait(b);
  CHECK(log == "abcbcdbd");
  CHECK(!backend.is_complete(d));
  backend.wait(backend.compute_queue(), d);
  CHECK(log == "abcbcdbdddd");
  backend.host_wait(backend.record(backend.compute_queue()));
  backend.progress();
  CHECK(log == "abcbcdbdddd");
}

TEST_CASE("pending work starts after the event it is given") {
  CpuBackend cpu(1);
  Backend& backend = cpu;
  std::string log;
  const Event a = backend.start(std::make_unique<Rounds>(log, 'a', 3));
  const Event b = backend.start(std::make_unique<Rounds>(log, 'b', 1), a);
  const Event c = backend.start(std::make_unique<Rounds>(log, 'c', 2), b);
  const Event d = backend.start(std::make_unique<Rounds>(log, 'd', 1));
  CHECK(log == "ad");
  CHECK(backend.is_complete(d));
  backend.host_wait(c);
  CHECK(log == "adaabcc");
}

TEST_CASE("an error of pending work reaches whoever lets it advance") {
  CpuBackend cpu(1);
  Backend& backend = cpu;
  const Event lost = backend.start(std::make_unique<Failure>());
  CHECK_THROWS_WITH(backend.progress(), "lost");
  CHECK(!backend.is_complete(lost));
}
