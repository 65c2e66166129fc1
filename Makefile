# make demo  the whole method in miniature, on real parts        make test  every test and the linter's findings
# Both set everything up on the first call: a virtual environment in .venv with CPU builds of torch and vLLM.

PYTHON ?= $(shell for p in python3 python3.12 python3.13 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null && echo $$p && break; done)
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# uv does not read pip's configuration; where pip has a folder of local wheels, uv should see it. Elsewhere it picks CPU builds itself.
FIND_LINKS := $(or $(UV_FIND_LINKS),$(PIP_FIND_LINKS),$(shell pip config get global.find-links 2>/dev/null))
TORCH := $(if $(FIND_LINKS),--find-links $(FIND_LINKS),--torch-backend cpu)

.PHONY: demo simulate test test-slurm test-gpu lint doctor setup clean

demo: setup
	$(BIN)/python scripts/miniature.py --output_dir outputs/miniature

# The controlled study: published numbers beside ours, objectives under equal budgets, noise; metrics and plots in outputs/simulation.
simulate: setup
	$(BIN)/python scripts/simulate.py --output_dir outputs/simulation

# Two files of tests side by side, the long ones first: most keep one core busy, and threads that wait for another's core cost time.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slurm and not gpu" --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder

# The jobs of scripts/slurm on a real cluster of two nodes on this machine; needs root, installs Slurm where apt can.
test-slurm: setup
	tests/slurm/cluster.sh install
	$(BIN)/python -m pytest -m slurm -rs

# Kernels, scores and training on this machine's GPU, in the environment that is active: `make setup` has CPU builds.
test-gpu:
	PRM_TEST_GPU=1 python -m pytest tests/gpu -rs

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

doctor: setup
	$(BIN)/python scripts/doctor.py

setup: $(STAMP)

$(STAMP): pyproject.toml requirements/cpu-overrides.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.11 to 3.14 found; set PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python $(TORCH) --overrides requirements/cpu-overrides.txt --editable '.[cpu]' --group dev
	@touch $(STAMP)

clean:
	rm -rf $(VENV) outputs data .pytest_cache .ruff_cache
