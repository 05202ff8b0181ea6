// Power lost at any moment of what the real writer does: every state that may be on the disk then
// (crash_states.h) is made, and the real reader looks for the checkpoint to go on from. Nothing
// that was acknowledged may be lost, or be replaced by something older, or mixed up.
//
// And each sync of the writer is needed for that: with any of them taken out of the trace, some
// state fails. Those of kMayBeIdle stay for the reason given there.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/run_directory.h"
#include "checkpoint/run_entries.h"
#include "core/error.h"
#include "core/log.h"
#include "crash_states.h"
#include "support/catch.h"
#include "support/temporary_directory.h"
#include "tiny_save.h"

namespace switchyard::test {
namespace {

using Kind = FileOperation::Kind;

// What holds from some operation on, whenever the power is lost.
struct Promise {
  std::vector<TinyFound> newest = {{}};  // one of these is what the run goes on from
  int64_t attempt = 0;                   // was told to somebody, and is never given again
  std::string run_id = {};               // the same; "": not told yet, or about to change
  // A run that is going back: with another lineage than that, nothing later than the step is left.
  std::string lineage = {};
  int64_t going_back_to = -1;
};

// What a job did to a disk, with its promises and when it made them.
struct Recording {
  std::string name = {};
  std::vector<FileOperation> trace = {};
  size_t begin = 0;  // crashes before are another recording's
  std::map<size_t, Promise> promises = {};
};

// Records a job; says what it promises.
class Recorder {
 public:
  explicit Recorder(std::string name) { recording_.name = std::move(name); }

  RecordingStorage& storage() { return storage_; }
  // A job starts, after the one before has ended or was killed.
  void start(bool fresh = false, const std::vector<TinyFound>& on_the_way = {}) {
    run_.reset();
    if (fresh) promise_.run_id.clear();
    may_be(on_the_way);
    run_.emplace(storage_, directory_.file("run"),
                 RunDirectory::Options{.lock_wait_s = 0, .allow_fresh = fresh});
    promise_.attempt = run_->attempt();
    promise_.run_id = run_->id_of(0).run_id;
    if (fresh) promise_.newest = {{}};
    promise_now();
  }
  // Crashes before are another recording's.
  void begin() { recording_.begin = storage_.trace().size(); }
  void save(int64_t step, int content) {
    may_be({{step, content}});
    save_tiny(storage_, *run_, step, content);
    promise_.newest = {{step, content}};
    promise_now();
  }
  void killed_saving(int64_t step, int content, RecordingStorage::IsTime is_time) {
    may_be({{step, content}});
    storage_.kill_when(std::move(is_time));
    CHECK_THROWS_AS(save_tiny(storage_, *run_, step, content), Killed);
    storage_.kill_when({});
  }
  void go_back_to(const TinyFound& found, const std::vector<TinyFound>& on_the_way) {
    promise_.lineage = run_->id_of(0).lineage;
    promise_.going_back_to = found.step;
    may_be(on_the_way);
    may_be({found});
    run_->go_back_to(found.step);
    promise_.newest = {found};
    promise_now();
  }
  void remove_old() { run_->remove_old({.keep_last = 2}, -1); }

  Recording result() {
    run_.reset();
    recording_.trace = storage_.trace();
    return recording_;
  }

 private:
  // From the next operation on.
  void may_be(const std::vector<TinyFound>& others) {
    promise_.newest.insert(promise_.newest.end(), others.begin(), others.end());
    recording_.promises[storage_.trace().size() + 1] = promise_;
  }
  void promise_now() { recording_.promises[storage_.trace().size()] = promise_; }

