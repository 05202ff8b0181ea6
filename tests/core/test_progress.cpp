// What marks leave in the page, and who can read it.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "core/error.h"
#include "core/fault_injection.h"
#include "core/progress.h"
#include "support/catch.h"
#include "support/temporary_directory.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

std::string path_of(const ProgressHead& head) {
  return fmt::format("/proc/{}/fd/{}", head.pid, head.fd);
}

void sleep_ms(int milliseconds) {
  std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
}

ProgressCall all_reduce(int group, int64_t sequence) {
  return {.group = group, .kind = CallKind::kAllReduce, .sequence = sequence, .bytes = 64};
}

}  // namespace

TEST_CASE("a follower sees every event, with the page as it is then") {
  Progress marks;
  std::vector<std::string> seen;
  marks.follow([&](const ProgressHead& head, EventKind mark) {
    seen.push_back(fmt::format("{} {} {}", name_of(mark), name_of(head.phase), head.unit));
  });
  marks.enter(RunPhase::kForward);
  marks.at_unit(2);
  marks.enter(RunPhase::kForward);  // no news
  marks.enter(RunPhase::kBackward);
  marks.follow({});
  marks.at_unit(1);
  const auto line = [](EventKind mark, RunPhase phase, int unit) {
    return fmt::format("{} {} {}", name_of(mark), name_of(phase), unit);
  };
  CHECK(seen == std::vector<std::string>{line(EventKind::kPhase, RunPhase::kForward, -1),
                                         line(EventKind::kUnit, RunPhase::kForward, 2),
                                         line(EventKind::kPhase, RunPhase::kBackward, -1)});
}

TEST_CASE("a page says where the rank is, and its counter only grows") {
  Progress marks;
  marks.identify(7, 2, 4, 3);
  int64_t counter = marks.head().counter;
  const auto has_grown = [&] {
    return marks.head().counter > std::exchange(counter, marks.head().counter);
  };
  marks.begin_step(5);
  CHECK(has_grown());
  marks.enter(RunPhase::kForward);
  CHECK(has_grown());
  marks.at_unit(2);
  CHECK(has_grown());
  marks.worked(1 << 20);
  CHECK(has_grown());
  marks.part_arrived();
  CHECK(has_grown());
  marks.beat();  // alive is not the same as getting on
  CHECK(!has_grown());

  const ProgressHead head = marks.head();
  CHECK((head.job == 7 && head.rank == 2 && head.num_ranks == 4 && head.num_layers == 3));
  CHECK((head.step == 5 && head.phase == RunPhase::kForward && head.unit == 2));
  CHECK(head.waits_for.is_none());
  marks.enter(RunPhase::kBackward);
  CHECK(marks.head().unit == -1);
}

TEST_CASE("the longest gap is that of the phase in which it was") {
  Progress marks;
  marks.enter(RunPhase::kForward);
  sleep_ms(30);
  marks.enter(RunPhase::kBackward);
  marks.at_unit(1);
  const ProgressHead head = marks.head();
  const auto gap = [&](RunPhase phase) { return head.longest_gap_ns[static_cast<size_t>(phase)]; };
  CHECK(gap(RunPhase::kForward) >= 30'000'000);
  CHECK(gap(RunPhase::kBackward) < gap(RunPhase::kForward));
  CHECK(gap(RunPhase::kSave) == 0);
}

TEST_CASE("waiting for others is no gap, work before and after it is") {
  Progress marks;
  const int dp = marks.add_group(11, "dp", 0, 2);
  marks.enter(RunPhase::kForward);
  const auto gap_ms = [&] {
    return marks.head().longest_gap_ns[static_cast<size_t>(RunPhase::kForward)] / 1'000'000;
  };
  marks.call_begins(all_reduce(dp, 1));
  marks.call_returns(21);
  marks.wait_begins(21);
  sleep_ms(40);
  marks.wait_misses(1, 0);
  CHECK(marks.head().polled_ns - marks.head().progressed_ns >= 40'000'000);
  marks.part_arrived();
  sleep_ms(40);
  marks.completed(21);
  marks.wait_ends();
  CHECK(gap_ms() < 40);
  sleep_ms(40);
  marks.call_begins(all_reduce(dp, 2));
  CHECK(gap_ms() >= 40);
}

