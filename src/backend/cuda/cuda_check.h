// Every call of the CUDA runtime and of cuBLAS stands in CUDA_CHECK or CUBLAS_CHECK: what fails
// throws Error with the call, the device, what CUDA says, and a hint where there is one.
#pragma once

#include <cublas_v2.h>
#include <cuda_runtime.h>

namespace switchyard::cuda {

void check(cudaError_t status, const char* call, const char* file, int line);
void check(cublasStatus_t status, const char* call, const char* file, int line);

}  // namespace switchyard::cuda

#define CUDA_CHECK(call) ::switchyard::cuda::check((call), #call, __FILE__, __LINE__)
#define CUBLAS_CHECK(call) ::switchyard::cuda::check((call), #call, __FILE__, __LINE__)
