#include "optim/memory_of_group.h"

#include <fmt/format.h>

namespace switchyard {
namespace {

std::string name_of(const GroupKey& key) {
  const std::string base = key.group == ReplicaGroup::kDense ? "dense" : "experts";
  const std::string part = key.is_partial ? ", partial gradients" : "";
  switch (key.copies) {
    case Copies::kNone:
      return base;
    case Copies::kTensor:
      return base + " with copies on tp" + part;
    case Copies::kKeyValue:
      return base + " with copies of key/value heads" + part;
    case Copies::kTied:
      return base + " tied between stages" + part;
  }
  return base;
}

double millions(int64_t count) { return static_cast<double>(count) / 1e6; }

}  // namespace

std::string MemoryOfGroup::text() const {
  std::string text =
      fmt::format("{} over {} {}: {:.2f} M trained parameters at {:.4g} bytes", name_of(key),
                  key.group == ReplicaGroup::kDense ? "dp" : "edp", num_sharers,
                  millions(trained_elements), bytes_per_trained_element);
  if (frozen_elements > 0) text += fmt::format(", {:.2f} M frozen", millions(frozen_elements));
  text += fmt::format(": {:.1f} MB", millions(allocated_bytes));
  if (padding_bytes + staging_bytes > 0)
    text +=
        fmt::format(" with {:.1f} MB padding and copies", millions(padding_bytes + staging_bytes));
  return text;
}

}  // namespace switchyard
