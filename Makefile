# `make demo` and `make test` set up everything they need, in .venv; nothing else on the machine is touched.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all test-export drawn sanitize arm64 wasm lint types clean

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -e '.[dev]'
	touch $@

demo: .venv/ready
	$(BIN)/mobilenetv2 demo

test: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile -m "not slow"

test-all: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile

# Every row of docs/exports.md that runs here and each target's own tests, in an environment of its own; writes the dated
# record. RECORD= leaves that alone, TESTS=tests/exports/test_rows.py takes the rows alone.
EXPORTS ?= onnx native openvino litert executorch ncnn coreml
RECORD ?= src/mobilenetv2/exports/validated.json
TESTS ?= tests/exports

test-export: $(EXPORTS:%=test-export-%)

test-export-%:
	$(PYTHON) -m venv .export/$*
	.export/$*/bin/pip install --quiet --upgrade pip
	.export/$*/bin/pip install --quiet -e '.$(if $(filter onnx native,$*),,[$*])' pytest
	MOBILENETV2_RECORD=$(if $(RECORD),$(CURDIR)/$(RECORD)) .export/$*/bin/pytest -q -p no:anyio $(TESTS) -k "$*"

# The fused engine's core without Python: drawn networks against plain loops in double precision, for DRAW seconds.
DRAW ?= 10

drawn:
	native/tests/build.sh $(CXX) build/native/drawn
	build/native/drawn $(DRAW)

# The same with sanitizers.
sanitize:
	native/tests/build.sh $(CXX) build/native/address address undefined
	build/native/address $(DRAW)
	native/tests/build.sh $(CXX) build/native/thread thread
	build/native/thread $(DRAW)

# The same for arm64, run by an emulator; Debian's packages g++-aarch64-linux-gnu and qemu-user.
arm64:
	native/tests/build.sh aarch64-linux-gnu-g++ build/native/arm64
	qemu-aarch64 -L /usr/aarch64-linux-gnu build/native/arm64 $(DRAW)

# The same for WebAssembly with its vectors, and the module for pages: a network is built through it, from JavaScript. Debian's
# package emscripten.
wasm:
	native/tests/build.sh em++ build/native/drawn.js
	node build/native/drawn.js $(DRAW)
	native/wasm.sh build/native/engine.wasm
	node native/tests/wasm.mjs build/native/engine.wasm

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: .venv/ready
	$(BIN)/mypy

clean:
	rm -rf .venv .export demo runs .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
