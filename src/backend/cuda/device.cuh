// The device language: what CUDA C++ says where g++ cannot, and the few instructions that C++ has
// no words for. The only place where a kernel's source differs between nvcc and the emulator of
// tests/cuda_emulator, which compiles every .cu file as C++ and executes it on the host:
//   SHARED_ARRAY(T, name, count)   T name[count] in shared memory, 16-byte aligned, count constant
//   DYNAMIC_SHARED(name)           unsigned char* name: the dynamic shared memory, 128-byte aligned
// and, in namespace switchyard::cuda, for whole warps (PTX ISA, "Warp-level matrix instructions"
// and "Asynchronous copy"):
//   mma_m16n8k16(d, a, b)          d += a b: a 16x16 and b 16x8 bf16 fragments, d 16x8 f32
//   ldmatrix_x4<kTranspose>(r, p)  four 8x8 matrices of 16-bit elements; lane i gives row i
//   cp_async_16(shared, global, valid)   16 bytes, zeros if not `valid`; aligned to 16
//   cp_async_commit(); cp_async_wait<n>()  all but the newest n groups have arrived, for this
//   thread
// Kernels stay within mma.sync, ldmatrix and cp.async; no wgmma, clusters or grid-wide barriers.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

#if defined(SWITCHYARD_CUDA_EMULATED)
#include <cuda_emulator/device.h>
#else

#define SHARED_ARRAY(T, name, count) __shared__ __align__(16) T name[count]
#define DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]

namespace switchyard::cuda {

__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4],
                                             const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

template <bool kTranspose>
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  if constexpr (kTranspose)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

__device__ __forceinline__ void cp_async_16(void* shared, const void* global, bool valid) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(address), "l"(global),
               "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void cp_async_commit() {
  asm volatile("cp.async.commit_group;\n" ::: "memory");
}
template <int kNewest>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kNewest) : "memory");
}

}  // namespace switchyard::cuda

#endif
