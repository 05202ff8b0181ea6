// Jobs of two ranks under mpirun in which one fails, in every phase: found in time, and the right
// rank, place and collective named. And what is slow, but no failure, goes on.
#include <algorithm>
#include <csignal>
#include <deque>
#include <filesystem>

#include "core/error.h"
#include "support/catch.h"
#include "train/exit_record.h"
#include "train/hang_diagnosis.h"
#include "train/postmortem.h"
#include "train/watched_job.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

constexpr int kHang = 76;
constexpr double kLongest = 3;  // seconds without progress; watchdog.timeout is 1
constexpr size_t kJobsAtOnce = 3;

using Settings = std::vector<std::string>;
const Settings kDp = {}, kEp = {"parallelism.expert_parallel_size=2"},
               kPp = {"parallelism.pipeline_parallel_size=2"};

struct Case {
  Settings layout;
  std::string fault;
  int culprit = 0;
  std::string place = {};  // of the culprit; "" is not foretold
  // Which the other, or who lost a message, waits in, or how that ends: of several reductions under
  // way the first that is waited for may be that of any group.
  std::string call = {};
  bool resumes = false;  // a run that has ended in order
};

// Runs the jobs, a few at a time, and looks at each when it has ended.
template <typename Check>
void run_jobs(const std::vector<Case>& cases, const Check& check) {
  const Corpus corpus;
  std::deque<WatchedJob> jobs;
  size_t begun = 0;
  for (const Case& one : cases) {
    for (; begun < cases.size() && jobs.size() < kJobsAtOnce; ++begun)
      jobs.emplace_back(corpus, cases[begun].layout, cases[begun].fault, cases[begun].resumes);
    INFO(one.fault);
    const int code = jobs.front().exit_code();
    INFO(jobs.front().log());
    REQUIRE(code == kHang);
    check(one, jobs.front());
    jobs.pop_front();
  }
}

double seconds_between(int64_t begin_ns, int64_t end_ns) {
  return static_cast<double>(end_ns - begin_ns) * 1e-9;
}

// The rank has reported in time that it waits in such a call; returns its page.
ProgressHead check_report(const WatchedJob& job, int rank, const std::string& call) {
  const ProgressHead head = job.page(rank).head;
  CHECK(head.ending == Ending::kHang);
  CHECK(seconds_between(head.progressed_ns, head.heartbeat_ns) < kLongest);
  const std::string its_call =
      fmt::format("{} {}", head.group_name(head.waits_for.group), name_of(head.waits_for.kind));
  CHECK(its_call.ends_with(call));
  CHECK((head.waits_for.sequence > 0 && head.waits_for.bytes > 0));
  CHECK_THAT(read_bytes(report_file(job.postmortem(), rank)),
             contains_text(describe_call(head, head.waits_for)));
  return head;
}

// To people, to programs and afterwards.
void check_verdict(const WatchedJob& job, int culprit, const std::string& text) {
  const std::string verdict = read_bytes(verdict_file(job.postmortem()));
  CHECK_THAT(verdict, contains_text(fmt::format("\"culprits\": [\n    {}\n  ]", culprit)));
  for (const std::string& said : {job.log(), verdict, tell_postmortem(job.run(), 0, 10)})
    CHECK_THAT(said, contains_text(text));
  const auto record = read_exit_record(job.run());
  REQUIRE(record);
  CHECK(static_cast<int>(record->code) == kHang);
  CHECK_THAT(record->reason, contains_text(text));
}

void check_place(const ProgressHead& head, const std::string& place) {
  if (!place.empty()) CHECK(describe_place(head) == place);
}

std::string says(const ProgressHead& head) {
  return fmt::format("rank {} on {}", head.rank, head.host.data());
}

// A rank stands still outside of collectives, and the other misses it in one.
void check_culprit(const Case& one, const WatchedJob& job) {
  const ProgressHead there = job.page(one.culprit).head;
  const ProgressHead other = check_report(job, 1 - one.culprit, one.call);
  check_place(there, one.place);
  const std::string state = one.fault.ends_with("stop")
                                ? fmt::format("is stopped (process {}),", there.pid)
                                : "runs without progress";
  check_verdict(
      job, one.culprit,
      fmt::format("{} {} at {}, in no collective; rank {} waits for it in {}", says(there), state,
                  describe_place(there), 1 - one.culprit, describe_call(other, other.waits_for)));
}

// The other's message did not reach the rank.
void check_lost_message(const Case& one, const WatchedJob& job) {
  const ProgressHead there = check_report(job, one.culprit, one.call);
  check_verdict(
      job, one.culprit,
      fmt::format("{} waits at {}, in {} for a message that rank {} has sent: it was lost",
                  says(there), describe_place(there), describe_call(there, there.waits_for),
                  1 - one.culprit));
}

}  // namespace

