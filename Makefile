# Every target sets up .venv by itself, once, and again when pyproject.toml or constraints.txt change.
# ARGS is passed on:  make test ARGS='-k fisher'   make verify ARGS='fisher.diagonal --profile deep'

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
READY := .venv/.ready

.PHONY: verify test examples lint types kernels comparisons bench benchmark wheel calibrate clean
.DEFAULT_GOAL := verify
.DELETE_ON_ERROR:

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -qq -c constraints.txt setuptools wheel torch
	$(BIN)/python -m pip install -qq -c constraints.txt -e '.[dev]'
	touch $@

verify: $(READY)
	mkdir -p report
	$(BIN)/trueness verify --report report --json report/verdicts.json --junit report/junit.xml $(ARGS)

# -P keeps the checkout off sys.path: there, reference/ would be importable a second time, as another module.
# Threads of torch sleep while they wait, and NumPy's products have one: spinning, those of one process take the cores
# from the other one. And the memory of freed arrays is kept (tools/run/pool.py).
test: export OMP_WAIT_POLICY ?= passive
test: export OPENBLAS_NUM_THREADS ?= 1
test: export MALLOC_MMAP_THRESHOLD_ ?= 33554432
test: export MALLOC_TRIM_THRESHOLD_ ?= 1073741824
test: $(READY)
	$(BIN)/python -P -m pytest -n 2 --dist loadgroup $(ARGS)

# Three models trained on real data, a few minutes each; interrupted, they go on where they were.
examples: $(READY)
	$(BIN)/python examples/kernel_ridge.py $(ARGS)
	$(BIN)/python examples/digits_diffit.py $(ARGS)
	$(BIN)/python examples/atlas_language_model.py $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy cannot follow an editable install, so it reads the unpacked wheel.
types: wheel
	rm -rf build/types
	$(BIN)/python -m pip install --quiet --no-deps --target build/types dist/*.whl
	MYPYPATH=build/types $(BIN)/python -P -m mypy -p trueness $(ARGS)

# The oldest Triton that a supported torch brings; kernels are compiled under it too. It is only unpacked.
build/triton-3.6.0: | $(READY)
	$(BIN)/python -m pip install -qq --no-deps --target $@ triton==3.6.0

# The table of compiled kernels, docs/kernels.md.
kernels: $(READY) build/triton-3.6.0
	$(BIN)/trueness kernels --triton build/triton-3.6.0 --write docs $(ARGS)

# Ours and its peers in turn, docs/speed.md: minutes, on a quiet machine.
comparisons: $(READY)
	$(BIN)/python asv_bench/comparisons --write docs/speed.md $(ARGS)

bench: $(READY)
	$(BIN)/tox -e bench -- $(ARGS)

benchmark: $(READY)
	$(BIN)/tox -e benchmark -- $(ARGS)

# build/lib keeps modules that were deleted since; they would be packed again.
wheel: $(READY)
	rm -rf build/lib build/bdist.* dist
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation -w dist .

calibrate: $(READY)
	$(BIN)/trueness calibrate $(ARGS)

clean:
	rm -rf .venv .tox .asv asv_bench/.asv .hypothesis .mypy_cache .pytest_cache .ruff_cache .trueness build dist report *.egg-info
	find reference optimized properties regressions tools src -name __pycache__ -type d -prune -exec rm -rf {} +
