#include "train/watchdog.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>

#include "comm/collective_error.h"
#include "core/log.h"
#include "train/postmortem.h"

namespace switchyard {
namespace {

namespace fs = std::filesystem;

constexpr double kReportSeconds = 5;
constexpr size_t kMostRanksInLog = 16;
constexpr double kLastResort = 4;  // times the timeout

int64_t nanoseconds(double seconds) { return static_cast<int64_t>(seconds * 1e9); }

// A thread made while it lives takes no signals: they are for the main thread.
class BlockedSignals {
 public:
  BlockedSignals() {
    sigset_t all;
    sigfillset(&all);
    for (const int ours : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT}) sigdelset(&all, ours);
    pthread_sigmask(SIG_BLOCK, &all, &before_);
  }
  ~BlockedSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  BlockedSignals(const BlockedSignals&) = delete;
  BlockedSignals& operator=(const BlockedSignals&) = delete;

 private:
  sigset_t before_;
};

// Without an exception, whatever the file system says.
bool exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

void make_directories(const std::string& run_directory, const std::string& postmortem) {
  std::error_code failure;
  fs::remove_all(postmortem, failure);  // of a job before this one under the same number
  for (const fs::path& path :
       {fs::path(run_directory) / "progress", fs::path(run_directory) / "postmortem"}) {
    fs::create_directories(path, failure);
    SY_REQUIRE(kStorage, !failure, "cannot create {}: {}", path.string(), failure.message());
  }
}

}  // namespace

void exit_on_hang(const HangReport&) { std::_Exit(static_cast<int>(ExitCode::kHang)); }

Watchdog::Watchdog(const WatchdogConfig& config, WatchedRun run, Progress& marks,
                   Communicator& world, std::function<void(const HangReport&)> on_hang)
    : config_(config),
      run_(std::move(run)),
      directory_(postmortem_directory(run_.directory, run_.attempt)),
      marks_(marks),
      rank_(world.rank()),
      num_ranks_(world.size()),
      on_hang_(std::move(on_hang)) {
  start(world);
}

void Watchdog::start(Communicator& world) {
  std::string job = fmt::format("{}", monotonic_ns() ^ (int64_t{getpid()} << 40));
  world.broadcast_host(job, 0);
  marks_.identify(std::strtoull(job.c_str(), nullptr, 10), rank_, num_ranks_, run_.num_layers);
  agree(world, [&] {
    if (rank_ == 0) make_directories(run_.directory, directory_);
  });
  copy_head();
  world.barrier();  // from here on every rank that is there can be seen
  crash_dump_.emplace(marks_, directory_, page_file(directory_, rank_), pages_of_host(world));
  const BlockedSignals blocked;
  ticked_ns_ = monotonic_ns();
  thread_ = std::thread([this] { follow(); });
  last_resort_ = std::thread([this] { follow_thread(); });
}

// Collective. Those of the other ranks of this host.
std::vector<OtherPage> Watchdog::pages_of_host(Communicator& world) const {
  const ProgressHead me = marks_.head();
  const std::string_view host(me.host.data()), boot(me.boot.data());
  const auto hosts = world.all_gather_host(
      static_cast<int64_t>(std::hash<std::string>()(fmt::format("{} {}", host, boot))));
  const auto pids = world.all_gather_host(me.pid), files = world.all_gather_host(me.fd);
  std::vector<OtherPage> pages;
  for (size_t rank = 0; rank < hosts.size(); ++rank) {
    const std::string to = page_file(directory_, static_cast<int64_t>(rank));
    if (static_cast<int>(rank) != rank_ && hosts[rank] == hosts[static_cast<size_t>(rank_)])
      pages.push_back({.from = fmt::format("/proc/{}/fd/{}", pids[rank], files[rank]),
                       .temporary = fmt::format("{}.by-{}", to, rank_),
                       .to = to});
  }
  return pages;
}

Watchdog::~Watchdog() {
  {
    const std::scoped_lock lock(mutex_);
    stops_ = true;
  }
  changed_.notify_all();
  thread_.join();
  {
    const std::scoped_lock lock(mutex_);
    has_stopped_ = true;
  }
  changed_.notify_all();
  last_resort_.join();
  unlink(progress_file(run_.directory, rank_).c_str());
}

