#include "comm/collective_error.h"

#include <optional>

namespace switchyard {

void agree(Communicator& world, const std::function<void()>& work) {
  std::optional<Error> mine;
  try {
    work();
  } catch (const Error& error) {
    mine = error;
  }
  const double lowest_failed = world.all_reduce_max_host(mine ? world.size() - world.rank() : 0);
  if (lowest_failed == 0) return;
  const int root = world.size() - static_cast<int>(lowest_failed);
  std::string message = mine ? mine->what() : "";
  world.broadcast_host(message, root);
  std::string code = mine ? std::to_string(static_cast<int>(mine->code())) : "";
  world.broadcast_host(code, root);
  throw CollectiveError(static_cast<ExitCode>(std::stoi(code)), message);
}

}  // namespace switchyard
