#include "checkpoint/machine_memory.h"

#include <unistd.h>

#include <fstream>
#include <functional>
#include <limits>
#include <string>
#include <vector>

namespace switchyard {
namespace {

std::string host_name() {
  char name[256] = {};
  gethostname(name, sizeof(name) - 1);
  return name;
}

}  // namespace

int64_t available_host_memory() {
  std::ifstream file("/proc/meminfo");
  std::string key, unit;
  for (int64_t kibibytes = 0; file >> key >> kibibytes;) {
    if (key == "MemAvailable:") return kibibytes * 1024;
    std::getline(file, unit);
  }
  return std::numeric_limits<int64_t>::max();
}

int64_t sum_over_host(Communicator& world, int64_t value) {
  const std::vector<int64_t> hosts =
      world.all_gather_host(static_cast<int64_t>(std::hash<std::string>()(host_name())));
  const std::vector<int64_t> values = world.all_gather_host(value);
  const int64_t mine = hosts[static_cast<size_t>(world.rank())];
  int64_t sum = 0;
  for (size_t rank = 0; rank < hosts.size(); ++rank)
    if (hosts[rank] == mine) sum += values[rank];
  return sum;
}

}  // namespace switchyard
