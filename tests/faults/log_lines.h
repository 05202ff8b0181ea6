// LogLines: catches what the project logs, from any thread, while it lives.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/log.h"

namespace switchyard::test {

class LogLines {
 public:
  // `also`: is called with every line, "error step 3 is NOT saved ...".
  explicit LogLines(std::function<void(const std::string&)> also = nullptr);
  ~LogLines();
  LogLines(const LogLines&) = delete;
  LogLines& operator=(const LogLines&) = delete;

  std::vector<std::string> all() const;
  std::vector<std::string> with(const std::string& text) const;  // lines that contain it
  // The number after `text` ("committed step ") in each line that has one.
  std::vector<int64_t> numbers_after(const std::string& text) const;
  std::string text() const;  // all, for messages of tests

 private:
  class Sink;
  std::shared_ptr<Sink> sink_;
  std::shared_ptr<spdlog::logger> before_;
};

// numbers_after() of lines.
std::vector<int64_t> numbers_after(const std::vector<std::string>& lines, const std::string& text);

}  // namespace switchyard::test
