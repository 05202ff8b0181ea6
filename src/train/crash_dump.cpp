#include "train/crash_dump.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstring>

#include "core/error.h"

namespace switchyard {
namespace {

constexpr std::array<int, 5> kSignals = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};

// What the handler needs. All of it is plain memory.
struct Crash {
  std::atomic<Progress*> marks = nullptr;
  std::array<char, 4096> directory = {}, file = {};
  const std::vector<OtherPage>* others = nullptr;
  std::array<struct sigaction, kSignals.size()> before = {};
};

Crash& crash() {
  static Crash instance;
  return instance;
}

void write_page(const Crash& at, const ProgressPage& page) {
  mkdir(at.directory.data(), 0750);
  const int file = open(at.file.data(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
  if (file < 0) return;
  const auto* bytes = reinterpret_cast<const char*>(&page);
  size_t done = 0;
  while (done < sizeof(page)) {
    const ssize_t count = write(file, bytes + done, sizeof(page) - done);
    if (count <= 0) break;
    done += static_cast<size_t>(count);
  }
  close(file);
}

void copy_page(const OtherPage& page) {
  const int from = open(page.from.c_str(), O_RDONLY | O_CLOEXEC);
  if (from < 0) return;  // it has ended
  const int to = open(page.temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
  std::array<char, 4096> part;
  ssize_t count = 0;
  while (to >= 0 && (count = read(from, part.data(), part.size())) > 0)
    if (write(to, part.data(), static_cast<size_t>(count)) != count) break;
  close(from);
  close(to);
  if (count == 0) link(page.temporary.c_str(), page.to.c_str());
  unlink(page.temporary.c_str());
}

// The first of several threads that crash writes; the signal comes again when it returns.
void on_crash(int signal) {
  Crash& at = crash();
  if (Progress* marks = at.marks.exchange(nullptr)) {
    marks->end(Ending::kSignal, signal, "");
    write_page(at, marks->page());
    for (const OtherPage& page : *at.others) copy_page(page);
  }
  for (size_t i = 0; i < kSignals.size(); ++i)
    if (kSignals[i] == signal) sigaction(signal, &at.before[i], nullptr);
  raise(signal);
}

void copy_path(std::array<char, 4096>& to, const std::string& path) {
  SY_CHECK(path.size() < to.size(), "a path of {} characters", path.size());
  std::memcpy(to.data(), path.c_str(), path.size() + 1);
}

}  // namespace

CrashDump::CrashDump(Progress& marks, const std::string& directory, const std::string& file,
                     std::vector<OtherPage> others)
    : others_(std::move(others)), stack_(size_t{1} << 16) {
  Crash& at = crash();
  SY_CHECK(at.marks == nullptr, "two crash dumps in one process");
  copy_path(at.directory, directory);
  copy_path(at.file, file);
  stack_t stack = {};
  stack.ss_sp = stack_.data();
  stack.ss_size = stack_.size();
  sigaltstack(&stack, nullptr);
  at.others = &others_;
  at.marks = &marks;
  struct sigaction action = {};
  action.sa_handler = on_crash;
  action.sa_flags = SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  for (size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &action, &at.before[i]);
}

CrashDump::~CrashDump() {
  Crash& at = crash();
  for (size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &at.before[i], nullptr);
  at.marks = nullptr;
  stack_t stack = {};
  stack.ss_flags = SS_DISABLE;
  sigaltstack(&stack, nullptr);
}

}  // namespace switchyard
