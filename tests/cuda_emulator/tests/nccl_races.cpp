// Built with ThreadSanitizer, whatever the rest is built with: two ranks run the program that the
// arguments name, with its bug if the second one is "planted".
#include <algorithm>

#include "nccl_bugs.h"

using namespace cuda_emulator::test;

int main(int argc, char** argv) {
  constexpr std::pair<const char*, void (*)(Rank&, bool)> kPrograms[] = {
      {"collective_waits_for_its_input", collective_waits_for_its_input},
      {"result_is_waited_for", result_is_waited_for},
  };
  const auto* const program = std::ranges::find_if(kPrograms, [&](const auto& named) {
    return argc == 3 && std::strcmp(named.first, argv[1]) == 0;
  });
  if (program == std::end(kPrograms)) return 2;
  void* memory =
      mmap(nullptr, sizeof(JobMemory), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  const pid_t other = fork();
  Rank rank(*static_cast<JobMemory*>(memory), other == 0 ? 1 : 0, 2);
  program->second(rank, std::strcmp(argv[2], "planted") == 0);
  if (other == 0) return 0;
  int status = 0;
  waitpid(other, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
