# Everything that one does with this repository. `make` alone lists it.

CARGO ?= cargo
PREFIX ?= /usr/local
# Debian releases whose kernels `make kernels` boots (see tests/kernels/run)
KERNELS ?= 5.10 6.1 6.12 newest
# LuaJITs that `make test` builds and tests with (see tests/luajit/build)
LUAJITS ?= upstream-gc64 openresty-gc32 debian bullseye-gc32

HOST := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
TARGET_DIR := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
BINARY := $(TARGET_DIR)/$(HOST)/release/moonscope
SCRIPTS := .ci/run scripts/setup scripts/private-apt scripts/test demo/run demo/server tests/programs/build \
	tests/luajit/build tests/luajit/verify tests/luajit/nginx/verify \
	tests/kernels/run tests/kernels/debian tests/kernels/checks tests/kernels/init tests/kernels/events tests/containers/tree tests/containers/podman tests/containers/namespaces \
	tests/containers/trixie tests/containers/nginx

.PHONY: help build demo test lint bench kernels programs install clean

help:
	@echo 'make build      the static binary: build/moonscope'
	@echo 'make demo       a real nginx with Lua under load, ten seconds recorded: flame.svg (DEMO_FLAGS="-d 5")'
	@echo 'make test       all tests (those that need root say so when they are skipped)'
	@echo 'make lint       formatting, clippy, shellcheck'
	@echo 'make bench      what recording costs, beside perf and bpftrace: docs/benchmarks.md says how'
	@echo 'make kernels    boots other kernels under QEMU and records there (KERNELS="5.10 6.1")'
	@echo 'make install    to $$DESTDIR$$PREFIX/bin (PREFIX=$(PREFIX))'
	@echo 'make clean      removes everything that was built'
	@echo 'Missing packages are installed by scripts/setup: as root, or with sudo.'

build:
	@scripts/setup build
	$(CARGO) build --release --bin moonscope
	@mkdir -p build
	@ln -sfn "$(BINARY)" build/moonscope

demo:
	@demo/run $(DEMO_FLAGS)

programs:
	@tests/programs/build

test:
	@scripts/setup test
	@tests/programs/build >/dev/null
	@tests/luajit/build $(LUAJITS) >/dev/null || [ $$? -eq 77 ]
	@scripts/test

# In the profile of the build, so that nothing is built twice.
lint:
	@scripts/setup lint
	$(CARGO) fmt --all --check
	rustfmt --check --edition 2024 tests/programs/*.rs
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings
	shellcheck $(SCRIPTS)

bench: build
	@scripts/setup bench
	@benches/run

kernels: build
	@scripts/setup kernels
	@tests/kernels/run $(KERNELS)

# Does not build, so that `make build && sudo make install` leaves nothing of root's in the build folders.
install:
	@test -x "$(BINARY)" || { echo 'make install: run "make build" first' >&2; exit 1; }
	install -D -m 755 "$(BINARY)" "$(DESTDIR)$(PREFIX)/bin/moonscope"

clean:
	$(CARGO) clean
	rm -rf build
