// How a C++ field becomes an Option: its kind, its setter from JSON and its getter to JSON, all
// deduced from the field's type. Used by options.cpp alone.
#pragma once

#include <algorithm>
#include <array>
#include <type_traits>
#include <utility>

#include "config/options.h"

namespace switchyard {

// The JSON names of an enum's values, in their order. Specialised for each enum in options.cpp.
template <class Enum>
constexpr std::array<const char*, 0> kNamesOf = {};

template <class T>
struct IsOptional : std::false_type {};
template <class T>
struct IsOptional<std::optional<T>> : std::true_type {};

template <class T>
constexpr OptionKind kind_of() {
  if constexpr (std::is_same_v<T, bool>)
    return OptionKind::kBoolean;
  else if constexpr (std::is_enum_v<T>)
    return OptionKind::kChoice;
  else if constexpr (std::is_integral_v<T>)
    return OptionKind::kInteger;
  else if constexpr (std::is_floating_point_v<T>)
    return OptionKind::kNumber;
  else if constexpr (std::is_same_v<T, std::vector<int>>)
    return OptionKind::kIntegerOrList;
  else if constexpr (std::is_same_v<T, std::vector<int64_t>>)
    return OptionKind::kIntegerList;
  else if constexpr (std::is_same_v<T, std::vector<std::string>>)
    return OptionKind::kStringList;
  else if constexpr (std::is_same_v<T, std::vector<double>>)
    return OptionKind::kNumberList;
  else
    return OptionKind::kString;
}

template <class T>
T value_from_json(const Json& json) {
  if constexpr (IsOptional<T>::value) {
    return value_from_json<typename T::value_type>(json);
  } else if constexpr (std::is_enum_v<T>) {
    const auto& names = kNamesOf<T>;
    return static_cast<T>(std::find(names.begin(), names.end(), json.template get<std::string>()) -
                          names.begin());
  } else if constexpr (std::is_same_v<T, std::vector<int>>) {
    return json.is_array() ? json.template get<T>() : T{json.template get<int>()};
  } else {
    return json.template get<T>();
  }
}

template <class T>
Json value_to_json(const T& value) {
  if constexpr (IsOptional<T>::value)
    return value ? value_to_json(*value) : Json(nullptr);
  else if constexpr (std::is_enum_v<T>)
    return kNamesOf<T>[static_cast<size_t>(value)];
  else if constexpr (std::is_same_v<T, std::vector<int>>)
    return value.size() == 1 ? Json(value[0]) : Json(value);
  else
    return value;
}

// The limits of the field's own type narrow what the table allows. 64-bit integers end at 2^53:
// above, other readers of the file would lose digits.
template <class T>
Range within_type(Range range) {
  if constexpr (std::is_integral_v<T>) {
    range.min = std::max(range.min, static_cast<double>(std::numeric_limits<T>::min()));
    range.max = std::min({range.max, 0x1p53, static_cast<double>(std::numeric_limits<T>::max())});
  }
  return range;
}

// `name` is the field's path in RunConfig and, with slashes, the key's path in the file.
template <class FieldOf>
Option bind(std::string name, OptionClass option_class, FieldOf field_of, std::string description,
            Range range = {}) {
  using Field = std::remove_reference_t<decltype(field_of(std::declval<RunConfig&>()))>;
  using Value = decltype([] {
    if constexpr (IsOptional<Field>::value)
      return typename Field::value_type{};
    else
      return Field{};
  }());
  std::replace(name.begin(), name.end(), '.', '/');
  Option option{.pointer = "/" + name,
                .description = std::move(description),
                .option_class = option_class,
                .kind = kind_of<Value>(),
                .range = within_type<Value>(range)};
  if constexpr (std::is_enum_v<Value>)
    option.choices.assign(kNamesOf<Value>.begin(), kNamesOf<Value>.end());
  if constexpr (std::is_same_v<Value, std::vector<int>>) option.range = within_type<int>(range);
  option.set = [field_of](RunConfig& config, const Json& json) {
    field_of(config) = value_from_json<Field>(json);
  };
  option.get = [field_of](const RunConfig& config) { return value_to_json(field_of(config)); };
  return option;
}

}  // namespace switchyard
