// The C interface of the tri-head tree attention: checks, choice of the kernels, launches.
//
// Nothing here was timed: it was written and tested on machines without a GPU.  The reasons for its shape are
// the counts of bytes and instructions in the comments.

#include <cstdint>

#include "svip/triatt_cuda.h"
#include "triatt_decide.cuh"

namespace svip::triatt {
namespace {

static_assert(kRows == SVIP_TRIATT_CUDA_BLOCK);

int bytes_of(std::int32_t type) { return type == SVIP_FLOAT32 ? 4 : 2; }
bool known(std::int32_t type) { return type >= SVIP_FLOAT32 && type <= SVIP_FLOAT16; }
bool aligned(const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0; }

const char* check_sizes(const Call& call) {
  if (!known(call.kv_type)) return "`kv_type` must be float32, bfloat16 or float16";
  if (!known(call.q_type)) return "`q_type` must be float32, bfloat16 or float16";
  if (call.width < 1 || call.width > kMaxWidth) return "`width` must be 1 to 256";
  if (call.width * bytes_of(call.kv_type) % 16) return "`width` must make a key a multiple of 16 bytes";
  if (call.n_kv_heads != 1 && call.n_kv_heads != 3) return "`n_kv_heads` must be 1 or 3";
  if (call.hidden < 0) return "`hidden` must not be negative";
  if (call.n_rows < 0) return "`n_rows` must not be negative";
  if (call.n_programs < 0) return "`n_programs` must not be negative";
  if (call.n_tiles < 0) return "`n_tiles` must not be negative";
  if (call.q_stride < 0) return "`q_stride` must not be negative";
  return nullptr;
}

const char* check_pointers(const Call& call) {
  if (call.n_tiles > 0) {
    if (!call.k || !call.v) return "`k` and `v` must not be null";
    if (!call.tiles || !call.segment) return "`tiles` and `segment` must not be null";
  }
  if (!aligned(call.k) || !aligned(call.v)) return "`k` and `v` must be aligned to 16 bytes";
  if (call.n_programs > 0) {
    if (!call.q) return "`q` must not be null";
    if (!call.programs) return "`programs` must not be null";
    if (!call.workspace || !aligned(call.workspace))
      return "`workspace` must be aligned to 16 bytes and not null";
  }
  if (!call.slots) return "`slots` must not be null";
  if (!call.next && !call.order) return "`order` must not be null";
  if (call.next && call.q_stride) return "`q_stride` of a scan must be 0";
  if (!call.first_m != !call.first_l || !call.first_m != !call.first_o)
    return "`first_m`, `first_l` and `first_o` must be given together";
  if (!call.u || !call.b) return "`u` and `b` must not be null";
  if (call.hidden && (!call.w || !call.c)) return "`w` and `c` of a head of two layers must not be null";
  if (!call.scores) return "`scores` must not be null";
  if (!call.m != !call.l || !call.m != !call.o) return "`m`, `l` and `o` must be given together";
  return nullptr;
}

// f(T{}, width as a constant) for the smallest width of the kernels that holds the call's.
template <class T, class F>
auto with_width(int width, F f) {
  switch (padded(width)) {
    case 32:
      return f(T{}, std::integral_constant<int, 32>{});
    case 64:
      return f(T{}, std::integral_constant<int, 64>{});
    case 128:
      return f(T{}, std::integral_constant<int, 128>{});
    default:
      return f(T{}, std::integral_constant<int, 256>{});
  }
}

template <class F>
auto with_kernel(std::int32_t type, int width, F f) {
  switch (type) {
    case SVIP_BFLOAT16:
      return with_width<gpu::Bfloat16>(width, f);
    case SVIP_FLOAT16:
      return with_width<gpu::Float16>(width, f);
    default:
      return with_width<float>(width, f);
  }
}

int launch_attend(const Call& call) {
  return with_kernel(call.kv_type, call.width, [&](auto type, auto width) {
    using T = decltype(type);
    constexpr int kWidth = decltype(width)::value;
    const Team team = team_of<T, kWidth>(call);
    return gpu::launch(attend<T, kWidth>, {call.n_programs, call.n_kv_heads}, team.warps() * 32,
                       Memory<T, kWidth>::bytes(team), call.stream, call);
  });
}

int launch_decide(const Call& call) {
  return gpu::launch(decide, {(call.n_rows + kGroup - 1) / kGroup, kDimensions}, kDecideThreads,
                     decide_shared_bytes(), call.stream, call);
}

}  // namespace
}  // namespace svip::triatt

extern "C" {

int32_t svip_triatt_cuda_tile(int32_t kv_type, int32_t width) {
  using namespace svip::triatt;
  if (!known(kv_type) || width < 1 || width > kMaxWidth) return 0;
  return with_kernel(kv_type, width, [](auto type, auto d) {
    return std::int32_t{Shape<decltype(type), decltype(d)::value>::kTile};
  });
}

int64_t svip_triatt_cuda_workspace(int32_t n_programs, int32_t width) {
  return svip::triatt::partial_row(n_programs, 0) * (2 + svip::triatt::padded(width));
}

const char* svip_triatt_cuda_check(const svip_triatt_cuda_call* call) {
  if (!call) return "`call` must not be null";
  if (call->struct_size != static_cast<int32_t>(sizeof *call))
    return "`struct_size` is that of another version";
  if (const char* reason = svip::triatt::check_sizes(*call)) return reason;
  return call->n_rows ? svip::triatt::check_pointers(*call) : nullptr;
}

int svip_triatt_cuda_launch(const svip_triatt_cuda_call* call) {
  if (svip_triatt_cuda_check(call)) return svip::gpu::kInvalidValue;
  if (call->n_rows == 0) return 0;
  const svip::gpu::UseDevice device(call->device);
  if (device.error()) return device.error();
  if (call->n_programs > 0)
    if (const int error = svip::triatt::launch_attend(*call)) return error;
  return svip::triatt::launch_decide(*call);
}

const char* svip_triatt_cuda_error(int code) { return svip::gpu::error_text(code); }
}
