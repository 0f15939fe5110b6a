# `make demo` and `make test` set up everything they need, in .venv; nothing else on the machine is touched.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all test-export lint types clean

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
EXPORTS ?= onnx openvino litert executorch ncnn coreml
RECORD ?= src/mobilenetv2/exports/validated.json
TESTS ?= tests/exports

test-export: $(EXPORTS:%=test-export-%)

test-export-%:
	$(PYTHON) -m venv .export/$*
	.export/$*/bin/pip install --quiet --upgrade pip
	.export/$*/bin/pip install --quiet -e '.$(if $(filter onnx,$*),,[$*])' pytest
	MOBILENETV2_RECORD=$(if $(RECORD),$(CURDIR)/$(RECORD)) .export/$*/bin/pytest -q -p no:anyio $(TESTS) -k "$*"

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: .venv/ready
	$(BIN)/mypy

clean:
	rm -rf .venv .export demo runs .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
