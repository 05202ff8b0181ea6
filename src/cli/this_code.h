// Which program this is. The answer is a source file that each build makes anew and that changes,
// and is compiled, only when something in it does (cmake/WriteThisCode.cmake).
#pragma once

#include "core/code_info.h"

namespace switchyard {

CodeInfo this_code();

}  // namespace switchyard
