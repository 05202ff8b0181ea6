#include "train/stop_requests.h"

#include <signal.h>

#include <chrono>
#include <filesystem>

#include "core/log.h"
#include "train/stop_signals.h"

namespace switchyard {
namespace {

namespace fs = std::filesystem;

constexpr double kSecondsBetweenLooks = 0.5;

// False, with a warning, when the file is still there.
bool removed(const fs::path& path) {
  std::error_code failure;
  fs::remove(path, failure);
  if (failure) spdlog::warn("cannot remove {}: {}", path.string(), failure.message());
  return !failure;
}

}  // namespace

StopRequests::StopRequests(StopSettings settings, int rank, std::function<double()> now,
                           std::function<int()> signal)
    : settings_(std::move(settings)),
      rank_(rank),
      now_(std::move(now)),
      signal_(std::move(signal)),
      last_save_(now_()) {}

std::vector<double> StopRequests::vote() {
  std::vector<double> votes(kNumWishes, 0.0);
  const int signal = signal_();
  votes[kUsr1] = signal == SIGUSR1;
  votes[kTerm] = signal == SIGTERM;
  votes[kInt] = signal == SIGINT;
  if (rank_ != 0) return votes;
  look_for_files();
  votes[kStopFile] = saw_stop_file_;
  votes[kSaveFile] = saw_save_file_;
  votes[kSaveTime] =
      settings_.save_interval_s > 0 && now_() >= last_save_ + settings_.save_interval_s;
  const double now = now_() + settings_.stop_margin;
  votes[kWallTime] =
      settings_.max_wall_time > 0 && now >= settings_.started_at + settings_.max_wall_time;
  votes[kJobEnd] = settings_.slurm_job_end && now >= *settings_.slurm_job_end;
  return votes;
}

void StopRequests::look_for_files() {
  if (now_() < next_look_) return;
  next_look_ = now_() + kSecondsBetweenLooks;
  std::error_code ignored;  // a directory that cannot be read is the checkpoint's to complain about
  const fs::path run = settings_.run_directory;
  saw_stop_file_ = fs::exists(run / "STOP", ignored);
  saw_save_file_ = !save_file_stays_ && fs::exists(run / "SAVE", ignored);
}

StopDecision StopRequests::decide(std::span<const double> sums) {
  StopDecision decision;
  decision.save = sums[kSaveFile] + sums[kSaveTime] > 0;
  for (size_t i = 0; i < kSaveFile && !decision.stop; ++i) {
    if (sums[i] <= 0) continue;
    const auto wish = static_cast<Wish>(i);
    // Who makes a STOP file wants to start the run himself.
    decision = {.stop = true,
                .save = decision.save,
                .requeue = wish != kStopFile,
                .reason = reason_of(wish, sums[i])};
  }
  if (rank_ == 0) {
    const fs::path save_file = fs::path(settings_.run_directory) / "SAVE";
    if (saw_save_file_) save_file_stays_ = !removed(save_file);
    saw_stop_file_ = saw_save_file_ = false;
  }
  return decision;
}

void StopRequests::forget_stop_file() { removed(fs::path(settings_.run_directory) / "STOP"); }

std::string StopRequests::reason_of(Wish wish, double ranks) const {
  const auto came = [&](int signal) {
    return fmt::format("{} (to {:.0f} rank{})", signal_name(signal), ranks, ranks == 1 ? "" : "s");
  };
  switch (wish) {
    case kUsr1:
      return came(SIGUSR1);
    case kTerm:
      return came(SIGTERM);
    case kInt:
      return came(SIGINT);
    case kStopFile:
      return "the file " + (fs::path(settings_.run_directory) / "STOP").string();
    case kWallTime:
      return fmt::format("training.max_wall_time: {} s less stop_margin {} s are over",
                         settings_.max_wall_time, settings_.stop_margin);
    default:
      return fmt::format("the SLURM job ends within training.stop_margin, {} s",
                         settings_.stop_margin);
  }
}

std::string advice_on_stopping(const LaunchEnvironment& environment, const StopSettings& settings) {
  const std::optional<double>& delay = environment.mpirun_kill_delay_s;
  if (!delay || *delay >= settings.stop_margin) return "";
  return fmt::format(
      "to stop with a save: SIGUSR1 to mpirun, or `touch {}/STOP`. SIGTERM and Ctrl-C make mpirun "
      "kill its ranks about {} s later: the last committed checkpoint stays, the steps since are "
      "lost",
      settings.run_directory, *delay + 1);
}

double unix_time() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace switchyard
