#include "driver.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <exception>
#include <new>
#include <thread>

#include "memory_count.h"
#include "mutator.h"

namespace switchyard::fuzz {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// What the child tells its parent, in memory that both see.
struct Progress {
  std::atomic<uint64_t> number = 0;  // of the input it works on
  std::atomic<uint64_t> taken = 0;
  char complaint[4096] = {};
};

std::string input_of(const Target& target, uint64_t seed, uint64_t number) {
  std::string input = mutated_input(target.corpus, seed, number);
  // Some inputs keep their wrong checksum.
  return target.mend && number % 8 != 0 ? target.mend(std::move(input)) : input;
}

// Nothing may get out: there is a parent that does the same work.
void run_child(const Target& target, uint64_t seed, const Limits& limits,
               Progress& progress) noexcept {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  const auto begin = Clock::now();
  for (uint64_t number = limits.first; number - limits.first < limits.inputs; ++number) {
    if (number % 64 == 0 && seconds_since(begin) > limits.seconds) break;
    progress.number = number;
    bool taken = false;
    const std::string complaint =
        complaint_about(target, input_of(target, seed, number), limits, taken);
    progress.taken += taken;
    if (complaint.empty()) continue;
    std::snprintf(progress.complaint, sizeof(progress.complaint), "%s", complaint.c_str());
    return;
  }
  ++progress.number;
}

// Waits for the child; "" if it ended by itself. A child that stays with one input is killed.
std::string wait_for(pid_t child, const Progress& progress, const Limits& limits) {
  uint64_t number = progress.number;
  auto since = Clock::now();
  int status = 0;
  while (waitpid(child, &status, WNOHANG) == 0) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    if (progress.number != number) {
      number = progress.number;
      since = Clock::now();
    }
    if (seconds_since(since) < 20 * limits.seconds_each) continue;
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    return "hangs";
  }
  if (WIFSIGNALED(status)) return fmt::format("is killed by signal {}", WTERMSIG(status));
  return WEXITSTATUS(status) == 0 ? "" : fmt::format("exits with {}", WEXITSTATUS(status));
}

}  // namespace

std::string complaint_about(const Target& target, const std::string& input, const Limits& limits,
                            bool& taken) {
  const MemoryCount memory;
  const std::clock_t begin = std::clock();  // of this process only: the machine may be busy
  std::string complaint;
  try {
    target.take(input);
    taken = true;
  } catch (const Error& error) {
    if (error.code() != target.refusal)
      complaint =
          fmt::format("fails with code {}: {}", static_cast<int>(error.code()), error.what());
    else if (std::strlen(error.what()) > 4 * input.size() + 100'000)
      complaint = "is refused with a message out of proportion";
  } catch (const std::exception& error) {
    complaint = fmt::format("throws {}", error.what());
  }
  const int64_t bytes = memory.peak_bytes() - static_cast<int64_t>(input.size());
  const double seconds = static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
  if (complaint.empty() && seconds > limits.seconds_each)
    complaint = fmt::format("takes {:.1f} s", seconds);
  if (complaint.empty() && bytes > limits.bytes_each)
    complaint = fmt::format("takes {} bytes of memory", bytes);
  return complaint;
}

Outcome fuzz(const Target& target, uint64_t seed, const Limits& limits) {
  void* memory =
      mmap(nullptr, sizeof(Progress), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  SY_CHECK(memory != MAP_FAILED, "no memory to share with the child");
  auto& progress = *new (memory) Progress{};
  progress.number = limits.first;
  std::fflush(nullptr);
  const pid_t child = fork();
  SY_CHECK(child >= 0, "cannot fork");
  if (child == 0) {
    run_child(target, seed, limits, progress);
    _exit(0);
  }
  std::string what = wait_for(child, progress, limits);
  if (what.empty()) what = progress.complaint;
  Outcome outcome{.inputs = progress.number - limits.first, .taken = progress.taken};
  if (!what.empty())
    outcome.finding = {
        .number = progress.number, .input = input_of(target, seed, progress.number), .what = what};
  munmap(memory, sizeof(Progress));
  return outcome;
}

}  // namespace switchyard::fuzz
