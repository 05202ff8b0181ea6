// `switchyard inspect STEP`: what a checkpoint holds, from its manifest.
#pragma once

#include <string>

namespace switchyard {

// Sizes by role, files, training state, layout; with `tensors`, a line for each tensor too. Error
// (kData): the manifest is missing or not valid. What else is wrong is said in the text.
std::string step_text(const std::string& step_directory, bool tensors);

}  // namespace switchyard
