# make test | demo | bench | gpu | lint | clean. The first run makes .venv; later ones redo only what changed.
# make test-library, test-peers, test-kernels: its parts. test-peers runs beside other packages; test-kernels runs Triton
# kernels in the interpreter, which has to be chosen before anything is imported.
# make gpu: all that needs a GPU, with the torch that python3 has, else with that of .venv; GPU='--dry-run' needs none.

TORCH := torch==2.13.0
TRITON := triton==3.6.0
PY := .venv/bin/python
PIP := $(PY) -m pip --disable-pip-version-check install --quiet
SOURCES := setup.py CMakeLists.txt pyproject.toml equifast/ops/schemas.txt $(shell find csrc -type f)

.PHONY: test test-library test-peers test-kernels demo bench gpu lint clean

test: .venv/peers
	$(MAKE) --no-print-directory --jobs=2 --output-sync=target test-library test-kernels test-peers

# Where the variable is set, a peer that can't be imported fails the tests that need it; elsewhere they are skipped.
test-library: .venv/peers
	EQUIFAST_REQUIRE_PEERS=1 $(PY) -m pytest --ignore=tests/peers

test-peers: .venv/peers
	EQUIFAST_REQUIRE_PEERS=1 $(PY) -m pytest tests/peers

test-kernels: .venv/native
	TRITON_INTERPRET=1 EQUIFAST_BACKEND=triton $(PY) -m pytest tests/triton

demo: .venv/demo
	$(PY) examples/demo.py

bench: .venv/peers
	$(PY) -m benchmarks

gpu:
	@if python3 -c 'import torch' 2>/dev/null; then python=python3; \
	else $(MAKE) --no-print-directory .venv/native && python=$(PY) || exit 1; fi; \
	$$python -m benchmarks.gpu $(GPU)

lint: .venv/tools
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

# torch comes first and pinned: as a dependency it would be the newest, with several GB of CUDA packages. Triton is the
# oldest that is supported; its kernels are interpreted and compiled here, and run on GPUs only.
# The build tools come next, because the package is built without isolation, against this torch.
.venv/tools:
	python3 -m venv .venv
	$(PIP) $(TORCH)
	$(PIP) $(TRITON)
	$(PIP) --upgrade 'setuptools>=77' wheel cmake ninja 'pybind11>=2.13' ruff
	touch $@

.venv/native: .venv/tools $(SOURCES)
	$(PIP) --no-build-isolation --editable '.[test]'
	touch $@

.venv/demo: .venv/native
	$(PIP) --no-build-isolation --editable '.[demo]'
	touch $@

# Packages that this one is compared with, in tests and in benchmarks. Those of the second list declare far more than is
# used of them here, so they go in without dependencies.
.venv/peers: .venv/native benchmarks/requirements.txt benchmarks/requirements-nodeps.txt
	$(PIP) --requirement benchmarks/requirements.txt
	$(PIP) --no-deps --requirement benchmarks/requirements-nodeps.txt
	touch $@

clean:
	rm -rf .venv build dist *.egg-info equifast/*.so equifast/_build.json
