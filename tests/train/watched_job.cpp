#include "train/watched_job.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <thread>

#include "core/error.h"
#include "core/progress.h"
#include "train/postmortem.h"

namespace switchyard::test {
namespace {

constexpr const char* kConfig = R"({
  "train_batch_size": 8, "gradient_accumulation_steps": 2,
  "model": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
            "intermediate_size": 64, "moe_intermediate_size": 32},
  "moe": {"enabled": true, "num_experts": 4, "top_k": 2},
  "data": {"path": "", "sequence_length": 32, "validation_fraction": 0.3},
  "training": {"num_threads": 1, "max_steps": 8, "output_dir": "run", "eval_interval": 5,
               "eval_num_batches": 10},
  "steps_per_print": 1000000,
  "watchdog": {"timeout": 1, "gap_factor": 2}
})";

// `command` in `directory`, with output to `directory`/log.
pid_t start(const std::string& directory, const std::vector<std::string>& command,
            const std::string& fault) {
  std::vector<char*> arguments;
  for (const std::string& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  const pid_t child = fork();
  if (child != 0) return child;
  const int log = open((directory + "/log").c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
  if (chdir(directory.c_str()) != 0 || dup2(log, 1) < 0 || dup2(log, 2) < 0) _exit(127);
  setenv("OMPI_MCA_mpi_yield_when_idle", "1", 1);
  setenv("SWITCHYARD_FAULT", fault.c_str(), 1);
  execvp(arguments[0], arguments.data());
  _exit(127);
}

int wait_for_end(pid_t child, double seconds) {
  int status = 0;
  const int64_t end = monotonic_ns() + static_cast<int64_t>(seconds * 1e9);
  while (waitpid(child, &status, WNOHANG) == 0) {
    SY_CHECK(monotonic_ns() < end, "process {} does not end", child);
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace

Corpus::Corpus() {
  std::string text;
  for (int i = 0; i < 300; ++i) text += "In the beginning was the word, and the word was many. ";
  write_bytes(directory_.file("text.txt"), text);
  const std::vector<std::string> prepare = {SWITCHYARD_WITH_FAULTS, "prepare", "text.txt",
                                            "--output", "tokens"};
  const int code = wait_for_end(start(directory_.file(""), prepare, ""), 20);
  SY_CHECK(code == 0, "prepare ended with {}: {}", code, read_bytes(directory_.file("log")));
}

WatchedJob::WatchedJob(const Corpus& corpus, const std::vector<std::string>& settings,
                       const std::string& fault, bool resumes) {
  write_bytes(directory_.file("config.json"), kConfig);
  std::vector<std::string> command = {SWITCHYARD_MPIRUN,
                                      "--bind-to",
                                      "none",
                                      "-n",
                                      "2",
                                      "-x",
                                      "SWITCHYARD_FAULT",
                                      SWITCHYARD_WITH_FAULTS,
                                      "train",
                                      "config.json",
                                      "--set",
                                      "data.path=" + corpus.path()};
  for (const std::string& setting : settings) command.insert(command.end(), {"--set", setting});
  if (resumes) {
    std::vector<std::string> before = command;
    before.insert(before.end(), {"--set", "training.max_steps=1"});
    const int code = wait_for_end(start(directory_.file(""), before, ""), 20);
    SY_CHECK(code == 0, "the run to be resumed ended with {}: {}", code, log());
    ++attempt_;
  }
  mpirun_ = start(directory_.file(""), command, fault);
}

WatchedJob::~WatchedJob() {
  if (mpirun_ < 0) return;
  for (int rank = 0; rank < 2; ++rank)
    if (const auto head = read_progress_head(progress_file(run(), rank)))
      kill(static_cast<pid_t>(head->pid), SIGKILL);
  kill(mpirun_, SIGKILL);
  waitpid(mpirun_, nullptr, 0);
}

int WatchedJob::exit_code() {
  const int code = wait_for_end(mpirun_, 40);
  mpirun_ = -1;
  return code;
}

// Its end: jobs say much.
std::string WatchedJob::log() const {
  const std::string text = read_bytes(directory_.file("log"));
  return text.substr(text.size() - std::min<size_t>(text.size(), 4000));
}

std::string WatchedJob::postmortem() const { return postmortem_directory(run(), attempt_); }

ProgressPage WatchedJob::page(int rank) const {
  const auto page = read_progress_page(page_file(postmortem(), rank));
  SY_CHECK(page != nullptr, "rank {} has left no page: {}", rank, log());
  return *page;
}

}  // namespace switchyard::test
