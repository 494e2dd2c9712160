# SPDX-License-Identifier: Apache-2.0
# The user's face. Each target does its own set-up: on a fresh Debian 12 machine `make test` and `make demo` install the
# missing packages, configure, build and run.
JOBS ?= $(shell nproc)
PREFIX ?= /usr/local
CMAKE_FLAGS ?=
PYTHON ?= /usr/bin/python3

.PHONY: all build demo test test-all check bench install asan tsan sanitize fuzz clean help
all: build

help:
	@echo 'make            build build/stasis'
	@echo 'make demo       checkpoint, kill and restart a running python3 program'
	@echo 'make test       build and run the tests (under 10 minutes)'
	@echo 'make test-all   the long tests as well, and make sanitize'
	@echo 'make check      format, lint, layers, self-contained headers, licence lines (ALL=1: lint every file anew)'
	@echo 'make bench      measure (FULL=1: 4 GiB as well, a plot and JSON)'
	@echo 'make asan tsan  unit tests under the sanitizers'
	@echo 'make sanitize   of these, the deferred-work library and its minute of stress'
	@echo 'make install    into PREFIX (/usr/local), DESTDIR is honoured'

# setup(groups), configure(preset, flags)
setup = tools/setup $(1)
ccache = $(if $(shell command -v ccache),-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
configure = cmake --preset $(1) $(ccache) $(2) $(CMAKE_FLAGS) >build-$(1).configure.log || { cat build-$(1).configure.log; exit 1; }; rm -f build-$(1).configure.log

build:
	@$(call setup,build)
	@$(call configure,release)
	cmake --build build --parallel $(JOBS)

demo:
	@$(call setup,build demo)
	@$(call configure,release)
	cmake --build build --parallel $(JOBS) --target stasis
	tools/demo build/stasis

test: build
	@$(call setup,test)
	ctest --test-dir build -LE long --output-on-failure --parallel $(JOBS) --timeout 300

test-all: build
	@$(call setup,test)
	@$(call setup,--optional services)
	ctest --test-dir build --output-on-failure --parallel $(JOBS) --timeout 3600
	$(MAKE) sanitize

check:
	@$(call setup,build check)
	@$(call configure,release)
	tools/check $(if $(ALL),--all)

bench:
	@$(call setup,build bench)
	@$(call setup,--optional peers)
	@cmake --preset release -B build-bench $(ccache) -DSTASIS_BUILD_BENCH=ON -DSTASIS_BUILD_TESTS=OFF -DSTASIS_BUILD_FUZZ=OFF $(CMAKE_FLAGS) >/dev/null
	cmake --build build-bench --parallel $(JOBS)
	bench/run build-bench
	$(PYTHON) bench/checkpoints build-bench $(if $(FULL),--full --plot build-bench/plot.svg --json build-bench/figures.json)

install: build
	DESTDIR=$(DESTDIR) cmake --install build --prefix $(PREFIX)

asan tsan:
	@$(call setup,build test)
	@$(call configure,$@)
	cmake --build build-$@ --parallel $(JOBS)
	ctest --test-dir build-$@ -L 'unit|image|stress|fuzz' --output-on-failure --parallel $(JOBS) --timeout 600

# What doc/deferred-work.md says of the sanitizers: every cell of the contract, every known mistake, stress of 5 s and 60 s.
parts = unit_collections unit_work stress_work
sanitize:
	@$(call setup,build test)
	@for s in asan tsan; do \
	  $(call configure,$$s) && cmake --build build-$$s --parallel $(JOBS) --target $(parts) && \
	  ctest --test-dir build-$$s -R '^(unit_collections|unit_work|stress_work(_long)?)$$' --output-on-failure || exit 1; \
	done

clean:
	rm -rf build build-*
