# Everything from a clean clone: `make demo` shows what it does, `make test` runs the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
OUT ?= out
TINY ?=

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast test-slow test-cpus test-lowest coverage gpu check shapes docs package lock audit sbom bench tiny clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

# uv installs where it is there and pip has no settings of its own (indexes, constraints), which uv would not see.
UV ?= $(if $(shell $(PYTHON) -m pip config list 2>/dev/null),,$(shell command -v uv 2>/dev/null))
PIP = $(if $(UV),$(UV) pip install -q --python $(BIN)/python,$(BIN)/python -m pip --disable-pip-version-check install -q)

# On Linux the ordinary index has torch for CUDA: half a gigabyte, and NVIDIA's libraries beside it. Without an NVIDIA
# GPU torch comes from PyTorch's index of CPU builds. Where that cannot be reached (behind a mirror, offline) or lacks
# the version of constraints.txt, the usual index decides, as it does with TORCH=cuda.
NVIDIA ?= /dev/nvidia0
TORCH ?= $(if $(shell command -v nvidia-smi 2>/dev/null)$(wildcard $(NVIDIA))$(filter-out Linux,$(shell uname -s)),cuda,cpu)
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
ifeq ($(TORCH),cpu)
define INSTALL_TORCH
@$(BIN)/python -c "from urllib.request import urlopen; urlopen('$(TORCH_INDEX)/torch/', timeout=10)" 2>/dev/null \
  && $(PIP) -c constraints.txt $(PIN) --index-url $(TORCH_INDEX) torch \
  || echo "torch comes from the usual index: $(TORCH_INDEX) is out of reach, or has no such version"
endef
endif

# A stamp per set of extras: editable installs follow the sources, so only the metadata matters.
$(VENV)/.base: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL_TORCH)
	$(PIP) -c constraints.txt -e .
	@touch $@

# LOCKED=1 installs what requirements.lock names, by hash; torch and torchao by version (scripts/lock.py says why).
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

demo: $(VENV)/.base  ## a rendered person and a photograph move as people in videos: OUT/demo.mp4, OUT/photograph.mp4
	@mkdir -p $(OUT)
	$(BIN)/mimicmotion demo -o $(OUT)

# Files in the order of their names: integration, with the longest, comes before unit.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: $(VENV)/.dev  ## the tests
	$(PYTEST) -m "not slow"

test-fast: $(VENV)/.dev  ## the tests of single parts, within a minute
	$(PYTEST) -q -m "not slow and not whole" tests/unit

test-slow: $(VENV)/.dev  ## the long tests, those of benchmarks and of the documentation, and more random examples
	$(BIN)/python -m pytest -m "slow or hypothesis" --hypothesis-profile=many

test-lowest:  ## the tests with the lowest versions of what pyproject.toml asks for, but torch's
	$(MAKE) test VENV=.venv-lowest LOCKED= PIN="-c .venv-lowest/lowest.txt"

# The constraints of .venv-lowest are made before anything is installed into it.
.venv-lowest/lowest.txt: pyproject.toml scripts/lowest.py
	test -x .venv-lowest/bin/python || $(PYTHON) -m venv .venv-lowest
	$(PYTHON) scripts/lowest.py > $@
ifneq ($(PIN),)
$(VENV)/.dev: $(VENV)/lowest.txt
endif

NUMBERS := tests/parity tests/integration/test_predicted_memory.py $(wildcard $(patsubst %,tests/unit/test_%.py,attention block_cache conditioning decode denoiser detail \
  execution execution_plan fusion fvd geometry guidance image_encoder latent_warp layers lora loss lpips mask memory_prediction objective picture \
  pipeline posenet quantize sampling schedule solvers tiny_networks trained_parameters unet vae warp))

