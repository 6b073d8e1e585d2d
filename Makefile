# Two commands: make demo, make test. Each makes .venv itself; only Python 3.11+, make and a package registry are needed.
PYTHON ?= python3
BIN := .venv/bin
export PYTHONUNBUFFERED := 1

.PHONY: demo test test-slow test-gpu lint types audit lock clean

.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python requirements.lock
	$(BIN)/uv pip install --quiet --no-deps --python $(BIN)/python --editable .
	touch $@

demo: .venv/installed
	$(BIN)/python -m fpt_ray.demo images demo/images --count 360
	$(BIN)/python -m fpt_ray.demo weights demo/vit_small_patch14_dinov2.safetensors
	$(BIN)/python -m fpt_ray.tune --space search_spaces/demo.yaml --images demo/images --workdir demo --study demo --evidence 4 \
		$(if $(wildcard demo/studies/demo/optuna.log),--resume)

test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow"

# Whole studies, the fault table, two hosts, jobs on a head of its own, an S3 server that fails: an hour and more.
test-slow: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow

# The core alone, on a machine with a GPU whose Python has torch, timm, peft and pytest: no Ray, nothing is installed.
test-gpu:
	$(PYTHON) -m pytest -c tests/gpu/pytest.ini tests/gpu

lint: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: .venv/installed
	$(BIN)/pyright

# Known vulnerabilities of what is locked, from pypi.org; fails too where that cannot be asked.
audit: .venv/installed
	$(BIN)/uv tool run pip-audit --strict --require-hashes --disable-pip -r requirements.lock

# Everything, and what a cluster's image needs of it: no tests' servers and tools, no demonstration.
lock:
	$(BIN)/uv pip compile --all-extras --group dev --generate-hashes --no-emit-index-url pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --extra dicom --extra postgres --constraint requirements.lock --generate-hashes \
		--no-emit-index-url pyproject.toml -o cluster/requirements.lock

clean:
	rm -rf .venv demo
