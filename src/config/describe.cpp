// The table of options turned into text: the resolved config, the commented defaults, the schema.
#include <fmt/format.h>

#include <cmath>

#include "config/config.h"
#include "config/options.h"

namespace switchyard {
namespace {

constexpr const char* kDeepSpeedVersion = "0.19.6";

// The keys and sections directly inside `section`, in the order of the tables: keys first.
template <class OnOption, class OnSection>
void for_each_member(std::string_view section, OnOption on_option, OnSection on_section) {
  for (const Option& option : all_options())
    if (parent_of(option.pointer) == section) on_option(option);
  for (const Section& inner : all_sections())
    if (parent_of(inner.pointer) == section) on_section(inner);
}

Json values_of(const RunConfig& config, std::string_view section) {
  Json object = Json::object();
  for_each_member(
      section,
      [&](const Option& option) {
        Json value = option.get(config);
        if (!value.is_null()) object[key_of(option.pointer)] = std::move(value);
      },
      [&](const Section& inner) {
        object[key_of(inner.pointer)] = values_of(config, inner.pointer);
      });
  return object;
}

// Lines of the form   // text   of at most 96 columns.
std::string as_comment(std::string_view text, const std::string& indent) {
  std::string lines;
  while (!text.empty()) {
    const size_t room = 96 - indent.size() - 3;
    size_t length = text.size() <= room ? text.size() : text.rfind(' ', room);
    if (length == std::string_view::npos) length = text.size();
    lines += fmt::format("{}// {}\n", indent, text.substr(0, length));
    text.remove_prefix(std::min(text.size(), length + 1));
  }
  return lines;
}

std::string commented_object(std::string_view section, const std::string& outer_indent) {
  const RunConfig defaults;
  const std::string indent = outer_indent + "  ";
  std::vector<std::string> entries;  // comment and "key": value, without the comma
  std::string pending;               // comments of keys that are left out
  const auto add = [&](const std::string& comment, std::string_view key, const std::string& value) {
    entries.push_back(fmt::format("{}{}{}\"{}\": {}", pending, comment, indent, key, value));
    pending.clear();
  };
  for_each_member(
      section,
      [&](const Option& option) {
        const std::string comment =
            as_comment(fmt::format("{} [{}]", option.description, expectation(option)), indent);
        Json value = option.get(defaults);
        if (!option.example.is_null()) value = option.example;
        if (value.is_null())
          pending += comment + fmt::format("{}// \"{}\":\n", indent, key_of(option.pointer));
        else
          add(comment, key_of(option.pointer), value.dump());
      },
      [&](const Section& inner) {
        add("\n" + (inner.description.empty() ? "" : as_comment(inner.description, indent)),
            key_of(inner.pointer), commented_object(inner.pointer, indent));
      });
  return fmt::format("{{\n{}\n{}{}}}", fmt::join(entries, ",\n"), pending, outer_indent);
}

void add_range(Json& schema, const Range& range) {
  const auto bound = [](double value) {
    return std::trunc(value) == value ? Json(static_cast<int64_t>(value)) : Json(value);
  };
  if (std::isfinite(range.min))
    schema[range.excludes_min ? "exclusiveMinimum" : "minimum"] = bound(range.min);
  if (std::isfinite(range.max))
    schema[range.excludes_max ? "exclusiveMaximum" : "maximum"] = bound(range.max);
}

Json schema_of(const Option& option) {
  Json schema = {{"description", option.description}};
  Json number = {
      {"type", option.kind == OptionKind::kNumber || option.kind == OptionKind::kNumberList
                   ? "number"
                   : "integer"}};
  add_range(number, option.range);
  const Json list = {{"type", "array"}, {"items", number}};
  switch (option.kind) {
    case OptionKind::kBoolean:
      schema["type"] = "boolean";
      break;
    case OptionKind::kString:
      schema["type"] = "string";
      break;
    case OptionKind::kChoice:
      schema["enum"] = option.choices;
      break;
    case OptionKind::kInteger:
    case OptionKind::kNumber:
      schema.update(number);
      break;
    case OptionKind::kNumberList:
    case OptionKind::kIntegerList:
      schema.update(list);
      break;
    case OptionKind::kStringList:
      schema = {
          {"description", option.description}, {"type", "array"}, {"items", {{"type", "string"}}}};
      break;
    case OptionKind::kIntegerOrList:
      schema["anyOf"] = Json::array({number, list});
      break;
  }
  const Json value = option.get(RunConfig{});
  if (option.example.is_null() && !value.is_null()) schema["default"] = value;
  if (!option.example.is_null()) schema["examples"] = Json::array({option.example});
  return schema;
}

Json schema_of_section(std::string_view section) {
  Json properties = Json::object();
  for_each_member(
      section,
      [&](const Option& option) { properties[key_of(option.pointer)] = schema_of(option); },
      [&](const Section& inner) {
        Json schema = schema_of_section(inner.pointer);
        if (!inner.description.empty()) schema["description"] = inner.description;
        properties[key_of(inner.pointer)] = std::move(schema);
      });
  if (section.empty()) properties["$schema"] = {{"type", "string"}};
  return {
      {"type", "object"}, {"additionalProperties", false}, {"properties", std::move(properties)}};
}

}  // namespace

std::string to_json(const RunConfig& config) { return values_of(config, "").dump(2); }

std::string default_config_text() {
  return as_comment(
             fmt::format(
                 "Every key of Switchyard with its default. Keys that DeepSpeed has carry the "
                 "names and defaults of its version {}.",
                 kDeepSpeedVersion),
             "") +
         commented_object("", "");
}

std::string schema_text() {
  Json schema = {{"$schema", "http://json-schema.org/draft-07/schema#"},
                 {"title", "Switchyard configuration"}};
  schema.update(schema_of_section(""));
  schema["required"] = {"data"};
  schema["properties"]["data"]["required"] = {"path"};
  return schema.dump(2);
}

}  // namespace switchyard
