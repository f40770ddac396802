# Works from a clean clone: `make demo` runs the demo, `make test` runs the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
OUT ?= out
TINY ?=

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast test-slow test-cpus test-lowest coverage gpu check shapes docs package lock audit sbom bench tiny clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

# Use uv if it is installed, unless pip is configured (index, constraints): uv would ignore that configuration.
UV ?= $(if $(shell $(PYTHON) -m pip config list 2>/dev/null),,$(shell command -v uv 2>/dev/null))
PIP = $(if $(UV),$(UV) pip install -q --python $(BIN)/python,$(BIN)/python -m pip --disable-pip-version-check install -q)

# On Linux, the default index has CUDA builds of torch: half a gigabyte, plus NVIDIA's libraries. Without an NVIDIA GPU,
# torch comes from PyTorch's index of CPU builds. If that cannot be reached (behind a mirror, offline) or lacks the
# version in constraints.txt, torch comes from the default index, as with TORCH=cuda.
NVIDIA ?= /dev/nvidia0
TORCH ?= $(if $(shell command -v nvidia-smi 2>/dev/null)$(wildcard $(NVIDIA))$(filter-out Linux,$(shell uname -s)),cuda,cpu)
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
ifeq ($(TORCH),cpu)
define INSTALL_TORCH
@$(BIN)/python -c "from urllib.request import urlopen; urlopen('$(TORCH_INDEX)/torch/', timeout=10)" 2>/dev/null \
  && $(PIP) -c constraints.txt $(PIN) --index-url $(TORCH_INDEX) torch \
  || echo "installing torch from the default index: $(TORCH_INDEX) cannot be reached or lacks this version"
endef
endif

# One stamp per set of extras. Installs are editable, so they only depend on the metadata.
$(VENV)/.base: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL_TORCH)
	$(PIP) -c constraints.txt -e .
	@touch $@

# LOCKED=1 installs the packages in requirements.lock by hash, but torch and torchao by version (see scripts/lock.py).
LOCKED ?=
$(VENV)/.dev: pyproject.toml constraints.txt $(if $(LOCKED),requirements.lock)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
ifeq ($(LOCKED),)
	$(INSTALL_TORCH)
	$(PIP) -c constraints.txt $(PIN) -e '.[train,dev]'
else
	$(PIP) --no-deps --require-hashes -r requirements.lock
	$(INSTALL_TORCH)
	$(PIP) --no-deps -c constraints.txt torch torchao
	$(PIP) --no-deps --no-build-isolation -e .
endif
	@touch $@ $(VENV)/.base

demo: $(VENV)/.base  ## animate a rendered person and a photograph: OUT/demo.mp4, OUT/photograph.mp4
	@mkdir -p $(OUT)
	$(BIN)/mimicmotion demo -o $(OUT)

# Files run in alphabetical order, so the long integration tests start first.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: $(VENV)/.dev  ## run the tests
	$(PYTEST) -m "not slow"

test-fast: $(VENV)/.dev  ## run the unit tests, within a minute
	$(PYTEST) -q -m "not slow and not whole" tests/unit

test-slow: $(VENV)/.dev  ## run the slow tests (also benchmarks and docs), with more random examples
	$(BIN)/python -m pytest -m "slow or hypothesis" --hypothesis-profile=many

test-lowest:  ## run the tests with the lowest versions that pyproject.toml allows (except torch)
	$(MAKE) test VENV=.venv-lowest LOCKED= PIN="-c .venv-lowest/lowest.txt"

# These constraints are written before anything is installed into .venv-lowest.
.venv-lowest/lowest.txt: pyproject.toml scripts/lowest.py
	test -x .venv-lowest/bin/python || $(PYTHON) -m venv .venv-lowest
	$(PYTHON) scripts/lowest.py > $@
ifneq ($(PIN),)
$(VENV)/.dev: $(VENV)/lowest.txt
endif

NUMBERS := tests/parity tests/integration/test_predicted_memory.py $(wildcard $(patsubst %,tests/unit/test_%.py,attention block_cache conditioning decode denoiser detail \
  execution execution_plan fusion fvd geometry guidance image_encoder latent_warp layers lora loss lpips mask memory_prediction objective picture \
  pipeline posenet quantize sampling schedule solvers tiny_networks trained_parameters unet vae warp))

