// The table of all options: what binds a JSON key to a field of RunConfig. Parsing, the resolved
// config.json, `config --defaults` and `config --schema` are all made from it.
#pragma once

#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "config/run_config.h"

namespace switchyard {

using Json = nlohmann::ordered_json;

struct Range {
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  bool excludes_min = false;
  bool excludes_max = false;
};

enum class OptionKind {
  kBoolean,
  kInteger,
  kNumber,
  kString,
  kChoice,
  kIntegerList,
  kIntegerOrList,
  kNumberList,
  kStringList
};

// What a change of the key means to a run that resumes from a checkpoint (config/changes.h).
enum class OptionClass {
  kModel,        // which tensors there are: never changes
  kMathematics,  // what the next steps compute: changes only when the user says so, by name
  kLayout,       // where it is computed: free, numbers depend on it by their rounding alone
  kOperations    // how long, how often, what is printed and kept: free
};

struct Option {
  std::string pointer;  // JSON pointer (RFC 6901): "/moe/top_k"
  std::string description;
  OptionClass option_class = OptionClass::kModel;
  OptionKind kind = OptionKind::kString;
  Range range = {};                       // of the number, or of each number of a list
  std::vector<std::string> choices = {};  // kChoice: the names, in the order of the enum
  Json example = nullptr;                 // for `config --defaults`, of options without a default
  std::function<void(RunConfig&, const Json&)> set = nullptr;  // of a value without a problem
  std::function<Json(const RunConfig&)> get = nullptr;         // null: left out
};

const std::vector<Option>& all_options();

// The sections of the file ("/optimizer/params") with their descriptions, outer before inner.
struct Section {
  std::string_view pointer;
  std::string_view description;
};
const std::vector<Section>& all_sections();

const Option* find_option(std::string_view pointer);
bool is_section(std::string_view pointer);

// What is wrong with this value of the option: "found 3.9, expected an integer of at least 1".
std::optional<std::string> problem_with(const Option& option, const Json& value);

// "an integer of at least 1", for messages and the schema's readers.
std::string expectation(const Option& option);

// "/moe" and "top_k" of "/moe/top_k".
std::string_view parent_of(std::string_view pointer);
std::string_view key_of(std::string_view pointer);

}  // namespace switchyard
