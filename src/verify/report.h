// What verify tells its user, as text.
#pragma once

#include <string>

#include "verify/verify.h"

namespace switchyard {

// Steps, checks (all of them, or the worst and whatever failed), what is at fault, and the verdict
// as the last line.
std::string report_text(const Verification& verification, bool all_checks);

}  // namespace switchyard
