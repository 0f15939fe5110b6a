#include "kernels.h"

namespace mobilenetv2 {

extern const Kernels<float> KERNELS_PORTABLE;
extern const Kernels<Level> KERNELS_PORTABLE_LEVELS;
#if defined(__x86_64__)
extern const Kernels<float> KERNELS_AVX2, KERNELS_AVX512;
extern const Kernels<Level> KERNELS_AVX2_LEVELS, KERNELS_AVX512_LEVELS;

namespace {
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool has_avx512() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
}  // namespace
#endif

template <>
std::vector<const Kernels<float>*> all_kernels<float>() {
    std::vector<const Kernels<float>*> found;
#if defined(__x86_64__)
    if (has_avx512()) found.push_back(&KERNELS_AVX512);
    if (has_avx2()) found.push_back(&KERNELS_AVX2);
#endif
    found.push_back(&KERNELS_PORTABLE);
    return found;
}

template <>
std::vector<const Kernels<Level>*> all_kernels<Level>() {
    std::vector<const Kernels<Level>*> found;
#if defined(__x86_64__)
    if (has_avx512() && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vnni") &&
        __builtin_cpu_supports("avx512vbmi"))
        found.push_back(&KERNELS_AVX512_LEVELS);
    if (has_avx2()) found.push_back(&KERNELS_AVX2_LEVELS);
#endif
    found.push_back(&KERNELS_PORTABLE_LEVELS);
    return found;
}

}  // namespace mobilenetv2
