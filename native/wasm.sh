#!/usr/bin/env bash
# The engine for pages: one WebAssembly module with what wasm.cpp exports; it needs no JavaScript of its own.
#
#     wasm.sh TO.wasm
set -euo pipefail
to=$(realpath -m "$1")
cd "$(dirname "$0")"
mkdir -p "$(dirname "$to")"
flags=(-std=c++20 -O3 -ffp-contract=fast -Wall -Wextra -Werror -Wno-psabi -msimd128 -fwasm-exceptions)
objects=("$to.kernels.o" "$to.level_kernels.o")
em++ "${flags[@]}" -DKERNELS_TABLE=KERNELS_PORTABLE '-DKERNELS_NAME="portable"' -c kernels.cpp -o "${objects[0]}"
em++ "${flags[@]}" -DKERNELS_TABLE=KERNELS_PORTABLE_LEVELS '-DKERNELS_NAME="portable"' -c level_kernels.cpp -o "${objects[1]}"
em++ "${flags[@]}" --no-entry -sSTANDALONE_WASM -sALLOW_MEMORY_GROWTH \
    "${objects[@]}" wasm.cpp plan.cpp run.cpp blocks.cpp threads.cpp dispatch.cpp -o "$to"
