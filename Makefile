# make demo   train on a scene made here, evaluate, render a video       make test    all tests
# make check  format, lint, types and fast tests: before a commit        make bench   timings
# make bench-gpu   a report of a CUDA machine: kernels checked, times, trainings (under 10 minutes)
# PYTHON=python3.12 make demo   uses another Python (3.11 or newer) for .venv

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

# `make demo DEMO="experiment=demo_small" VIDEO="num_frames=8 width=64"` for something smaller.
DEMO ?= experiment=demo
VIDEO ?= num_frames=120
DEMO_RUN := outputs/demo/$(shell date +%Y-%m-%d_%H-%M-%S)_$(shell echo $$PPID)

.PHONY: demo test check format bench bench-gpu clean

demo: $(INSTALLED)
	@echo "==> demo 1/2: train task=nerf model=rbfnet on a scene made here, evaluate it"
	$(BIN)/python train.py $(DEMO) run_dir=$(DEMO_RUN)
	@echo "==> demo 2/2: render an orbit video"
	$(BIN)/python scripts/export.py run=$(DEMO_RUN) what=video path=orbit $(VIDEO)
	@echo "==> demo: look at"
	@ls -d $(DEMO_RUN)/evaluation/*.png $(DEMO_RUN)/video/*.mp4

test: $(INSTALLED)
	@echo "==> test: all tests (some minutes)"
	$(BIN)/python -m pytest -q -n 2 --dist worksteal

check: $(INSTALLED)
	@echo "==> check 1/4: format"
	$(BIN)/ruff format --check .
	@echo "==> check 2/4: lint"
	$(BIN)/ruff check .
	@echo "==> check 3/4: types"
	$(BIN)/basedpyright
	@echo "==> check 4/4: fast tests"
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not slow"

format: $(INSTALLED)
	$(BIN)/ruff check --fix --exit-zero .
	$(BIN)/ruff format .

bench: $(INSTALLED)
	$(BIN)/python scripts/benchmark.py

# `make bench-gpu BENCH_GPU=dry_run=true` tries it on a CPU.
bench-gpu: $(INSTALLED)
	$(BIN)/python scripts/bench_gpu.py $(BENCH_GPU)

clean:
	@echo "==> clean: removes .venv and caches; outputs/ and data/ stay"
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis build dist
	find nfields scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml constraints.txt
	@echo "==> install: nfields and everything it needs into .venv, once (minutes: PyTorch is large)"
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit(f"nfields needs Python 3.11 or newer, {sys.executable} is {v[0]}.{v[1]}; run: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
