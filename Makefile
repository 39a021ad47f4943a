# `make run` and `make test` do all the set-up that they need; nothing has to be installed before but Python.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DOCS_READY := $(VENV)/.docs-ready
EXPERIMENT ?= deploy/experiments/quickstart.yaml

.PHONY: run test test-all coverage docs check format protos protos-check dashboards bench bench-docker clean help

help:
	@echo "make run      set up, run the quickstart experiment, say where its report is"
	@echo "make test     set up, run the tests (make test-all: also the long ones)"
	@echo "make coverage the branches of node/ and orchestrator/ that the faster tests take"
	@echo "make docs     the documentation, in build/docs"
	@echo "make check    formatting, lint, types, import rules, generated code"
	@echo "make protos   generate node/transport/pb from protos/"
	@echo "make dashboards  generate deploy/grafana from orchestrator/observe/dashboards"
	@echo "make bench    the benchmark table (minutes; the comparisons: make bench-science, hours)"
	@echo "make bench-docker  containers against the simulator (half an hour; needs a Docker engine)"
	@echo "make clean    remove the virtual environment and caches"

# On Linux PyPI's torch is a CUDA build of several GB. The CPU build is named by its version, so that a machine
# which cannot get it says so instead of taking the other one.
ifeq ($(shell uname -s),Linux)
TORCH := torch==2.13.0+cpu
TORCH_INDEX ?= --extra-index-url https://download.pytorch.org/whl/cpu
else
TORCH := torch==2.13.*
endif
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --retries 1 --timeout 20 $(TORCH_INDEX) '$(TORCH)' 'torchvision==0.28.*'
	$(PIP_INSTALL) --retries 3 -e '.[dev]'
	-$(BIN)/fragmesh doctor --calibrate > /dev/null  # else the first run of processes measures the host
	touch $(READY)

run: $(READY)
	$(BIN)/fragmesh run $(EXPERIMENT)

# What neither times nor shapes anything runs on all cores; what does has the host for itself.
APART := tests/unit tests/paper tests/property tests/simulation

test: $(READY)
	$(BIN)/pytest -n auto $(APART)
	$(BIN)/pytest $(addprefix --ignore=,$(APART))

test-all: $(READY)
	$(BIN)/pytest -m ''

# The tools for it are an extra of their own: a run and the tests need none of them.
$(DOCS_READY): $(READY)
	$(PIP_INSTALL) --retries 3 -e '.[docs]'
	touch $(DOCS_READY)

docs: $(DOCS_READY)
	$(BIN)/sphinx-build --builder html --fail-on-warning --keep-going --nitpicky --quiet -d build/doctrees docs build/docs
	@echo build/docs/index.html

# Tracing makes pure Python two to three times as slow, so that it is done in a run of its own, and not of the tests
# whose time is the simulator's: simulation, most of property, and most real runs.
MEASURED := tests/unit tests/paper tests/conformance/test_driver_equals_world.py \
	$(addprefix tests/property/test_,level_network.py mixing.py) \
	$(addprefix tests/integration/test_,bad_input.py cli.py control.py process_fleet.py transport.py resume.py \
	process_faults.py emulation.py)

coverage: $(READY)
	$(BIN)/coverage erase
	@# `make test` judges. A failure under tracing, which slows nodes down, is told and does not hide what is covered.
	$(BIN)/coverage run -m pytest -n auto --dist loadfile $(MEASURED) > .coverage.log || tail -50 .coverage.log
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report
	@$(BIN)/coverage json --quiet -o .coverage.json
	@$(BIN)/python -c "import json; t = json.load(open('.coverage.json'))['totals']; \
	print(f\"branch coverage: {100 * t['covered_branches'] / t['num_branches']:.1f} % of {t['num_branches']} branches\")"

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python deploy/protos.py --check
	$(BIN)/python deploy/dashboards.py --check

dashboards: $(READY)
	$(BIN)/python deploy/dashboards.py

protos: $(READY)
	$(BIN)/python deploy/protos.py

protos-check: $(READY)
	$(BIN)/python deploy/protos.py --check

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY)
	$(BIN)/python -m tests.benchmarks

bench-docker: $(READY)
	$(BIN)/fragmesh image > /dev/null
	$(BIN)/python -m tests.benchmarks.bench_docker

bench-science: $(READY)
	$(BIN)/python -m tests.benchmarks.bench_science

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
