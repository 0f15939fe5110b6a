#include "kernels.h"

namespace mobilenetv2 {

extern const Kernels KERNELS_PORTABLE;
#if defined(__x86_64__)
extern const Kernels KERNELS_AVX2;
#endif

const Kernels& kernels() {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return KERNELS_AVX2;
#endif
    return KERNELS_PORTABLE;
}

}  // namespace mobilenetv2
