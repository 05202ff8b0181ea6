#include "checkpoint/checkpointer.h"

#include <chrono>
#include <mutex>
#include <thread>
#include <utility>

#include "checkpoint/machine_memory.h"
#include "comm/collective_error.h"
#include "core/fault.h"
#include "core/log.h"

namespace switchyard {
namespace {

double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double megabytes(int64_t bytes) { return static_cast<double>(bytes) / 1e6; }

int64_t bytes_of(const std::vector<HeldTensor>& held) {
  int64_t total = 0;
  for (const HeldTensor& tensor : held) total += tensor.data.bytes();
  return total;
}

// Where a save goes, from rank 0 to all.
std::string to_text(const std::string& staging, const CheckpointId& id) {
  return nlohmann::json{staging, id.run_id, id.lineage, id.attempt, id.step}.dump();
}

std::pair<std::string, CheckpointId> destination_from_text(const std::string& text) {
  const auto json = nlohmann::json::parse(text);
  return {json.at(0),
          {.run_id = json.at(1), .lineage = json.at(2), .attempt = json.at(3), .step = json.at(4)}};
}

}  // namespace

Checkpointer::Checkpointer(const SaveSettings& settings, Communicator& world, Backend& backend,
                           std::vector<HeldTensor> held, std::shared_ptr<Storage> storage,
                           std::shared_ptr<RunDirectory> run)
    : settings_(settings),
      control_(world.split(0, world.rank(), "control")),
      backend_(backend),
      held_(std::move(held)),
      plan_(std::make_shared<const SavePlan>(
          plan_save(exchange_declarations(declarations_of(held_), *control_)))),
      storage_(std::move(storage)),
      run_(std::move(run)),
      run_mutex_(std::make_shared<std::mutex>()) {
  SY_CHECK((run_ != nullptr) == (control_->rank() == 0), "the run directory belongs to rank 0");
  choose_mode(settings);
}

Checkpointer::~Checkpointer() {
  if (!task_.wait_for(settings_.timeout_s)) task_.abandon();
}

// Copies of all ranks of a host have to fit into its memory beside what is there.
void Checkpointer::choose_mode(const SaveSettings& settings) {
  const int64_t needed = sum_over_host(*control_, bytes_of(held_));
  const int64_t available = settings.available_memory.value_or(available_host_memory());
  const bool fits = needed <= available;
  is_async_ = settings.async && control_->all_reduce_max_host(fits ? 0 : 1) == 0;
  if (settings.async && !fits)
    spdlog::warn(
        "checkpoints are written while training waits: copies for asynchronous saves need {:.0f} "
        "MB on this host, {:.0f} MB are free (checkpoint.async false says that this is meant)",
        megabytes(needed), megabytes(available));
}

void Checkpointer::begin(SaveContents contents) {
  SY_CHECK(!is_busy(), "a save is under way");
  contents_ = std::move(contents);
  save_began_ = now_s();
  if (is_async_) {
    if (!snapshot_) snapshot_ = std::make_shared<Snapshot>(held_);
    snapshot_->take(held_, backend_);
  }
  if (run_)
    spdlog::info(
        "step {}: saving {:.1f} MB (bytes per rank: max/mean {:.3f}), training stood "
        "still for {:.0f} ms",
        contents_.step, megabytes(bytes()), max_over_mean_bytes(), 1e3 * (now_s() - save_began_));
  start_opening();
  if (!is_async_) finish();
}

void Checkpointer::advance() {
  if (!is_busy()) return;
  const BackgroundTask::Status status = task_.status();
  const bool runs = status == BackgroundTask::Status::kRunning;
  const bool failed = status == BackgroundTask::Status::kFailed || task_hangs();
  std::vector<double> votes = {runs && !failed ? 1.0 : 0.0, failed ? 1.0 : 0.0};
  control_->all_reduce_sum_host(votes);
  if (votes[0] > 0) return;
  if (votes[1] > 0) return handle_failure();
  enter_next_phase();
}

void Checkpointer::finish() {
  backend_.marks().enter(RunPhase::kSave);
  while (is_busy()) {
    advance();
    if (task_.status() == BackgroundTask::Status::kRunning)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

void Checkpointer::enter_next_phase() {
  switch (phase_) {
    case Phase::kIdle:
      break;
    case Phase::kOpening:
      return start_writing();
    case Phase::kWriting:
      return start_committing();
    case Phase::kCommitting:
      return conclude();
    case Phase::kCleaning:
    case Phase::kDiscarding:
      phase_ = Phase::kIdle;
      break;
  }
}

// The work owns all it touches: its thread may outlive this object.
void Checkpointer::start(Phase phase, std::function<void()> work) {
  phase_ = phase;
  phase_began_ = now_s();
  auto on_this_rank = [rank = control_->rank(), work = std::move(work)] {
    set_fault_rank(rank);
    work();
  };
  if (is_async_)
    task_.start(std::move(on_this_rank));
  else
    task_.run(on_this_rank);
}

void Checkpointer::start_on_rank_0(Phase phase, std::function<void(RunDirectory&)> work) {
  phase_ = phase;
  phase_began_ = now_s();
  if (!run_) return;
  start(phase, [run = run_, mutex = run_mutex_, work = std::move(work)] {
    const std::scoped_lock lock(*mutex);
    work(*run);
  });
}

void Checkpointer::start_opening() {
  staging_ = std::make_shared<std::string>();
  start_on_rank_0(Phase::kOpening, [staging = staging_, step = contents_.step](RunDirectory& run) {
    *staging = run.begin_save(step);
  });
}

HeldBytes Checkpointer::held_bytes() {
  if (is_async_) return [snapshot = snapshot_](size_t held) { return snapshot->bytes(held); };
  return [this, bytes = std::vector<std::byte>()](size_t held) mutable {
    const Tensor& data = held_[held].data;
    bytes.resize(static_cast<size_t>(data.bytes()));
    backend_.download(backend_.compute_queue(), bytes.data(), data);
    backend_.host_wait(backend_.record(backend_.compute_queue()));
    backend_.marks().worked(data.bytes());
    return std::span<const std::byte>(bytes);
  };
}

void Checkpointer::start_writing() {
  std::string text;
  if (run_) text = to_text(*staging_, run_->id_of(contents_.step));
  control_->broadcast_host(text, 0);
  const auto [staging, id] = destination_from_text(text);
  *staging_ = staging;
  report_ = std::make_shared<RankReport>();
  start(Phase::kWriting,
        [storage = storage_, staging = staging, id = id, plan = plan_, rank = control_->rank(),
         held = held_, bytes = held_bytes(), report = report_] {
          *report = save_rank(*storage, staging, id, *plan, rank, held, bytes);
        });
}

void Checkpointer::start_committing() {
  fault_point("checkpoint.written");
  // Every rank compares, so that all find the same.
  const DigestsByRank digests = exchange_digests(report_->digests, *control_);
  if (const auto differences = differing_replicas(plan_->regions, digests); !differences.empty())
    throw CollectiveError(
        ExitCode::kInternal,
        fmt::format("step {} is not saved: ranks hold different bits of what should be the same: "
                    "{}. The memory or arithmetic of a rank failed: do not use its machine again "
                    "before it has been tested",
                    contents_.step, describe(differences)));
  std::vector<RankReport> reports;
  for (const std::string& text : control_->gather_host(to_text(*report_), 0))
    reports.push_back(report_from_text(text));
  fault_point("checkpoint.gathered");
  start_on_rank_0(Phase::kCommitting, [plan = plan_, reports = std::move(reports),
                                       contents = contents_](RunDirectory& run) {
    run.commit({.id = run.id_of(contents.step),
                .time = contents.time,
                .version = contents.version,
                .config = contents.config,
                .layout = contents.layout,
                .train = contents.train,
                .files = files_of(reports),
                .tensors = tensors_of(*plan, reports)});
  });
}

void Checkpointer::conclude() {
  committed_ = contents_.step;
  failures_ = 0;
  if (run_)
    spdlog::info("committed step {}: {:.1f} MB in {:.2f} s", contents_.step, megabytes(bytes()),
                 now_s() - save_began_);
  fault_point("checkpoint.committed");
  start_on_rank_0(Phase::kCleaning, [settings = settings_](RunDirectory& run) {
    run.remove_old(settings.retention, settings.loaded_step);
  });
}

bool Checkpointer::task_hangs() const {
  return task_.status() == BackgroundTask::Status::kRunning &&
         now_s() - phase_began_ > settings_.timeout_s;
}

std::string Checkpointer::my_failure() const {
  if (task_.status() == BackgroundTask::Status::kFailed) return task_.error();
  if (!task_hangs()) return "";
  return fmt::format("{}: no answer for {:.0f} s (checkpoint.save_timeout)", *staging_,
                     settings_.timeout_s);
}

void Checkpointer::log_failure(const std::vector<std::string>& texts) const {
  std::string text;
  for (size_t rank = 0; rank < texts.size(); ++rank)
    if (!texts[rank].empty())
      text += fmt::format("{}rank {}: {}", text.empty() ? "" : "; ", rank, texts[rank]);
  const bool is_cleaning = phase_ == Phase::kCleaning || phase_ == Phase::kDiscarding;
  if (is_cleaning)
    spdlog::warn("old files of the run were not removed: {}", text);
  else
    spdlog::error("step {} is NOT saved ({} failed {} in a row): {}", contents_.step, failures_,
                  failures_ == 1 ? "save" : "saves", text);
}

void Checkpointer::handle_failure() {
  const bool is_cleaning = phase_ == Phase::kCleaning || phase_ == Phase::kDiscarding;
  if (!is_cleaning) ++failures_;
  const std::vector<std::string> texts = control_->gather_host(my_failure(), 0);
  if (run_) log_failure(texts);
  if (task_hangs()) {
    task_.abandon();
    snapshot_ = nullptr;  // the thread may still read it
  }
  if (is_cleaning) {
    phase_ = Phase::kIdle;
    return;
  }
  if (failures_ == kMaxFailuresInARow)
    throw CollectiveError(
        ExitCode::kStorage,
        fmt::format("{} saves in a row have failed, the last at step {}: training would go on "
                    "without a net. The last committed checkpoint is whole",
                    failures_, contents_.step));
  start_on_rank_0(Phase::kDiscarding,
                  [step = contents_.step](RunDirectory& run) { run.discard_save(step); });
}

}  // namespace switchyard