test-cpus: $(VENV)/.dev  ## run the numerical tests with the instruction sets of older CPUs, on one and two threads
	@set -e; for isa in "default SSE41" "avx2 AVX2"; do set -- $$isa; for threads in 1 2; do \
	  echo "ATEN_CPU_CAPABILITY=$$1 ONEDNN_MAX_CPU_ISA=$$2 OMP_NUM_THREADS=$$threads"; \
	  ATEN_CPU_CAPABILITY=$$1 ONEDNN_MAX_CPU_ISA=$$2 OMP_NUM_THREADS=$$threads \
	    $(BIN)/python -m pytest -q -m "not slow" $(NUMBERS); done; done

coverage: $(VENV)/.dev  ## measure line and branch coverage, and check its minimum
	$(PYTEST) -q -m "not slow" --cov --cov-report=json:.coverage.json
	$(BIN)/python scripts/coverage_floors.py .coverage.json

GPU_PYTHON ?= $(BIN)/python

gpu:  ## run the checks that need a CUDA device, five minutes (GPU_PYTHON: a Python with CUDA torch)
	$(GPU_PYTHON) scripts/gpu_checks.py

SHAPES := mimicmotion.pose,mimicmotion.video,mimicmotion.diffusion
SHAPES_OF := align draw drawn_poses dwpose estimator fusion geometry guidance hands keypoints picture pose_cache \
  pose_files sampling schedule smooth solvers track video_reader video_writer warp

check: $(VENV)/.dev  ## check lint, format, types, layers, structure, shapes and docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check
	$(BIN)/lint-imports
	$(BIN)/python scripts/structure.py
	$(MAKE) shapes
	$(MAKE) docs

shapes: $(VENV)/.dev  ## run the lower layers' tests with all annotated types and shapes checked
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 -p no:cacheprovider --jaxtyping-packages=$(SHAPES),typechecks.checked \
	  $(SHAPES_OF:%=tests/unit/test_%.py)

docs: $(VENV)/.dev  ## build the documentation into site/
	$(BIN)/zensical build --clean --strict

package: $(VENV)/.dev  ## build wheel and sdist, install each in an empty environment, import all modules, run the demo
	rm -rf dist
	$(BIN)/python -m hatchling build -d dist
	$(BIN)/python -m twine check --strict dist/*.whl dist/*.tar.gz
	set -e; for file in dist/*.whl dist/*.tar.gz; do \
	  rm -rf dist/venv; $(PYTHON) -m venv dist/venv; python=$$(ls dist/venv/*/python* | head -1); \
	  $$python -m pip --disable-pip-version-check install -q -c constraints.txt $$file; \
	  $$python scripts/import_all.py; $$(dirname $$python)/mimicmotion demo -o dist/out; done
	rm -rf dist/venv

lock:  ## rewrite requirements.lock: all development packages for all systems, with hashes (needs uv)
	$(PYTHON) scripts/lock.py

audit: $(VENV)/.dev  ## check the installed packages for known vulnerabilities
	$(if $(LOCKED),,$(PIP) -c constraints.txt -e '.[audit]')
	$(BIN)/pip-audit --local --skip-editable

sbom: $(VENV)/.dev  ## write dist/mimicmotion.cdx.json: all packages that the wheel in dist/ installs (CycloneDX)
	$(if $(LOCKED),,$(PIP) -c constraints.txt -e '.[audit]')
	$(PYTHON) -m venv dist/venv
	$$(ls dist/venv/*/python* | head -1) -m pip --disable-pip-version-check install -q -c constraints.txt dist/*.whl
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
	  -o dist/mimicmotion.cdx.json $$(ls dist/venv/*/python* | head -1)
	rm -rf dist/venv

bench: $(VENV)/.dev  ## run the benchmarks, which print one JSON line each
	@set -e; for b in benchmarks/*.py; do OMP_NUM_THREADS=1 $(BIN)/python $$b; done

tiny: $(VENV)/.dev  ## train a small model from scratch (hours on a CPU)
	$(BIN)/python scripts/train_tiny.py $(TINY)

clean:  ## remove what make has built
	rm -rf $(VENV) $(OUT) site .coverage .pytest_cache .ruff_cache
