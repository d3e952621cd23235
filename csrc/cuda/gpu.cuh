// The few instructions of the hardware that the kernels use, one function each.
//
// The tests define SVIP_CUDA_EMULATOR as a header that does the same on a CPU, so that the kernels' own
// source runs, thread by thread, on a machine without a GPU.

#pragma once

#include <cstddef>
#include <cstdint>

namespace svip::gpu {

// Storage of the 16-bit floats; arithmetic is always in float.
struct Bfloat16 {
  std::uint16_t bits;
};
struct Float16 {
  std::uint16_t bits;
};

struct Grid {
  int x, y;
};

}  // namespace svip::gpu

#ifdef SVIP_CUDA_EMULATOR
#include SVIP_CUDA_EMULATOR
#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

namespace svip::gpu {

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(Bfloat16 x) { return __bfloat162float(__ushort_as_bfloat16(x.bits)); }
__device__ inline float to_float(Float16 x) { return __half2float(__ushort_as_half(x.bits)); }

__device__ inline void round_to(float x, float& out) { out = x; }
__device__ inline void round_to(float x, Bfloat16& out) {
  out.bits = __bfloat16_as_ushort(__float2bfloat16_rn(x));
}
__device__ inline void round_to(float x, Float16& out) { out.bits = __half_as_ushort(__float2half_rn(x)); }

__device__ inline char* shared_memory() {
  extern __shared__ __align__(16) char memory[];
  return memory;
}

__device__ inline void sync_block() { __syncthreads(); }
__device__ inline void sync_warp() { __syncwarp(); }
__device__ inline float shuffle_xor(float x, int mask) { return __shfl_xor_sync(~0u, x, mask); }

__device__ inline unsigned shared_address(const void* shared) {
  return static_cast<unsigned>(__cvta_generic_to_shared(shared));
}

// Starts a copy of `bytes` (0 or 16) from global memory; the rest of the 16 bytes becomes zero.
__device__ inline void copy16(void* shared, const void* global, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
               "r"(bytes)
               : "memory");
}
__device__ inline void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most `kNewest` of the committed groups are under way.
template <int kNewest>
__device__ inline void copies_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kNewest) : "memory");
}

// Lane i gives the address of row i % 8 of 8x8 matrix i / 8.  Lane 4 r + c receives of every matrix the
// elements (r, 2 c) and (r, 2 c + 1), and those of the transposed matrix from load_matrices_transposed.
__device__ inline void load_matrices(std::uint32_t (&out)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared_address(row))
               : "memory");
}
__device__ inline void load_matrices_transposed(std::uint32_t (&out)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared_address(row))
               : "memory");
}

// out [16, 8] += a [16, 16] b [16, 8].  With g = lane / 4 and t = lane % 4 a lane holds
//   a: (g, 2t..) (g + 8, 2t..) (g, 2t + 8..) (g + 8, 2t + 8..)      b: (2t.., g) (2t + 8.., g)
//   out: (g, 2t) (g, 2t + 1) (g + 8, 2t) (g + 8, 2t + 1)            where 2t.. means 2t and 2t + 1.
#define SVIP_MMA(TYPE, NAME)                                                                      \
  __device__ inline void multiply(float (&out)[4], const std::uint32_t (&a)[4], std::uint32_t b0, \
                                  std::uint32_t b1, TYPE) {                                       \
    asm("mma.sync.aligned.m16n8k16.row.col.f32." NAME "." NAME                                    \
        ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                    \
        : "+f"(out[0]), "+f"(out[1]), "+f"(out[2]), "+f"(out[3])                                  \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));                          \
  }
SVIP_MMA(Bfloat16, "bf16")
SVIP_MMA(Float16, "f16")
#undef SVIP_MMA

template <class Call>
int launch(void (*kernel)(Call), Grid grid, int threads, std::size_t shared, void* stream, const Call& call) {
  // A block has 48 KB unless it asks for more.
  cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
  if (error == cudaSuccess) {
    const dim3 blocks(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y));
    void* arguments[] = {const_cast<Call*>(&call)};
    error = cudaLaunchKernel(kernel, blocks, dim3(static_cast<unsigned>(threads)), arguments, shared,
                             static_cast<cudaStream_t>(stream));
  }
  if (error != cudaSuccess) cudaGetLastError();  // or the next launch would be told of it again
  return static_cast<int>(error);
}

// Makes `device` the current one for as long as it lives.
class UseDevice {
 public:
  explicit UseDevice(int device) {
    error_ = cudaGetDevice(&before_);
    if (error_ == cudaSuccess && device >= 0 && device != before_) {
      error_ = cudaSetDevice(device);
      changed_ = error_ == cudaSuccess;
    }
    if (error_ != cudaSuccess) cudaGetLastError();
  }
  ~UseDevice() {
    if (changed_) cudaSetDevice(before_);
  }
  UseDevice(const UseDevice&) = delete;
  UseDevice& operator=(const UseDevice&) = delete;
  int error() const { return static_cast<int>(error_); }

 private:
  int before_ = 0;
  bool changed_ = false;
  cudaError_t error_;
};

inline const char* error_text(int code) { return cudaGetErrorString(static_cast<cudaError_t>(code)); }
inline constexpr int kInvalidValue = cudaErrorInvalidValue;

}  // namespace svip::gpu

#endif