  TemporaryDirectory directory_{TemporaryDirectory::memory()};
  RecordingStorage storage_{directory_of(directory_.file("x"))};
  std::optional<RunDirectory> run_;
  Promise promise_ = {};
  Recording recording_ = {.promises = {{0, {}}}};
};

bool has_part(const std::string& path, const char* part) {
  return path.find(part) != std::string::npos;
}

std::vector<Recording> record_all() {
  std::vector<Recording> recordings;
  const auto record = [&](const char* name, const std::function<void(Recorder&)>& job) {
    Recorder recorder(name);
    job(recorder);
    recordings.push_back(recorder.result());
  };
  record("a first start, a first save, a second start", [](Recorder& job) {
    job.start();
    job.save(0, 1);
    job.start();
  });
  record("saves, and removal of the oldest", [](Recorder& job) {
    job.start();
    for (const int n : {0, 1, 2}) job.save(10 * n, n);
    job.begin();
    job.save(30, 3);
    job.remove_old();
    job.save(40, 4);
  });
  record("no space for LATEST", [](Recorder& job) {
    job.start();
    job.save(0, 1);
    job.begin();
    job.storage().refuse_to_create(kLatestFile);
    job.save(10, 2);
    job.storage().refuse_to_create("nothing");
    job.save(20, 3);
  });
  record("a step saved again, with other values", [](Recorder& job) {
    job.start();
    job.save(0, 1);
    job.save(10, 2);
    job.begin();
    job.save(10, 3);
    job.save(20, 4);
  });
  record("killed between the renames of a step saved again", [](Recorder& job) {
    job.start();
    job.save(0, 1);
    job.save(10, 2);
    job.begin();
    job.killed_saving(10, 3, [](const FileOperation& due, const FileOperation& before) {
      return due.kind == Kind::kRename && has_part(before.to, ".replaced-");
    });
    job.start();
    job.save(10, 3);
    job.save(20, 4);
  });
  record("killed before the sync of a commit, and the same saved again", [](Recorder& job) {
    job.start();
    job.save(0, 1);
    job.begin();
    job.killed_saving(10, 2, [](const FileOperation& due, const FileOperation& before) {
      return due.kind == Kind::kSyncDirectory && has_part(before.to, "/step-");
    });
    job.start();
    job.save(10, 2);
    job.save(20, 3);
  });
  record("going back, twice behind the same step", [](Recorder& job) {
    job.start();
    for (const int n : {0, 1, 2, 3}) job.save(10 * n, n);
    job.begin();
    job.go_back_to({10, 1}, {{20, 2}, {30, 3}});
    job.save(20, 22);
    job.go_back_to({10, 1}, {{20, 22}});
    job.save(20, 23);
    job.remove_old();
  });
  record("beginning anew", [](Recorder& job) {
    job.start();
    for (const int n : {0, 1, 2}) job.save(10 * n, n);
    job.begin();
    job.start(true, {{0, 0}, {10, 1}, {20, 2}, {}});
    job.save(0, 7);
  });
  return recordings;
}

// ---- What a job finds after the power was lost ----

struct Outcome {
  std::string error = {};  // of starting
  int64_t attempt = 0;
  std::string run_id = {}, lineage = {};
  TinyFound newest = {};
  bool all_valid = true, latest_fits = true;
  std::vector<std::pair<int64_t, std::string>> lineages = {};  // of steps
};

bool latest_fits(const RunDirectory& run) {
  const std::string path = join(run.path(), kLatestFile);
  if (!exists(path)) return true;
  const auto json = nlohmann::json::parse(read_bytes(path), nullptr, false);
  if (json.is_discarded()) return false;
  const int64_t step = json.at("step");
  for (const RunEntry& entry : entries_of(run.path()))
    if (entry.step == step) return true;
  return false;
}

Outcome outcome_of(const CrashDisk& disk, const std::string& state) {
  const TemporaryDirectory directory(TemporaryDirectory::memory());
  disk.make(state, directory.file("disk"));
  Outcome outcome;
  try {
    Storage storage;
    const RunDirectory run(storage, directory.file("disk/run"), {.lock_wait_s = 0});
    outcome.attempt = run.attempt();
    outcome.run_id = run.id_of(0).run_id;
    outcome.lineage = run.id_of(0).lineage;
    outcome.latest_fits = latest_fits(run);
    for (const int64_t step : run.committed_steps()) {
      const auto found = read_tiny(run, step);
      outcome.all_valid = outcome.all_valid && found;
      if (!found) continue;
      if (outcome.newest.step < 0) outcome.newest = {step, found->content};
      outcome.lineages.emplace_back(step, found->lineage);
    }
  } catch (const Error& error) {
    outcome.error = error.what();
  }
  return outcome;
}

// What is wrong with it; "" if nothing.
std::string fault_of(const Outcome& outcome, const Promise& promise) {
  if (!outcome.error.empty()) return "cannot start";
  const auto& newest = promise.newest;
  if (std::find(newest.begin(), newest.end(), outcome.newest) == newest.end()) {
    if (outcome.newest.step < 0) return "lost";
    const auto is_older = [&](const TinyFound& other) { return outcome.newest.step < other.step; };
    return std::all_of(newest.begin(), newest.end(), is_older) ? "rolled back" : "mixed up";
  }
  if (!outcome.all_valid) return "a step that is not whole, or another run's";
  if (outcome.attempt <= promise.attempt) return "an attempt counted twice";
  if (!promise.run_id.empty() && outcome.run_id != promise.run_id) return "another run";
  if (!outcome.latest_fits) return "LATEST names nothing";
  for (const auto& [step, lineage] : outcome.lineages)
    if (outcome.lineage != promise.lineage && lineage == promise.lineage &&
        step > promise.going_back_to)
      return "another lineage, with later steps of the one before";
  return "";
}

// ---- Going through all states ----

// What a sync is there for, by the operation before it; "" if it is none.
std::string name_of_sync(const Recording& recording, size_t index) {
  const FileOperation& operation = recording.trace[index];
  const auto word = [](const std::string& path) {
    return std::string(path.empty() ? "parent" : word_for(path));
  };
  if (operation.kind == Kind::kSync) return word(operation.path);
  if (operation.kind != Kind::kSyncDirectory) return "";
  if (index == 0) return "names in " + word(operation.path);
  const FileOperation& before = recording.trace[index - 1];
  std::string name = fmt::format("names in {} after {} {}", word(operation.path),
                                 name_of(before.kind), word(before.path));
  if (before.kind == Kind::kRename) name += " to " + word(before.to);
  return name;
}

// A start removes such a directory without a look at what is in it.
bool is_leftover(const std::string& name) {
  const auto entry = parse_entry(name);
  return entry && (entry->kind == RunEntryKind::kStaging || entry->kind == RunEntryKind::kDeleting);
}

std::set<std::string> syncs_of(const Recording& recording) {
  std::set<std::string> syncs;
  for (size_t index = recording.begin; index < recording.trace.size(); ++index)
    syncs.insert(name_of_sync(recording, index));
  syncs.erase("");
  return syncs;
}

class Explorer {
 public:
  struct Findings {
    int64_t num_states = 0;                      // of all moments
    std::map<std::string, int64_t> faults = {};  // by what is wrong
  };

