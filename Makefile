# The commands of the README. Everything is built by CMake; this file only
# says which steps make up "run" and "test".

PRESET ?= release
JOBS   ?= $(shell nproc)
MODEL  ?= models/sample-moe
ARGS   ?=

# So that a second clone finds what the first one built.
export CCACHE_BASEDIR ?= $(CURDIR)

.PHONY: run test build deps check format clean

run: build
	build/$(PRESET)/hostler serve --model $(MODEL) $(ARGS)

test: build
	ctest --preset $(PRESET) --output-on-failure -j $(JOBS)

build: deps
	cmake --preset $(PRESET)
	cmake --build --preset $(PRESET) -j $(JOBS)

deps:
	scripts/install_deps.sh

# What CI checks besides the tests.
check:
	scripts/check_layers.py
	scripts/check_format.sh

format:
	scripts/check_format.sh --fix

clean:
	rm -rf build
