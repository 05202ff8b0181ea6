// Built with ThreadSanitizer, whatever the rest is built with: runs the program that the arguments
// name, with its bug if the second one is "planted".
#include <cstring>

#include "runtime_bugs.h"

using namespace cuda_emulator::test;

int main(int argc, char** argv) {
  constexpr std::pair<const char*, void (*)(bool)> kPrograms[] = {
      {"wait_between_streams", wait_between_streams},
      {"wait_before_reading", wait_before_reading},
      {"wait_before_overwriting", wait_before_overwriting},
      {"order_branches", order_branches},
      {"wait_on_each_thread", wait_on_each_thread},
  };
  if (argc != 3) return 2;
  for (const auto& [name, program] : kPrograms)
    if (std::strcmp(name, argv[1]) == 0) {
      program(std::strcmp(argv[2], "planted") == 0);
      return 0;
    }
  return 2;
}
