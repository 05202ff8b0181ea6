#include "train/exit_record.h"

#include <fmt/chrono.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "comm/collective_error.h"
#include "core/log.h"
#include "train/durable_text.h"
#include "train/stop_requests.h"

namespace switchyard {
namespace {

namespace fs = std::filesystem;

fs::path record_path(const std::string& run_directory) {
  return fs::path(run_directory) / "exit.json";
}

}  // namespace

std::string to_json(const ExitRecord& record) {
  const nlohmann::ordered_json json = {{"code", static_cast<int>(record.code)},
                                       {"name", name_of(record.code)},
                                       {"step", record.step},
                                       {"rank", record.rank},
                                       {"attempt", record.attempt},
                                       {"requeue", record.requeue},
                                       {"reason", record.reason},
                                       {"time", record.time}};
  return json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

std::optional<ExitRecord> read_exit_record(const std::string& run_directory) {
  const fs::path path = record_path(run_directory);
  std::ifstream file(path);
  if (!file.is_open()) return std::nullopt;
  std::stringstream text;
  text << file.rdbuf();
  try {
    const auto json = nlohmann::json::parse(text.str());
    return ExitRecord{.code = static_cast<ExitCode>(json.at("code").get<int>()),
                      .step = json.at("step").get<int64_t>(),
                      .rank = json.at("rank").get<int>(),
                      .attempt = json.at("attempt").get<int64_t>(),
                      .requeue = json.at("requeue").get<bool>(),
                      .reason = json.at("reason").get<std::string>(),
                      .time = json.at("time").get<std::string>()};
  } catch (const nlohmann::json::exception& error) {
    throw Error(ExitCode::kData, fmt::format("{}: {}", path.string(), error.what()));
  }
}

void ExitRecorder::begin_attempt(int64_t attempt) {
  const std::scoped_lock lock(mutex_);
  attempt_ = attempt;
  if (rank_ != 0) return;
  const fs::path path = record_path(run_directory_);
  std::error_code failure;
  if (fs::exists(path, failure))
    fs::rename(path, path.parent_path() / "exit.previous.json", failure);
  SY_REQUIRE(kStorage, !failure, "cannot rename {}: {}", path.string(), failure.message());
}

void ExitRecorder::write(ExitCode code, const std::string& reason, bool requeue) noexcept {
  try {
    write_or_throw(code, reason, requeue);
  } catch (const std::exception& error) {
    spdlog::warn("no record of how the run ended: {}", error.what());
  }
}

void ExitRecorder::write_or_throw(ExitCode code, const std::string& reason, bool requeue) {
  const std::scoped_lock lock(mutex_);
  if (attempt_ == 0) return;
  std::optional<ExitRecord> written;
  try {
    written = read_exit_record(run_directory_);
  } catch (const Error&) {  // not ours: replaced
  }
  const bool stands = written && written->attempt == attempt_ &&
                      (written->code != ExitCode::kInternal || code == ExitCode::kInternal);
  if (stands) return;
  write_durably(record_path(run_directory_).string(),
                to_json({.code = code,
                         .step = step_,
                         .rank = rank_,
                         .attempt = attempt_,
                         .requeue = requeue,
                         .reason = reason,
                         .time = utc_text(unix_time())}) +
                    "\n",
                rank_);
}

void record_errors(ExitRecorder& recorder, int rank, const std::function<void()>& work) {
  try {
    work();
  } catch (const CollectiveError& error) {
    if (rank == 0) recorder.write(error.code(), error.what());
    throw;
  } catch (const std::exception& error) {
    recorder.write(exit_code_of(error), error.what());
    throw;
  }
}

std::string utc_text(double unix_time) {
  return fmt::format("{:%FT%TZ}", fmt::gmtime(static_cast<std::time_t>(unix_time)));
}

}  // namespace switchyard
