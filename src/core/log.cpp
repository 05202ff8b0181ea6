#include "core/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>

namespace switchyard {

void configure_log(int rank, int world_size) {
  auto logger = spdlog::stderr_color_mt("switchyard");
  if (world_size > 1 && rank > 0) {
    logger->set_pattern(fmt::format("%^%l%$ [rank {}] %v", rank));
    logger->set_level(spdlog::level::warn);
  } else {
    logger->set_pattern("%^%l%$ %v");
  }
  spdlog::set_default_logger(std::move(logger));
}

}  // namespace switchyard