test-cpus: $(VENV)/.dev  ## the numeric tests as other kinds of CPU compute, on one and two threads
	@set -e; for isa in "default SSE41" "avx2 AVX2"; do set -- $$isa; for threads in 1 2; do \
	  echo "ATEN_CPU_CAPABILITY=$$1 ONEDNN_MAX_CPU_ISA=$$2 OMP_NUM_THREADS=$$threads"; \
	  ATEN_CPU_CAPABILITY=$$1 ONEDNN_MAX_CPU_ISA=$$2 OMP_NUM_THREADS=$$threads \
	    $(BIN)/python -m pytest -q -m "not slow" $(NUMBERS); done; done

coverage: $(VENV)/.dev  ## branches that the tests take, and the floors they must keep
	$(PYTEST) -q -m "not slow" --cov --cov-report=json:.coverage.json
	$(BIN)/python scripts/coverage_floors.py .coverage.json

GPU_PYTHON ?= $(BIN)/python

gpu:  ## what only a CUDA device can tell, in five minutes: gpu_checks.json (GPU_PYTHON: a Python with torch for CUDA)
	$(GPU_PYTHON) scripts/gpu_checks.py

SHAPES := mimicmotion.pose,mimicmotion.video,mimicmotion.diffusion
SHAPES_OF := align draw drawn_poses dwpose estimator fusion geometry guidance hands keypoints picture pose_cache \
  pose_files sampling schedule smooth solvers track video_reader video_writer warp

check: $(VENV)/.dev  ## lint, format, types, floors, shapes, docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check
	$(BIN)/lint-imports
	$(BIN)/python scripts/structure.py
	$(MAKE) shapes
	$(MAKE) docs

shapes: $(VENV)/.dev  ## tests of the lower floors with every annotated type and shape checked as it runs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 -p no:cacheprovider --jaxtyping-packages=$(SHAPES),typechecks.checked \
	  $(SHAPES_OF:%=tests/unit/test_%.py)

docs: $(VENV)/.dev  ## build the documentation into site/
	$(BIN)/zensical build --clean --strict

package: $(VENV)/.dev  ## wheel and sdist: built, checked, installed alone, every module imported, the demo run
	rm -rf dist
	$(BIN)/python -m hatchling build -d dist
	$(BIN)/python -m twine check --strict dist/*.whl dist/*.tar.gz
	set -e; for file in dist/*.whl dist/*.tar.gz; do \
	  rm -rf dist/venv; $(PYTHON) -m venv dist/venv; python=$$(ls dist/venv/*/python* | head -1); \
	  $$python -m pip --disable-pip-version-check install -q -c constraints.txt $$file; \
	  $$python scripts/import_all.py; $$(dirname $$python)/mimicmotion demo -o dist/out; done
	rm -rf dist/venv

lock:  ## requirements.lock anew: every package of development for all systems, with hashes (needs uv)
	$(PYTHON) scripts/lock.py

audit: $(VENV)/.dev  ## known vulnerabilities of the installed packages
	$(if $(LOCKED),,$(PIP) -c constraints.txt -e '.[audit]')
	$(BIN)/pip-audit --local --skip-editable

sbom: $(VENV)/.dev  ## dist/mimicmotion.cdx.json: what an installation of the wheel in dist/ consists of (CycloneDX)
	$(if $(LOCKED),,$(PIP) -c constraints.txt -e '.[audit]')
	$(PYTHON) -m venv dist/venv
	$$(ls dist/venv/*/python* | head -1) -m pip --disable-pip-version-check install -q -c constraints.txt dist/*.whl
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
	  -o dist/mimicmotion.cdx.json $$(ls dist/venv/*/python* | head -1)
	rm -rf dist/venv

bench: $(VENV)/.dev  ## the benchmarks: one JSON line each
	@set -e; for b in benchmarks/*.py; do OMP_NUM_THREADS=1 $(BIN)/python $$b; done

tiny: $(VENV)/.dev  ## retrain the bundled tiny model from nothing (hours on a CPU)
	$(BIN)/python scripts/train_tiny.py $(TINY)

clean:  ## remove everything that make built
	rm -rf $(VENV) $(OUT) site .coverage .pytest_cache .ruff_cache
