#!/usr/bin/env bash
# The engine's core with drawn.cpp, without Python.
#
#     build.sh COMPILER TO [SANITIZER ...]      sanitizers: address, undefined, thread
#
# The kernels, unrolled as they are, take minutes with UBSan; their arithmetic is in floats, and what they read and write
# is AddressSanitizer's affair.
set -euo pipefail
compiler=$1 to=$(realpath -m "$2") sanitizers=("${@:3}")
cd "$(dirname "$0")/.."
mkdir -p "$(dirname "$to")"
flags=(-std=c++20 -O2 -g -ffp-contract=fast -Wall -Wextra -Werror)
machine=$("$compiler" -dumpmachine) link=(-pthread)
if [[ $machine == wasm32* ]]; then
    flags+=(-msimd128 -fwasm-exceptions)
    link=(-sALLOW_MEMORY_GROWTH -sEXIT_RUNTIME -sENVIRONMENT=node -sWASM_ASYNC_COMPILATION=0)
fi
checked=() kernels=()
for each in "${sanitizers[@]}"; do
    checked+=("-fsanitize=$each" "-fno-sanitize-recover=$each")
    [ "$each" = undefined ] || kernels+=("-fsanitize=$each")
done
compile() {
    local names=("-DKERNELS_TABLE=$1" "-DKERNELS_NAME=\"$2\"")
    "$compiler" "${flags[@]}" -Wno-psabi "${kernels[@]}" "${names[@]}" "${@:3}" -c kernels.cpp -o "$to.$1.o"
}
compile KERNELS_PORTABLE portable
objects=("$to.KERNELS_PORTABLE.o")
if [[ $machine == x86_64* ]]; then
    compile KERNELS_AVX2 "AVX2 and FMA" -mavx2 -mfma
    # GCC 12 finds uninitialised values in its own avx512fintrin.h.
    compile KERNELS_AVX512 AVX-512 -mavx512f -mavx512vl -mavx512dq -mavx2 -mfma -Wno-uninitialized \
        -Wno-maybe-uninitialized
    objects+=("$to.KERNELS_AVX2.o" "$to.KERNELS_AVX512.o")
fi
core=(plan.cpp run.cpp threads.cpp dispatch.cpp)
"$compiler" "${flags[@]}" "${checked[@]}" tests/drawn.cpp "${core[@]}" "${objects[@]}" "${link[@]}" -o "$to"
