#include "kernels.h"

namespace mobilenetv2 {

extern const Kernels KERNELS_PORTABLE;
#if defined(__x86_64__)
extern const Kernels KERNELS_AVX2;
extern const Kernels KERNELS_AVX512;
#endif

std::vector<const Kernels*> all_kernels() {
    std::vector<const Kernels*> found;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
        found.push_back(&KERNELS_AVX512);
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.push_back(&KERNELS_AVX2);
#endif
    found.push_back(&KERNELS_PORTABLE);
    return found;
}

}  // namespace mobilenetv2