TEST_CASE(
    "a rank that hangs or stops in any phase is named, with the collective that it holds up") {
  const std::vector<Case> cases = {
      {kDp, "rank=0,point=train.unit,nth=35,action=hang", 0, "step 3, forward, layer 1",
       "all_reduce"},
      {kPp, "rank=1,point=train.backward,nth=5,action=stop", 1, "step 3, backward",
       "pp send_receive"},
      {kDp, "rank=1,point=collective.all_reduce,nth=5,action=stop", 1, "", "all_reduce"},
      {kEp, "rank=0,point=collective.all_to_all,nth=40,action=hang", 0, "", "ep all_to_all"},
      {kPp, "rank=0,point=collective.send_receive,nth=9,action=stop", 0, "", "pp send_receive"},
      {kDp, "rank=1,point=train.optimizer,nth=3,action=hang", 1, "step 3, optimizer", ""},
      {kEp, "rank=1,point=train.validation,action=hang", 1, "step 5, validation",
       "ep all_to_all_host"},
      {kDp, "rank=0,point=train.save,action=stop", 0, "step 0, save", ""},
      {kDp, "rank=1,point=load.read,nth=3,action=hang", 1, "step 0, load", "world all_gather_host",
       true}};
  run_jobs(cases, check_culprit);
}

TEST_CASE("a lost message is found, with the rank that lacks it and its collective") {
  const std::vector<Case> cases = {
      {kEp, "rank=1,point=message.all_to_all,nth=40,action=drop", 0, "", "ep all_to_all"},
      {kPp, "rank=1,point=message.send_receive,nth=6,action=drop", 0, "", "pp send_receive"},
      {kDp, "rank=1,point=message.all_reduce,action=drop", 0, "", "dp all_reduce"}};
  run_jobs(cases, check_lost_message);
}

// The nightly's (tests/soak/).
TEST_CASE("each rank stops, hangs or loses a message in each phase", "[.all]") {
  std::vector<Case> cases, lost;
  for (const int rank : {0, 1}) {
    const auto fault = [&](const std::string& point, int nth, const std::string& action) {
      return fmt::format("rank={},point={},nth={},action={}", rank, point, nth, action);
    };
    for (const std::string action : {"stop", "hang"}) {
      for (const char* point : {"train.data", "train.forward", "train.backward", "train.optimizer",
                                "train.report", "train.save", "collective.all_reduce"})
        cases.push_back({kDp, fault(point, 2, action), rank});
      for (const char* point :
           {"train.forward", "train.backward", "train.validation", "collective.all_to_all"})
        cases.push_back({kEp, fault(point, 1, action), rank});
      for (const char* point : {"train.forward", "train.backward", "collective.send_receive"})
        cases.push_back({kPp, fault(point, 5, action), rank});
      cases.push_back({kDp, fault("load.read", 3, action), rank, "", "", true});
    }
    lost.push_back({kDp, fault("message.all_reduce", 1, "drop"), 1 - rank, "", "dp all_reduce"});
    lost.push_back({kEp, fault("message.all_to_all", 40, "drop"), 1 - rank, "", "ep all_to_all"});
    lost.push_back(
        {kPp, fault("message.send_receive", 6, "drop"), 1 - rank, "", "pp send_receive"});
  }
  run_jobs(cases, check_culprit);
  run_jobs(lost, check_lost_message);
  WARN("counted: " << cases.size() << " hangs and " << lost.size() << " lost messages, all named");
}

TEST_CASE("slow steps, long validations and a long save are no hang; crashes keep last events") {
  const Corpus corpus;
  WatchedJob slow(corpus, {"training.eval_num_batches=100"},
                  "rank=1,point=train.forward,nth=5,action=sleep:0.7;"
                  "rank=0,point=train.backward,nth=7,action=sleep:0.7;"
                  "rank=1,point=train.validation,action=sleep:0.7;"
                  "rank=0,point=train.save,action=sleep:0.7");
  WatchedJob checked(corpus,
                     {"watchdog.check_collectives=true", "training.max_steps=4",
                      "parallelism.pipeline_parallel_size=2", "pipeline.schedule=zb_h1",
                      "model.tie_word_embeddings=true"},
                     "");
  WatchedJob crashed(corpus, {"training.max_steps=40"},
                     "rank=1,point=train.backward,nth=70,action=raise:11");
  // The address sanitizer's handler, which gets the signal after ours, ends the process with 1.
  const int code = crashed.exit_code();
  CHECK((code == 128 + SIGSEGV || code == 1));
  for (const int rank : {0, 1}) {
    INFO("rank " << rank);
    const ProgressPage page = crashed.page(rank);
    CHECK(page.head.num_events > 2100);
    CHECK(std::count_if(page.events.begin(), page.events.end(),
                        [](const ProgressEvent& event) { return event.number > 0; }) >= 2000);
  }
  const ProgressHead there = crashed.page(1).head;
  CHECK((there.ending == Ending::kSignal && there.signal == SIGSEGV));
  const std::string story = tell_postmortem(crashed.run(), 0, 10);
  CHECK_THAT(story,
             contains_text(says(there) +
                           " ended with signal 11 (Segmentation fault) at step 35, backward"));
  CHECK_THAT(story, contains_text("rank 0 on"));

  CHECK(checked.exit_code() == 0);
  CHECK_THAT(checked.log(), contains_text("weights saved"));
  CHECK(slow.exit_code() == 0);
  INFO(slow.log());
  CHECK(std::filesystem::is_empty(slow.run() + "/postmortem"));
  CHECK(std::filesystem::is_empty(slow.run() + "/progress"));
}
