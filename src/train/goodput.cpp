#include "train/goodput.h"

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "core/log.h"
#include "train/durable_text.h"
#include "train/postmortem.h"

namespace switchyard {
namespace {

constexpr double kSecondsBetweenSaves = 10;

size_t index_of(TimeBucket bucket) { return static_cast<size_t>(bucket); }

GoodputReport report_of(const nlohmann::json& json) {
  GoodputReport report;
  for (size_t i = 0; i < kNumTimeBuckets; ++i)
    report.seconds[i] = json.at("seconds").at(name_of(static_cast<TimeBucket>(i))).get<double>();
  report.wall_s = json.at("wall_s").get<double>();
  report.attempts = json.at("attempts").get<int64_t>();
  return report;
}

}  // namespace

const char* name_of(TimeBucket bucket) {
  constexpr std::array<const char*, kNumTimeBuckets> names = {
      "productive", "init", "data", "checkpoint", "load", "recompute", "hang", "down"};
  return names[index_of(bucket)];
}

nlohmann::ordered_json to_json(const GoodputReport& report) {
  nlohmann::ordered_json seconds = nlohmann::ordered_json::object();
  for (size_t i = 0; i < kNumTimeBuckets; ++i)
    seconds[name_of(static_cast<TimeBucket>(i))] = report.seconds[i];
  return {{"wall_s", report.wall_s},
          {"ettr", report.ettr()},
          {"attempts", report.attempts},
          {"seconds", seconds}};
}

std::string to_text(const GoodputReport& report) {
  std::string text =
      fmt::format("wall time {:.1f} s in {} attempt{}, {:.1f} % of it productive:", report.wall_s,
                  report.attempts, report.attempts == 1 ? "" : "s", 100 * report.ettr());
  for (size_t i = 0; i < kNumTimeBuckets; ++i)
    if (report.seconds[i] > 0)
      text += fmt::format(" {} {:.1f} s,", name_of(static_cast<TimeBucket>(i)), report.seconds[i]);
  text.pop_back();
  return text;
}

std::optional<GoodputReport> read_goodput(const std::string& path) {
  std::ifstream file(path);
  if (!file.is_open()) return std::nullopt;
  try {
    return report_of(nlohmann::json::parse(file));
  } catch (const nlohmann::json::exception&) {
    return std::nullopt;
  }
}

Goodput::Goodput(std::string path, std::function<double()> now)
    : path_(std::move(path)), now_(std::move(now)) {
  last_ = first_start_ = now_();
  if (std::ifstream file(path_); file.is_open()) {
    try {
      const auto json = nlohmann::json::parse(file);
      GoodputReport sums = report_of(json);
      const double until = json.at("until").get<double>();
      furthest_step_ = json.at("furthest_step").get<int64_t>();
      // A clock that was set back makes no negative time.
      sums.seconds[index_of(TimeBucket::kDown)] += std::max(0.0, last_ - until);
      first_start_ = last_;
      for (const double seconds : sums.seconds) first_start_ -= seconds;
      sums_ = sums;
    } catch (const nlohmann::json::exception& error) {
      spdlog::warn("{} cannot be read, the account of wall time begins anew: {}", path_,
                   error.what());
    }
  }
  ++sums_.attempts;
}

void Goodput::resume(int64_t step, int64_t furthest_step) {
  const std::scoped_lock lock(mutex_);
  furthest_step_ = std::max({furthest_step_, furthest_step, step});
}

void Goodput::advance() {
  const double now = std::max(now_(), last_);
  sums_.seconds[index_of(bucket_)] += now - last_;
  last_ = now;
}

TimeBucket Goodput::enter(TimeBucket bucket) {
  const std::scoped_lock lock(mutex_);
  advance();
  return std::exchange(bucket_, bucket);
}

TimeBucket Goodput::bucket_of_step(int64_t step) const {
  return step <= furthest_step_ ? TimeBucket::kRecompute : TimeBucket::kProductive;
}

// Of the seconds that went to the bucket at hand, so many to another.
void Goodput::move(TimeBucket to, double seconds) {
  double& from = sums_.seconds[index_of(bucket_)];
  const double moved = std::clamp(seconds, 0.0, from);
  from -= moved;
  sums_.seconds[index_of(to)] += moved;
}

void Goodput::begin_steps(int64_t step) {
  const std::scoped_lock lock(mutex_);
  advance();
  bucket_ = bucket_of_step(step + 1);
}

void Goodput::finish_step(int64_t step, double data_s) {
  bool is_due = false;
  {
    const std::scoped_lock lock(mutex_);
    advance();
    move(TimeBucket::kData, data_s);
    furthest_step_ = std::max(furthest_step_, step);
    bucket_ = bucket_of_step(step + 1);
    is_due = last_ - saved_at_ >= kSecondsBetweenSaves;
  }
  if (is_due) write_whole_file(path_, file_text());
}

void Goodput::end_in_hang(double seconds) {
  {
    const std::scoped_lock lock(mutex_);
    advance();
    move(TimeBucket::kHang, seconds);
    bucket_ = TimeBucket::kHang;
  }
  save();
}

GoodputReport Goodput::report() {
  const std::scoped_lock lock(mutex_);
  advance();
  sums_.wall_s = last_ - first_start_;
  return sums_;
}

std::string Goodput::file_text() {
  nlohmann::ordered_json json = to_json(report());
  const std::scoped_lock lock(mutex_);
  json["until"] = last_;
  json["furthest_step"] = furthest_step_;
  saved_at_ = last_;
  return json.dump(2) + "\n";
}

void Goodput::save() {
  try {
    write_durably(path_, file_text());
  } catch (const Error& error) {
    spdlog::warn("the account of wall time was not saved: {}", error.what());
  }
}

Goodput::Guard::Guard(Goodput* goodput, TimeBucket bucket) : goodput_(goodput) {
  if (goodput_ != nullptr) before_ = goodput_->enter(bucket);
}

Goodput::Guard::~Guard() {
  if (goodput_ != nullptr) goodput_->enter(before_);
}

}  // namespace switchyard
