# gpusat: every command sets itself up. The first call makes .venv and installs; a second call does not.
#
#   make demo     one orbit on real work        SEED= LINK=pty|udp ORBIT= DEVICE=auto|cpu|cuda
#   make test     checks and tests
#   make check    ruff, mypy --strict, dependency rules
#   make bench    measure, write out/bench/results.json and README's table    ONLY=spine|services|power|integrity
#   make hil      run one scenario              SCENARIO=worker_kill
#   make soak     a virtual day at 10 Hz with faults, and the whole integrity campaign    SEED= HOURS=24
#   make bench-gpu    overhead and scrub of the integrity layer on a CUDA card
#   make icd      interface document and XTCE into out/icd
#   make clean    remove what was built and measured (not the virtual environment)

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PY     := $(BIN)/python
JOBS   ?= 2

SEED   ?= 1
LINK   ?= pty
ORBIT  ?= leo_550
DEVICE ?= auto
ONLY   ?=
HOURS  ?= 24

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo test check fmt bench bench-gpu hil soak icd clean

help:
	@sed -n '3,11s/^#   //p' $(firstword $(MAKEFILE_LIST))

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; v = sys.version_info; ok = (3, 11) <= v[:2] <= (3, 13); \
	  ok or sys.exit(f"gpusat needs Python 3.11 to 3.13, {sys.executable} is {v.major}.{v.minor}: set PYTHON=/path/to/python3")'
	@$(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) cannot make a virtual environment: install its venv module (Debian: python3-venv)"; exit 1; }
	@touch $@

# Stamps: a target is older than its inputs only when the pins or the package list changed.
$(VENV)/.run: $(VENV)/.made pyproject.toml constraints.txt
	@echo "Installing gpusat and its libraries into $(VENV) (first call only) …"
	@$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[native]'
	@echo "Compiling the kernels of the integrity layer (first call only, half a minute) …"
	@$(PY) -m flightsw.gpu.workloads.warm_up
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@echo "Installing the tools for tests and checks into $(VENV) (first call only) …"
	@$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[native,dev]'
	@touch $@

setup: $(VENV)/.run
setup-dev: $(VENV)/.dev

demo: setup
	@$(BIN)/hil demo --seed $(SEED) --link $(LINK) --orbit $(ORBIT) --device $(DEVICE)

check: setup-dev
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

fmt: setup-dev
	@$(BIN)/ruff format --quiet . && $(BIN)/ruff check --quiet --fix .

# Bytecode is written even where the environment says not to: each of the many processes would compile all anew.
test: check
	@PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) --dist worksteal

bench: setup-dev
	@$(PY) tests/benchmarks $(if $(ONLY),--only $(ONLY))

bench-gpu: setup
	@PYTHONPATH=. $(PY) tests/benchmarks/integrity.py --gpu

hil: setup
	@test -n "$(SCENARIO)" || { echo "say which scenario: make hil SCENARIO=NAME (they are listed below)"; $(BIN)/hil list; exit 2; }
	@$(BIN)/hil run $(SCENARIO) --seed $(SEED) --link $(LINK) --device $(DEVICE)

soak: setup
	@$(BIN)/hil endure --frame 0.1 --hours $(HOURS) --seed $(SEED)
	@$(BIN)/hil campaign integrity --seed $(SEED)

icd: setup
	@$(PY) -m flightsw.link.icd --out out/icd

clean:
	@rm -rf out build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .coverage
