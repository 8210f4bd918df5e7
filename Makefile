# Every target makes the virtual environment itself where it is missing or stale.
PYTHON ?= python3
PY := .venv/bin/python
INSTALLED := .venv/.installed

# What `make demo` searches; e.g. make demo SEARCH="--space darts --unrolled"
SEARCH ?= --space hb
ifndef RUN
RUN := runs/demo-$(shell date +%Y%m%d-%H%M%S)
endif

# The oldest Python and PyTorch that are supported.
OLDEST := .venv-oldest/.installed
OLDEST_PYTHON ?= python3.10

.PHONY: demo test test-fast test-oldest lint format bench bench-committed soak gpu clean

$(INSTALLED): setup.cfg pyproject.toml
	@echo "Installing into .venv (torch and its libraries: about 5 GB, one to three minutes) ..."
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

# Search on real images, derive, draw, rebuild, train, report. Its 8x8 images are too small to be shared among
# threads, which would wait for each other most of the time, above all on a busy machine.
demo: export OMP_NUM_THREADS = 1
demo: $(INSTALLED)
	@$(PY) train_search.py --preset smoke --dataset digits $(SEARCH) --run-dir $(RUN)/search
	@$(PY) train_eval.py --preset smoke --dataset digits --arch $(RUN)/search --run-dir $(RUN)/eval

test: $(INSTALLED)
	$(PY) -m pytest -n auto

test-fast: $(INSTALLED)
	$(PY) -m pytest -n auto -m "not slow"

$(OLDEST): setup.cfg pyproject.toml
	$(OLDEST_PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check \
	    'torch==2.6.*' 'torchvision==0.21.*' --editable '.[dev]'
	touch $@

test-oldest: $(OLDEST)
	.venv-oldest/bin/python -m pytest -n auto -m "not slow"

lint: $(INSTALLED)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	git ls-files | grep -vE '\.(svg|json|ipynb)$$' | xargs $(PY) -m codespell_lib

format: $(INSTALLED)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

# A look at all benchmarks, in minutes; the figures go to runs/bench.
bench: $(INSTALLED)
	$(PY) -m benchmarks.suite quick --out runs/bench

# The figures of docs/PERFORMANCE.md, on an otherwise idle machine: make bench-committed SUITE=cuda for those of a GPU
SUITE ?= cpu
bench-committed: $(INSTALLED)
	$(PY) -m benchmarks.suite $(SUITE) --out benchmarks/results
	$(PY) docs/draw_figures.py
	$(PY) -m benchmarks.report

# Kills, full disks, damaged files, mutated inputs: three quarters of an hour on two CPU cores. See soak/__init__.py.
SOAK ?= benchmarks/results/soak.json
soak: export OMP_NUM_THREADS = 1
soak: $(INSTALLED)
	$(PY) -m soak --out $(SOAK)

# On a machine with a GPU, in at most 25 minutes; the same command goes on where it stopped. First whether the steps are
# right on it, then what they cost, then cells of the paper's Table 7. DATA has the flags of CIFAR-10.
DATA ?= --data data
GPU := docs/results/gpu
gpu: $(INSTALLED)
	$(PY) -m pytest -q -rs tests/test_graphs.py tests/test_data_loader.py tests/test_lpom.py
	mkdir -p $(GPU)
	-timeout --signal=INT 480 $(PY) -m benchmarks.suite cuda --resume --out $(GPU)
	-timeout 780 $(PY) -m nas.study studies/table7.toml --device cuda --out runs/table7 $(DATA)
	cp runs/table7/table.* $(GPU)

clean:
	rm -rf .venv .venv-oldest build *.egg-info