void Watchdog::run(const std::function<void()>& work) {
  try {
    work();
  } catch (const CollectiveError&) {
    throw;
  } catch (const std::exception& error) {
    keep(Ending::kError, error.what());
    keep_pages_of_others(run_.directory, directory_, marks_.head());
    throw;
  }
}

void Watchdog::follow() {
  std::unique_lock lock(mutex_);
  while (
      !changed_.wait_for(lock, std::chrono::duration<double>(period_s()), [&] { return stops_; })) {
    lock.unlock();
    tick();
    lock.lock();
    if (has_ended_) break;
  }
  has_stopped_ = true;
}

// The last resort: no file is touched here.
void Watchdog::follow_thread() {
  const int64_t limit = nanoseconds(kLastResort * config_.timeout);
  int64_t looked_ns = monotonic_ns(), woke_ns = looked_ns;
  std::unique_lock lock(mutex_);
  while (!changed_.wait_for(lock, std::chrono::duration<double>(period_s()),
                            [&] { return has_stopped_; })) {
    const ProgressHead me = marks_.head();
    const int64_t now = monotonic_ns();
    if (has_slept(now - looked_ns)) woke_ns = now;
    looked_ns = now;
    if (now - std::max({ticked_ns_.load(), me.progressed_ns, woke_ns}) < limit) continue;
    spdlog::error(
        "rank {} has made no progress for {:.0f} s, at {}, and the run directory does not answer, "
        "either: it ends without a report",
        rank_, static_cast<double>(now - me.progressed_ns) * 1e-9, describe_place(me));
    on_hang_({.rank = rank_, .directory = directory_});
    return;
  }
}

// The whole process did not run, since a thread did not that looks every period.
bool Watchdog::has_slept(int64_t gap_ns) const { return gap_ns > nanoseconds(1 + 4 * period_s()); }

double Watchdog::period_s() const { return std::min(config_.timeout / 20, 0.25); }

void Watchdog::tick() {
  const int64_t now = monotonic_ns();
  if (has_slept(now - ticked_ns_)) woke_ns_ = now;
  ticked_ns_ = now;
  marks_.beat();
  const ProgressHead me = marks_.head();
  const double copy_period = std::clamp(config_.timeout / 10, 0.1, 2.0);
  bool is_alarm = false;
  if (monotonic_ns() - copied_ns_ > nanoseconds(copy_period)) {
    copy_head();
    is_alarm = exists(alarm_file(directory_));
  }
  if (is_alarm || job_stands_still(me)) raise_alarm();
}

void Watchdog::copy_head() {
  const ProgressHead head = marks_.head();
  write_whole_file(progress_file(run_.directory, rank_), &head, sizeof(head));
  copied_ns_ = monotonic_ns();
}

int64_t Watchdog::limit_ns(const ProgressHead& head) const {
  const auto gap = static_cast<double>(head.longest_gap_ns[static_cast<size_t>(head.phase)]);
  return std::max(nanoseconds(config_.timeout), static_cast<int64_t>(config_.gap_factor * gap));
}

// Others are looked at well before the limit, so that a heart that stands still is seen to.
bool Watchdog::job_stands_still(const ProgressHead& me) {
  const int64_t mine = monotonic_ns() - std::max(me.progressed_ns, woke_ns_);
  if (mine < limit_ns(me) / 4) {
    sights_.clear();
    return false;
  }
  bool still = mine >= limit_ns(me);
  for (int64_t rank = 0; rank < num_ranks_; ++rank) {
    if (rank == rank_) continue;
    const RankEvidence evidence = look_at_rank(run_.directory, me, rank);
    if (!evidence.is_known) continue;  // it has finished
    still = standstill_ns(evidence, me) >= limit_ns(evidence.head) && still;
  }
  return still;
}

