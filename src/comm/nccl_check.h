// Every call of NCCL stands in NCCL_CHECK: what fails throws Error with the group and rank, the
// device, the call, what NCCL says, and a hint where there is one. A call that goes on in the
// background has not failed.
#pragma once

#include <nccl.h>

#include <string>

namespace switchyard::nccl {

// `who` begins the message: "ep (rank 1 of 4)".
void check(ncclResult_t result, const std::string& who, const char* call, const char* file,
           int line);

}  // namespace switchyard::nccl

#define NCCL_CHECK(who, call) ::switchyard::nccl::check((call), (who), #call, __FILE__, __LINE__)
