#!/usr/bin/env bash
# The engine's core with drawn.cpp, without Python.
#
#     build.sh COMPILER TO [SANITIZER ...]      sanitizers: address, undefined, thread
#
# For sanitizers the kernels' loops are not unrolled, which changes nothing that they read or write and takes minutes. UBSan
# leaves the kernels out, which would double it.
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
    [ "$each" = undefined ] || kernels+=("-fsanitize=$each" -O1 -DUNROLL=)
done
objects=() waited=()
compile() {  # SOURCE KIND NAME FLAG ...
    local object=$to.$1.$2.o names=("-DKERNELS_TABLE=KERNELS_$2" "-DKERNELS_NAME=\"$3\"")
    "$compiler" "${flags[@]}" -Wno-psabi "${kernels[@]}" "${names[@]}" "${@:4}" -c "$1.cpp" -o "$object" &
    waited+=($!) objects+=("$object")
}
compile kernels PORTABLE portable
compile level_kernels PORTABLE_LEVELS portable
if [[ $machine == x86_64* ]]; then
    avx2=(-mavx2 -mfma)
    # GCC 12 finds uninitialised values in its own avx512fintrin.h.
    avx512=("${avx2[@]}" -mavx512f -mavx512vl -mavx512dq -Wno-uninitialized -Wno-maybe-uninitialized
        -Wno-unknown-warning-option)
    compile kernels AVX2 "AVX2 and FMA" "${avx2[@]}"
    compile level_kernels AVX2_LEVELS AVX2 "${avx2[@]}"
    compile kernels AVX512 AVX-512 "${avx512[@]}"
    compile level_kernels AVX512_LEVELS "AVX-512 with VNNI" "${avx512[@]}" -mavx512bw -mavx512vnni -mavx512vbmi
fi
for process in "${waited[@]}"; do wait "$process"; done
core=(plan.cpp run.cpp blocks.cpp threads.cpp dispatch.cpp)
"$compiler" "${flags[@]}" "${checked[@]}" tests/drawn.cpp "${core[@]}" "${objects[@]}" "${link[@]}" -o "$to"
