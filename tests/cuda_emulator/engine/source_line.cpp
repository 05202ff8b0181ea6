#include "engine/source_line.h"

#include <dlfcn.h>
#include <link.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

namespace cuda_emulator {
namespace {

struct CodePlace {
  const char* file;
  uintptr_t offset;
};

CodePlace locate(const void* code) {
  Dl_info info{};
  link_map* map = nullptr;
  if (dladdr1(code, &info, reinterpret_cast<void**>(&map), RTLD_DL_LINKMAP) == 0)
    return {nullptr, 0};
  const bool executable = map->l_name == nullptr || map->l_name[0] == '\0';
  return {executable ? "/proc/self/exe" : map->l_name,
          reinterpret_cast<uintptr_t>(code) - map->l_addr};
}

// The output of addr2line.
void ask(const CodePlace& place, char* text, size_t size) {
  int ends[2];
  text[0] = '\0';
  char file[512], offset[32];
  const ssize_t length = readlink(place.file, file, sizeof file - 1);
  if (length > 0)
    file[length] = '\0';  // /proc/self would be the child
  else
    std::snprintf(file, sizeof file, "%s", place.file);
  std::snprintf(offset, sizeof offset, "0x%zx", static_cast<size_t>(place.offset));
  if (pipe(ends) != 0) return;
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], STDOUT_FILENO);
    close(STDERR_FILENO);
    execlp("addr2line", "addr2line", "-i", "-e", file, offset, static_cast<char*>(nullptr));
    _exit(1);
  }
  close(ends[1]);
  size_t filled = 0;
  for (ssize_t count = 0;
       filled + 1 < size && (count = read(ends[0], text + filled, size - 1 - filled)) > 0;)
    filled += static_cast<size_t>(count);
  text[filled] = '\0';
  close(ends[0]);
  if (child > 0) waitpid(child, nullptr, 0);
}

// Without " (discriminator 3)" at its end.
void cut_line(char* line) { line[std::strcspn(line, " \n")] = '\0'; }

}  // namespace

void find_source_line(const void* code, char* text, size_t size) {
  text[0] = '\0';
  const CodePlace place = locate(code);
  char answer[4096];
  if (place.file == nullptr) return;
  ask(place, answer, sizeof answer);
  if (answer[0] == '\0' || answer[0] == '?') return;
  char* last = answer;  // the kernel itself, after what is inlined into it
  for (char* line = answer; *line != '\0'; line += std::strcspn(line, "\n")) {
    if (*line == '\n') ++line;
    if (*line != '\0') last = line;
  }
  cut_line(last);
  if (last == answer) {
    std::snprintf(text, size, "%s", answer);
  } else {
    cut_line(answer);
    std::snprintf(text, size, "%s, inlined at %s", answer, last);
  }
}

}  // namespace cuda_emulator