TEST_CASE("phases and units are fault points") {
  set_faults("");
  Progress marks;
  marks.enter(RunPhase::kForward);
  marks.enter(RunPhase::kForward);  // the same still
  marks.at_unit(1);
  marks.enter(RunPhase::kValidation);
  CHECK(fault_points_passed() ==
        std::vector<std::string>{"train.forward", "train.unit", "train.validation"});
}

TEST_CASE("the last events stay, whole and in order, however many there were") {
  Progress marks;
  marks.begin_step(1);
  const int64_t total = 2 * kNumProgressEvents + 100;
  for (int64_t i = 1; i <= total; ++i) marks.worked(i);
  const ProgressPage& page = marks.page();
  CHECK(page.head.num_events == total);
  CHECK(kNumProgressEvents >= 2000);
  int64_t oldest = total, time = 0;
  for (int64_t number = total - kNumProgressEvents + 1; number <= total; ++number) {
    const ProgressEvent& event = page.events[static_cast<size_t>(number % kNumProgressEvents)];
    if (event.number != number || event.bytes != number || event.time_ns < time) oldest = 0;
    if (event.kind != EventKind::kWork || event.step != 1) oldest = 0;
    time = event.time_ns;
  }
  CHECK(oldest == total);
}

TEST_CASE("a call that blocks is waited for from its beginning to its end") {
  Progress marks;
  const int dp = marks.add_group(11, "dp", 1, 2), ep = marks.add_group(12, "ep", 0, 4);
  CHECK(dp != ep);
  CHECK(marks.add_group(11, "dp", 1, 2) == dp);
  marks.call_begins(all_reduce(dp, 3));
  ProgressHead head = marks.head();
  CHECK((head.waits_for.group == dp && head.waits_for.sequence == 3 && head.waits_for.bytes == 64));
  CHECK(head.group_name(head.waits_for.group) == "dp");
  CHECK(head.groups[static_cast<size_t>(dp)].started == 3);
  CHECK(head.groups[static_cast<size_t>(ep)].started == 0);
  marks.call_returns(0);
  CHECK(marks.head().waits_for.is_none());
}

TEST_CASE("a call under way is waited for when the host waits for its event") {
  Progress marks;
  const int dp = marks.add_group(11, "dp", 0, 2);
  marks.call_begins(all_reduce(dp, 1));
  marks.call_returns(21);
  marks.call_begins(all_reduce(dp, 2));
  marks.call_returns(22);
  CHECK(marks.head().waits_for.is_none());
  marks.wait_begins(99);  // of something that is no call
  CHECK(marks.head().waits_for.is_none());
  marks.wait_ends();
  marks.wait_begins(22);
  marks.wait_misses(1, 5);
  CHECK(marks.head().waits_for.sequence == 2);
  CHECK((marks.head().missing_peer == 1 && marks.head().reached == 5));
  marks.completed(21);
  CHECK(marks.head().waits_for.sequence == 2);
  marks.completed(22);
  marks.wait_ends();
  CHECK((marks.head().waits_for.is_none() && marks.head().missing_peer == -1));
  marks.wait_begins(22);  // forgotten
  CHECK(marks.head().waits_for.is_none());

  // Inside a call that blocks: then it is the call again.
  marks.call_begins(all_reduce(dp, 3));
  marks.call_returns(23);
  marks.call_begins(all_reduce(dp, 4));
  marks.wait_begins(23);
  CHECK(marks.head().waits_for.sequence == 3);
  marks.wait_ends();
  CHECK(marks.head().waits_for.sequence == 4);
}

