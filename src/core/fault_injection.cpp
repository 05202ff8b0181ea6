#include "core/fault_injection.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <string_view>
#include <thread>
#include <utility>

#include "core/error.h"
#include "core/fault.h"

namespace switchyard {
namespace {

struct Rule {
  int rank = -1;  // every
  std::string point = {}, action = {};
  int64_t first = 1;
  bool repeats = false;
  int64_t passes = 0;
};

// The one piece of global state in the project, and in test executables only: a fault has to reach
// code that knows nothing of it.
struct Facility {
  std::mutex mutex;
  std::vector<Rule> rules;
  bool remembers = false;  // which points are passed: only for those who ask in this process
  std::vector<std::pair<int, std::string>> passed;  // (rank, name)
};

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  size_t begin = 0;
  while (begin < text.size()) {
    const size_t end = std::min(text.find(separator, begin), text.size());
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

int64_t parse_count(const std::string& text, const std::string& rule) {
  SY_REQUIRE(kConfig,
             !text.empty() && text.size() < 10 &&
                 text.find_first_not_of("0123456789") == std::string::npos,
             "SWITCHYARD_FAULT: \"{}\" in \"{}\" is no number", text, rule);
  return std::stoll(text);
}

Rule parse_rule(const std::string& text) {
  Rule rule;
  for (const std::string& part : split(text, ',')) {
    const size_t equals = std::min(part.find('='), part.size());
    const std::string key = part.substr(0, equals);
    std::string value = part.substr(std::min(equals + 1, part.size()));
    if (key == "rank") {
      rule.rank = static_cast<int>(parse_count(value, text));
    } else if (key == "point") {
      rule.point = value;
    } else if (key == "action") {
      rule.action = value;
    } else if (key == "nth") {
      rule.repeats = value.ends_with('+');
      if (rule.repeats) value.pop_back();
      rule.first = parse_count(value, text);
    } else {
      SY_REQUIRE(kConfig, false, "SWITCHYARD_FAULT: \"{}\" in \"{}\" is not understood", part,
                 text);
    }
  }
  constexpr std::string_view kActions[] = {"kill",  "stop", "exit", "raise", "eio",  "enospc",
                                           "short", "flip", "nan",  "drop",  "hang", "sleep"};
  const std::string action = rule.action.substr(0, rule.action.find(':'));
  SY_REQUIRE(kConfig,
             !rule.point.empty() &&
                 std::find(std::begin(kActions), std::end(kActions), action) != std::end(kActions),
             "SWITCHYARD_FAULT: \"{}\" has no point, or no action that is known", text);
  return rule;
}

std::vector<Rule> parse_rules(const std::string& text) {
  std::vector<Rule> rules;
  for (const std::string& rule : split(text, ';')) rules.push_back(parse_rule(rule));
  return rules;
}

Facility& facility() {
  static Facility* const facility = [] {
    auto made = std::make_unique<Facility>();
    if (const char* rules = std::getenv("SWITCHYARD_FAULT")) made->rules = parse_rules(rules);
    return made.release();  // threads may pass points while the process ends
  }();
  return *facility;
}

int rank_of_process() {
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "SLURM_PROCID"})
    if (const char* rank = std::getenv(name)) return std::atoi(rank);
  return 0;
}

int& rank_of_thread() {
  thread_local int rank = rank_of_process();
  return rank;
}

bool matches(const Rule& rule, std::string_view name) {
  if (rule.rank >= 0 && rule.rank != rank_of_thread()) return false;
  if (rule.point.ends_with('*'))
    return name.starts_with(std::string_view(rule.point).substr(0, rule.point.size() - 1));
  return name == rule.point;
}

void sleep_for(const std::string& seconds) {
  std::this_thread::sleep_for(std::chrono::duration<double>(std::stod(seconds)));
}

// The action that is due at this pass; "" if none.
std::string due_action(const char* name) {
  Facility& faults = facility();
  const std::lock_guard lock(faults.mutex);
  if (faults.remembers) faults.passed.emplace_back(rank_of_thread(), name);
  std::string action;
  for (Rule& rule : faults.rules) {
    if (!matches(rule, name)) continue;
    ++rule.passes;
    if (rule.passes == rule.first || (rule.repeats && rule.passes > rule.first))
      action = rule.action;
  }
  return action;
}

}  // namespace

void set_faults(const std::string& rules) {
  std::vector<Rule> parsed = parse_rules(rules);
  Facility& faults = facility();
  const std::lock_guard lock(faults.mutex);
  faults.rules = std::move(parsed);
  faults.passed.clear();
  faults.remembers = true;
}

std::vector<std::string> fault_points_passed() {
  Facility& faults = facility();
  const std::lock_guard lock(faults.mutex);
  std::vector<std::string> names;
  for (const auto& pass : faults.passed) names.push_back(pass.second);
  return names;
}

std::vector<std::string> fault_points_passed(int rank) {
  Facility& faults = facility();
  const std::lock_guard lock(faults.mutex);
  std::vector<std::string> names;
  for (const auto& pass : faults.passed)
    if (pass.first == rank) names.push_back(pass.second);
  return names;
}

void set_fault_rank(int rank) { rank_of_thread() = rank; }

Fault fault_point(const char* name) {
  const std::string action = due_action(name);
  if (action.empty()) return Fault::kNone;
  if (action.starts_with("kill:")) sleep_for(action.substr(5));
  if (action.starts_with("kill")) kill(getpid(), SIGKILL);
  if (action == "stop") kill(getpid(), SIGSTOP);
  if (action == "exit") _exit(1);
  if (action.starts_with("raise:")) raise(std::stoi(action.substr(6)));
  if (action == "hang")
    while (true) pause();
  if (action.starts_with("sleep:")) sleep_for(action.substr(6));
  constexpr std::pair<const char*, Fault> kForCaller[] = {
      {"eio", Fault::kEio},   {"enospc", Fault::kEnospc}, {"short", Fault::kShort},
      {"flip", Fault::kFlip}, {"nan", Fault::kNan},       {"drop", Fault::kDrop}};
  for (const auto& [text, fault] : kForCaller)
    if (action == text) return fault;
  return Fault::kNone;
}

void spoil(Fault fault, std::span<std::byte> bytes) {
  if (fault == Fault::kFlip && !bytes.empty()) bytes[bytes.size() / 2] ^= std::byte{0x10};
  if (fault == Fault::kNan)
    std::fill_n(bytes.begin(), std::min<size_t>(bytes.size(), 8), std::byte{0xff});
}

int errno_of(Fault fault) {
  if (fault == Fault::kEio) return EIO;
  return fault == Fault::kEnospc ? ENOSPC : 0;
}

}  // namespace switchyard
