#include "checkpoint/checkpointer.h"

#include <chrono>
#include <mutex>
#include <thread>
#include <utility>

#include "checkpoint/machine_memory.h"
#include "checkpoint/run_names.h"
#include "comm/collective_error.h"
#include "core/fault.h"
#include "core/log.h"

namespace switchyard {
namespace {

constexpr std::chrono::milliseconds kPause(1);  // between votes where training waits
constexpr int kTries = 10;       // votes at one border for phases that mostly end at once
constexpr double kLastWait = 2;  // seconds for a thread whose work nobody needs any more

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
      plan_(std::make_shared<const SavePlan>(plan_save(
          exchange_declarations(declarations_of(held_), *control_), settings.max_file_bytes))),
      storage_(std::move(storage)),
      run_(std::move(run)),
      run_mutex_(std::make_shared<std::mutex>()) {
  SY_CHECK((run_ != nullptr) == (control_->rank() == 0), "the run directory belongs to rank 0");
  choose_mode(settings);
}

Checkpointer::~Checkpointer() {
  if (feed_) feed_->close();
  if (!task_.wait_for(kLastWait)) task_.abandon();
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
  fault_point("checkpoint.begin");
  contents_ = std::move(contents);
  save_began_ = now_s();
  if (is_async_) {
    if (!snapshot_) snapshot_ = std::make_shared<Snapshot>(held_, backend_);
    snapshot_->take(held_, backend_);
  }
  if (run_)
    spdlog::info("step {}: saving {:.1f} MB (bytes per rank: max/mean {:.3f}), training {}",
                 contents_.step, megabytes(bytes()), max_over_mean_bytes(),
                 is_async_ ? fmt::format("stood still for {:.0f} ms", 1e3 * (now_s() - save_began_))
                           : "waits");
  start_opening();
  if (is_async_)
    advance();
  else
    finish();
}

Checkpointer::TaskState Checkpointer::task_state() const {
  switch (task_.status()) {
    case BackgroundTask::Status::kRunning:
      return now_s() - phase_began_ > settings_.timeout_s ? TaskState::kHangs : TaskState::kRuns;
    case BackgroundTask::Status::kFailed:
      return TaskState::kFailed;
    default:
      return TaskState::kDone;
  }
}

// Returns what became of this rank's task; moves on when nobody's runs any more.
Checkpointer::TaskState Checkpointer::vote() {
  const TaskState mine = task_state();
  const bool failed = mine == TaskState::kFailed || mine == TaskState::kHangs;
  std::vector<double> votes = {mine == TaskState::kRuns ? 1.0 : 0.0, failed ? 1.0 : 0.0};
  control_->all_reduce_sum_host(votes);
  if (votes[0] > 0) return TaskState::kRuns;
  if (votes[1] > 0)
    handle_failure(mine);
  else
    enter_next_phase();
  return mine;
}

void Checkpointer::advance() {
  for (int i = 0; i < kTries && is_busy(); ++i) {
    const TaskState state = vote();
    if (phase_ == Phase::kWriting || phase_ == Phase::kCommitting) return;
    if (state == TaskState::kRuns) std::this_thread::sleep_for(kPause);
  }
}

void Checkpointer::finish() {
  backend_.marks().enter(RunPhase::kSave);
  while (is_busy()) {
    serve_writer();
    if (vote() == TaskState::kRuns) std::this_thread::sleep_for(kPause);
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
      fault_point("checkpoint.cleaned");
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
  task_.start(std::move(on_this_rank));
}

void Checkpointer::start_on_rank_0(Phase phase, std::function<void(RunDirectory&)> work) {
  phase_ = phase;
  phase_began_ = now_s();
  if (!run_) return task_.abandon();  // how this rank's last work ended has been dealt with
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
  feed_ = std::make_shared<TensorFeed>();
  return [feed = feed_](size_t held) { return feed->ask(held); };
}

void Checkpointer::serve_writer() {
  if (!feed_) return;
  feed_->serve([this](size_t held, std::vector<std::byte>& bytes) {
    const Tensor& data = held_[held].data;
    bytes.resize(static_cast<size_t>(data.bytes()));
    backend_.download(backend_.compute_queue(), bytes.data(), data);
    backend_.host_wait(backend_.record(backend_.compute_queue()));
    backend_.marks().worked(data.bytes());
  });
}

void Checkpointer::start_writing() {
  std::string text;
  if (run_) text = to_text(*staging_, run_->id_of(contents_.step));
  control_->broadcast_host(text, 0);
  const auto [staging, id] = destination_from_text(text);
  *staging_ = staging;
  fault_point("checkpoint.opened");
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
                .code = contents.code,
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

void Checkpointer::go_back_to(int64_t step) {
  SY_CHECK(!is_busy(), "a save is under way");
  committed_.reset();
  agree(*control_, [&] {
    if (!run_) return;
    const std::scoped_lock lock(*run_mutex_);
    run_->go_back_to(step);
  });
}

// "w00003.safetensors"; "w00003-*.safetensors" where this rank writes several.
std::string Checkpointer::text_of_files() const {
  const ShardPlace place = {.writer = control_->rank()};
  return files_of(*plan_, control_->rank()).size() < 2
             ? shard_name(place)
             : fmt::format("w{:05}-*{}", place.writer, kShardSuffix);
}

std::string Checkpointer::failure_text(TaskState mine) const {
  if (mine == TaskState::kFailed) return task_.error();
  if (mine != TaskState::kHangs) return "";
  // While rank 0 makes the staging directory, its name is the thread's.
  const std::string where = phase_ == Phase::kWriting ? join(*staging_, text_of_files())
                                                      : join(run_->path(), kManifestFile);
  return fmt::format("{}: no answer for {} s (checkpoint.save_timeout)", where,
                     settings_.timeout_s);
}

void Checkpointer::log_failure(const std::vector<std::string>& texts) const {
  std::string text;
  for (size_t rank = 0; rank < texts.size(); ++rank)
    if (!texts[rank].empty())
      text += fmt::format("{}rank {}: {}", text.empty() ? "" : "; ", rank, texts[rank]);
  if (is_tidying())
    spdlog::warn("old files of the run were not removed: {}", text);
  else
    spdlog::error("step {} is NOT saved ({} failed {} in a row): {}", contents_.step, failures_,
                  failures_ == 1 ? "save" : "saves", text);
}

void Checkpointer::abandon_task() {
  if (feed_) feed_->close();
  task_.abandon();
  snapshot_ = nullptr;  // the thread may still read it
}

void Checkpointer::handle_failure(TaskState mine) {
  if (!is_tidying()) ++failures_;
  const std::vector<std::string> texts = control_->gather_host(failure_text(mine), 0);
  if (run_) log_failure(texts);
  if (mine == TaskState::kHangs) abandon_task();
  if (is_tidying()) {
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
