#include "log_lines.h"

#include <spdlog/sinks/base_sink.h>

#include <cstdlib>
#include <utility>

#include "core/fault.h"

namespace switchyard::test {

class LogLines::Sink : public spdlog::sinks::base_sink<std::mutex> {
 public:
  explicit Sink(std::function<void(const std::string&)> also) : also_(std::move(also)) {}

  std::vector<std::string> lines() {
    const std::scoped_lock lock(mutex_);
    return lines_;
  }

 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    const auto level = spdlog::level::to_string_view(message.level);
    lines_.push_back(std::string(level.data(), level.size()) + " " +
                     std::string(message.payload.data(), message.payload.size()));
    if (also_) also_(lines_.back());
  }
  void flush_() override {}

 private:
  std::function<void(const std::string&)> also_;
  std::vector<std::string> lines_;
};

LogLines::LogLines(std::function<void(const std::string&)> also)
    : sink_(std::make_shared<Sink>(std::move(also))), before_(spdlog::default_logger()) {
  spdlog::set_default_logger(std::make_shared<spdlog::logger>("lines", sink_));
}

LogLines::~LogLines() { spdlog::set_default_logger(before_); }

std::vector<std::string> LogLines::all() const { return sink_->lines(); }

std::vector<std::string> LogLines::with(const std::string& text) const {
  std::vector<std::string> found;
  for (std::string& line : all())
    if (line.find(text) != std::string::npos) found.push_back(std::move(line));
  return found;
}

std::vector<int64_t> LogLines::numbers_after(const std::string& text) const {
  return test::numbers_after(all(), text);
}

std::string LogLines::text() const {
  std::string text;
  for (const std::string& line : all()) text += line + "\n";
  return text;
}

std::vector<int64_t> numbers_after(const std::vector<std::string>& lines, const std::string& text) {
  std::vector<int64_t> numbers;
  for (const std::string& line : lines)
    if (const size_t at = line.find(text); at != std::string::npos)
      numbers.push_back(std::strtoll(line.c_str() + at + text.size(), nullptr, 10));
  return numbers;
}

}  // namespace switchyard::test
