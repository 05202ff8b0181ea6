#include "config/config.h"

#include <optional>

#include "config/report.h"
#include "config/suggest.h"
#include "core/error.h"

namespace switchyard {
namespace {

void read_value(const Option& option, const Node& node, RunConfig& config, Report& report) {
  const std::optional<std::string> problem = problem_with(option, node.value);
  if (!problem) {
    option.set(config, node.value);
    return;
  }
  std::string hint;
  if (option.kind == OptionKind::kChoice && node.value.is_string())
    if (const std::string near = nearest(node.value.get<std::string>(), option.choices);
        !near.empty())
      hint = fmt::format("; did you mean \"{}\"?", near);
  report.add(option.pointer, *problem + hint);
}

void read_object(const Node& object, RunConfig& config, Report& report) {
  for (const Node& member : object.members) {
    if (member.pointer == "/$schema") continue;  // tells an editor which schema to use
    const Option* option = find_option(member.pointer);
    if (is_section(member.pointer)) {
      if (member.is_object)
        read_object(member, config, report);
      else
        report.add(member.pointer,
                   fmt::format("found {}, expected an object {{ ... }}", member.value.dump()));
    } else if (option == nullptr) {
      report.add(member.pointer, "unknown key" + hint_for_unknown_key(member.pointer));
    } else if (member.is_object) {
      report.add(member.pointer, "found an object, expected " + expectation(*option));
    } else {
      read_value(*option, member, config, report);
    }
  }
}

// Resolved where the number of ranks is given.
RunConfig read_config(const ConfigSource& source, std::optional<int> num_ranks) {
  Report report(source.name);
  Node root = parse_document(source.name, source.text, report.problems());
  const bool is_json = report.is_sound({""});
  for (const std::string& assignment : source.overrides)
    apply_override(root, assignment, report.problems());
  report.set_document(&root);
  RunConfig config;
  read_object(root, config, report);
  if (is_json && num_ranks) resolve(config, *num_ranks, report);
  report.throw_if_any();
  return config;
}

}  // namespace

void Report::throw_if_any() const {
  if (problems_.empty()) return;
  std::string text =
      problems_.size() == 1 ? "" : fmt::format("{} errors in the configuration", problems_.size());
  for (const Problem& problem : problems_) text += (text.empty() ? "" : "\n  ") + problem.text;
  throw Error(ExitCode::kConfig, text);
}

RunConfig load_config(const ConfigSource& source, int num_ranks) {
  return read_config(source, num_ranks);
}

RunConfig parse_config(const ConfigSource& source) { return read_config(source, std::nullopt); }

void resolve(RunConfig& config, int num_ranks) {
  Report report("configuration");
  resolve(config, num_ranks, report);
  report.throw_if_any();
}

}  // namespace switchyard
