// Changes of a configuration between the checkpoint of a run and the job that resumes it. Each key
// has a class (OptionClass in config/options.h): `model` keys never change; changes of
// `mathematics` are refused unless the user names the key in --override; `layout` and `operations`
// are free.
//
// Numbers are equal on every layout because micro-batch m is always the same consecutive sequences
// of the batch. So train_batch_size and gradient_accumulation_steps are mathematics, and with
// another data_parallel_size the micro-batch of a rank has to follow: micro * dp stays.
//
// A value that resolve() derived from another key counts as what it is: a longer max_steps is free,
// but where the learning rate decays until max_steps, the change of the decay shows. Parameters
// that the scheduler's type does not read are passed over.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "config/options.h"

namespace switchyard {

struct ConfigChange {
  std::string pointer;  // "/optimizer/params/lr"
  OptionClass option_class = OptionClass::kModel;
  Json before = nullptr, after = nullptr;  // null: not set
};

// "optimizer.params.lr: 0.001 -> 0.0005"
std::string to_text(const ConfigChange& change);

// In the order of the table. `saved` is a resolved configuration as to_json(RunConfig) writes it,
// perhaps by another version: keys it lacks have their defaults. Error (kData): a value that its
// key does not allow, a key that this version does not know.
std::vector<ConfigChange> compare(const Json& saved, const RunConfig& now);

// The changes that a resume may make, for the log. Error (kConfig) that lists every change that is
// refused and how to go on; `overrides` are keys with dots, as on the command line
// ("optimizer.params.lr").
std::vector<ConfigChange> check_changes(const Json& saved, const RunConfig& now,
                                        std::span<const std::string> overrides);

}  // namespace switchyard