  Findings explore(const Recording& recording) {
    Findings findings;
    visit(recording, "", [&](const std::string& fault) {
      ++findings.num_states;
      if (!fault.empty()) ++findings.faults[fault];
      return true;
    });
    return findings;
  }
  // Where the syncs of that name do nothing; "" if nothing is wrong then.
  std::string first_fault(const Recording& recording, const std::string& idle_sync) {
    std::string first;
    visit(recording, idle_sync, [&](const std::string& fault) {
      if (!fault.empty()) first = fault + ", in \"" + recording.name + "\"";
      return fault.empty();
    });
    return first;
  }

  size_t num_different() const { return outcomes_.size(); }

 private:
  // What is wrong with the states of all moments, while `visitor` says true.
  void visit(const Recording& recording, const std::string& idle_sync,
             const std::function<bool(const std::string&)>& visitor) {
    CrashDisk disk(contents_, is_leftover);
    for (size_t index = 0; index <= recording.trace.size(); ++index) {
      if (index > 0) {
        const bool is_idle = !idle_sync.empty() && index > recording.begin &&
                             name_of_sync(recording, index - 1) == idle_sync;
        disk.apply(recording.trace[index - 1], is_idle);
      }
      if (index < recording.begin) continue;
      const Promise& promise = std::prev(recording.promises.upper_bound(index))->second;
      for (const std::string& state : disk.states())
        if (!visitor(fault_of(outcome(disk, state), promise))) return;
    }
  }

  const Outcome& outcome(const CrashDisk& disk, const std::string& state) {
    const auto known = outcomes_.find(state);
    if (known != outcomes_.end()) return known->second;
    return outcomes_.emplace(state, outcome_of(disk, state)).first->second;
  }

  FileContents contents_;
  std::map<std::string, Outcome> outcomes_ = {};
};

// Syncs without which no state here fails, and why they stay.
const std::map<std::string, std::string> kMayBeIdle = {
    {"probe", "tries whether files can be synced at all, before a run begins"},
    {"names in directory after sync shard",
     "a step is kept that was there already: refuses where its own sync has failed "
     "(test_storage.cpp)"}};

TEST_CASE("no loss of power loses, rolls back or mixes up what was acknowledged") {
  spdlog::set_level(spdlog::level::off);
  Explorer explorer;
  int64_t num_states = 0;
  for (const Recording& recording : record_all()) {
    const auto findings = explorer.explore(recording);
    num_states += findings.num_states;
    for (const auto& [fault, count] : findings.faults)
      FAIL_CHECK(recording.name << ": " << fault << " in " << count << " states");
    std::printf("%6lld states after a loss of power: %s (%zu operations)\n",
                static_cast<long long>(findings.num_states), recording.name.c_str(),
                recording.trace.size() - recording.begin);
  }
  std::printf("%6lld in all, %zu of them different\n", static_cast<long long>(num_states),
              explorer.num_different());
  CHECK(explorer.num_different() >= 1000);
  spdlog::set_level(spdlog::level::info);
}

TEST_CASE("without any one sync something is lost, rolled back or mixed up") {
  spdlog::set_level(spdlog::level::off);
  const std::vector<Recording> recordings = record_all();
  Explorer explorer;
  std::map<std::string, std::string> faults;  // by sync
  for (const Recording& recording : recordings) {
    for (const std::string& sync : syncs_of(recording)) {
      std::string& fault = faults[sync];
      if (fault.empty()) fault = explorer.first_fault(recording, sync);
    }
  }
  for (const auto& [sync, fault] : faults) {
    const bool may_be_idle = kMayBeIdle.count(sync) != 0;
    std::printf("without the sync of %s: %s\n", sync.c_str(),
                may_be_idle ? kMayBeIdle.at(sync).c_str() : fault.c_str());
    INFO(sync << ": " << fault);
    CHECK(fault.empty() == may_be_idle);
  }
  for (const auto& [sync, reason] : kMayBeIdle) CHECK(faults.count(sync) == 1);
  spdlog::set_level(spdlog::level::info);
}

}  // namespace
}  // namespace switchyard::test