TEST_CASE("messages are counted by group, peer and direction; exchanges are no collectives") {
  Progress marks;
  const int pp = marks.add_group(1, "pp", 0, 3), tied = marks.add_group(2, "tied", 0, 2);
  marks.message_sent(pp, 1);
  marks.message_sent(pp, 1);
  marks.message_sent(tied, 1);
  CHECK(marks.message_expected(pp, 2).number == 1);
  CHECK(marks.message_expected(pp, 1).number == 1);
  const PeerMessage second = marks.message_expected(pp, 1);
  CHECK((second.peer == 1 && second.number == 2));
  const ProgressHead head = marks.head();
  REQUIRE(head.num_channels == 3);
  CHECK((head.channels[0].group == pp && head.channels[0].peer == 1));
  CHECK((head.channels[0].sent == 2 && head.channels[0].expected == 2));
  CHECK((head.channels[1].group == tied && head.channels[1].sent == 1));
  CHECK((head.channels[2].peer == 2 && head.channels[2].sent == 0));
  marks.call_begins({.group = pp, .kind = CallKind::kSendReceive, .sequence = 9});
  CHECK(marks.head().groups[static_cast<size_t>(pp)].started == 0);
}

TEST_CASE("more groups and peers than there is room for are left out") {
  Progress marks;
  int last = 0;
  for (uint64_t id = 1; id <= 60; ++id) last = marks.add_group(id, "g", 0, 2);
  CHECK(last == -1);
  for (int peer = 0; peer < 60; ++peer) marks.message_sent(0, peer);
  CHECK(marks.message_expected(0, 59).number == 0);
  CHECK(marks.message_expected(0, 3).number == 1);
  marks.call_begins(all_reduce(-1, 1));
  CHECK(marks.head().group_name(-1) == "?");
}

TEST_CASE("another process reads the page while its owner is stopped") {
  int ready[2];
  REQUIRE(pipe(ready) == 0);
  const pid_t child = fork();
  if (child == 0) {
    Progress marks;
    marks.begin_step(42);
    const int64_t fd = marks.head().fd;
    if (write(ready[1], &fd, sizeof(fd)) != sizeof(fd)) _exit(1);
    pause();
    _exit(0);
  }
  int64_t fd = -1;
  REQUIRE(read(ready[0], &fd, sizeof(fd)) == sizeof(fd));
  kill(child, SIGSTOP);
  int status = 0;
  REQUIRE(waitpid(child, &status, WUNTRACED) == child);
  const auto head = read_progress_head(fmt::format("/proc/{}/fd/{}", child, fd));
  REQUIRE(head);
  CHECK((head->step == 42 && head->pid == child));
  kill(child, SIGKILL);
  waitpid(child, &status, 0);
  CHECK(!read_progress_head(fmt::format("/proc/{}/fd/{}", child, fd)));
}

TEST_CASE("a file that is no page, or is cut off, is not read as one") {
  const TemporaryDirectory directory;
  Progress marks;
  const std::string path = directory.file("page"), whole = read_bytes(path_of(marks.head()));
  REQUIRE(whole.size() == sizeof(ProgressPage));
  write_bytes(path, whole);
  CHECK(read_progress_page(path) != nullptr);
  write_bytes(path, whole.substr(0, sizeof(ProgressHead)));
  CHECK(read_progress_head(path));
  CHECK(read_progress_page(path) == nullptr);
  write_bytes(path, whole.substr(0, 100));
  CHECK(!read_progress_head(path));
  write_bytes(path, std::string(whole.size(), 'x'));
  CHECK(!read_progress_head(path));
  CHECK(!read_progress_head(directory.file("none")));
}

TEST_CASE("the watchdog's thread reads while marks are made") {
  Progress marks;
  const int group = marks.add_group(1, "dp", 0, 2);
  std::atomic<bool> ends = false;
  std::thread reader([&] {
    int64_t counter = 0;
    while (!ends) {
      marks.beat();
      const ProgressHead head = marks.head();
      SY_CHECK(head.counter >= counter, "a counter that shrinks");
      counter = head.counter;
    }
  });
  for (int64_t i = 1; i <= 20000; ++i) {
    marks.call_begins(all_reduce(group, i));
    marks.call_returns(0);
  }
  ends = true;
  reader.join();
  CHECK(marks.head().counter >= 40000);
}