// On another host: by its clock until its heartbeat, and by ours since we have seen that.
int64_t Watchdog::standstill_ns(const RankEvidence& rank, const ProgressHead& me) {
  const int64_t now = monotonic_ns();
  if (same_host(rank.head, me)) return now - rank.head.progressed_ns;
  Sight& sight = sights_[rank.head.rank];
  if (sight.heartbeat_ns != rank.head.heartbeat_ns) sight = {rank.head.heartbeat_ns, now};
  return rank.head.heartbeat_ns - rank.head.progressed_ns + now - sight.since_ns;
}

void Watchdog::raise_alarm() {
  has_ended_ = true;
  if (exists(verdict_file(directory_))) {  // stopped until now, and already judged
    on_hang_({.rank = rank_, .directory = directory_});
    return;
  }
  keep(Ending::kHang, "");
  write_whole_file(alarm_file(directory_), fmt::format("raised by rank {}\n", rank_));
  const ProgressHead me = marks_.head();
  const auto is_expected = [&](int64_t rank) {
    if (exists(page_file(directory_, rank))) return false;
    const char state = look_at_rank(run_.directory, me, rank).process_state;
    return state != 'T' && state != '-';  // stopped, or gone
  };
  const auto all_have_reported = [&] {
    for (int64_t rank = 0; rank < num_ranks_; ++rank)
      if (is_expected(rank)) return false;
    return true;
  };
  wait_for(all_have_reported, kReportSeconds);

  const std::vector<RankEvidence> ranks = gather_evidence(run_.directory, directory_, me);
  const auto lowest = std::find_if(ranks.begin(), ranks.end(),
                                   [](const RankEvidence& rank) { return rank.answers; });
  const auto lowest_here = std::find_if(ranks.begin(), ranks.end(), [&](const RankEvidence& rank) {
    return rank.answers && same_host(rank.head, me);
  });
  if (lowest_here - ranks.begin() == rank_) keep_pages_of_others(run_.directory, directory_, me);
  HangReport report = {.rank = rank_,
                       .speaks = lowest - ranks.begin() == rank_,
                       .seconds = static_cast<double>(monotonic_ns() - me.progressed_ns) * 1e-9,
                       .diagnosis = diagnose_hang(ranks),
                       .directory = directory_};
  if (report.speaks) {
    speak(ranks, report.diagnosis);
    write_whole_file(verdict_file(directory_), verdict_json(report.diagnosis));
  } else {  // the first to leave takes all others with it
    wait_for([&] { return exists(verdict_file(directory_)); }, 1);
  }
  on_hang_(report);
}

void Watchdog::wait_for(const std::function<bool()>& condition, double seconds) const {
  const int64_t end = monotonic_ns() + nanoseconds(seconds);
  while (!condition() && monotonic_ns() < end)
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
}

void Watchdog::speak(const std::vector<RankEvidence>& ranks, const Diagnosis& diagnosis) const {
  spdlog::error("the job makes no progress: {}", diagnosis.text);
  for (size_t rank = 0; rank < std::min(ranks.size(), kMostRanksInLog); ++rank)
    spdlog::error("  {}", describe_rank(ranks, static_cast<int>(rank)));
  if (ranks.size() > kMostRanksInLog)
    spdlog::error("  and {} more ranks", ranks.size() - kMostRanksInLog);
  spdlog::error("reports and last events: switchyard inspect --postmortem {}", run_.directory);
}

void Watchdog::keep(Ending ending, const std::string& message) {
  std::error_code failure;
  fs::create_directories(directory_, failure);
  marks_.beat();
  marks_.end(ending, 0, message);
  auto page = std::make_unique<ProgressPage>();
  copy_words(page.get(), &marks_.page(), sizeof(*page));
  std::vector<RankEvidence> ranks(static_cast<size_t>(num_ranks_));
  for (int64_t rank = 0; rank < num_ranks_; ++rank)
    ranks[static_cast<size_t>(rank)] = look_at_rank(run_.directory, page->head, rank);
  ranks[static_cast<size_t>(rank_)].head = page->head;
  write_whole_file(report_file(directory_, rank_), report_json(ranks, rank_));
  write_whole_file(page_file(directory_, rank_), page.get(), sizeof(*page));
}

}  // namespace switchyard
