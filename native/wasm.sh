#!/usr/bin/env bash
# The engine for pages: one WebAssembly module with what wasm.cpp exports; it needs no JavaScript of its own.
#
#     wasm.sh TO.wasm
set -euo pipefail
to=$(realpath -m "$1")
cd "$(dirname "$0")"
mkdir -p "$(dirname "$to")"
em++ -std=c++20 -O3 -ffp-contract=fast -Wall -Wextra -Werror -Wno-psabi -msimd128 -fwasm-exceptions \
    -DKERNELS_TABLE=KERNELS_PORTABLE '-DKERNELS_NAME="portable"' --no-entry -sSTANDALONE_WASM -sALLOW_MEMORY_GROWTH \
    kernels.cpp wasm.cpp plan.cpp run.cpp threads.cpp dispatch.cpp -o "$to"
