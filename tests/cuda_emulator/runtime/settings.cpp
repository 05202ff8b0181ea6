#include "runtime/settings.h"

#include <cstdlib>
#include <cstring>
#include <string>

#include "engine/engine.h"

namespace cuda_emulator {
namespace {

Mode read_mode() {
  const char* text = std::getenv("SWITCHYARD_CUDA_MODE");
  if (text == nullptr || std::strcmp(text, "eager") == 0) return Mode::kEager;
  if (std::strcmp(text, "lazy") == 0) return Mode::kLazy;
  if (std::strcmp(text, "random") == 0) return Mode::kRandom;
  fail("SWITCHYARD_CUDA_MODE=%s is none of eager, lazy, random", text);
}

uint64_t read_number(const char* variable, uint64_t otherwise) {
  const char* text = std::getenv(variable);
  if (text == nullptr) return otherwise;
  char* end = nullptr;
  const uint64_t number = std::strtoull(text, &end, 10);
  if (end == text || *end != '\0') fail("%s=%s is no number", variable, text);
  return number;
}

// Each rank of a job draws orders of its own.
uint64_t rank_of_job() {
  for (const char* variable : {"OMPI_COMM_WORLD_RANK", "PMI_RANK"})
    if (std::getenv(variable) != nullptr) return read_number(variable, 0);
  return 0;
}

// As the driver reads it: the list ends at the first entry that is no device.
std::vector<int> visible_devices(int count) {
  std::vector<int> devices;
  const char* text = std::getenv("CUDA_VISIBLE_DEVICES");
  if (text == nullptr) {
    for (int i = 0; i < count; ++i) devices.push_back(i);
    return devices;
  }
  while (*text != '\0') {
    char* end = nullptr;
    const long device = std::strtol(text, &end, 10);
    if (end == text || device < 0 || device >= count) break;
    devices.push_back(static_cast<int>(device));
    if (*end != ',') break;
    text = end + 1;
  }
  return devices;
}

Settings read_settings() {
  Settings settings;
  settings.mode = read_mode();
  settings.seed = read_number("SWITCHYARD_CUDA_SEED", settings.seed) + 1000 * rank_of_job();
  schedule().seed = settings.seed;
  settings.devices = visible_devices(static_cast<int>(read_number("SWITCHYARD_CUDA_DEVICES", 1)));
  settings.memory_bytes = read_number("SWITCHYARD_CUDA_MEMORY", settings.memory_bytes);
  return settings;
}

}  // namespace

const Settings& settings() {
  static const Settings settings = read_settings();
  return settings;
}

}  // namespace cuda_emulator
