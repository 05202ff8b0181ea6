#include "checkpoint/machine_memory.h"

#include <unistd.h>

#include <algorithm>
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

constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();

int64_t available_to_all() {
  std::ifstream file("/proc/meminfo");
  std::string key, unit;
  for (int64_t kibibytes = 0; file >> key >> kibibytes;) {
    if (key == "MemAvailable:") return kibibytes * 1024;
    std::getline(file, unit);
  }
  return kUnlimited;
}

// "max", as cgroup v2 says for no limit, is no number either.
int64_t number_in(const std::string& path) {
  int64_t number = kUnlimited;
  std::ifstream file(path);
  return file >> number ? number : kUnlimited;
}

int64_t left_in_cgroup(const std::string& limit_file, const std::string& usage_file) {
  const int64_t limit = number_in(limit_file), usage = number_in(usage_file);
  if (limit == kUnlimited || usage == kUnlimited) return kUnlimited;
  return std::max<int64_t>(limit - usage, 0);
}

}  // namespace

int64_t available_host_memory() {
  const std::string cgroup = "/sys/fs/cgroup/";
  return std::min({available_to_all(),
                   left_in_cgroup(cgroup + "memory.max", cgroup + "memory.current"),
                   left_in_cgroup(cgroup + "memory/memory.limit_in_bytes",
                                  cgroup + "memory/memory.usage_in_bytes")});
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
