# Every target sees to what it needs: the pinned Bun (by npm), the workspace's packages, the Debian packages of its lane.
# ONLY=F25 selects tests by row or path; MINUTES= and SEED= bound and seed the random and long lanes.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory
export PATH := $(CURDIR)/build/toolchain/bin:$(CURDIR)/node_modules/.bin:$(PATH)
export ONLY MINUTES SEED
PREFIX ?= /usr/local
DESTDIR ?=

.PHONY: help bootstrap build demo test ok fix gen calibrate conformance coverage bench install uninstall clean
.PHONY: test-unit test-e2e test-fuzz test-crash test-scale test-vm test-soak

help:
	@sed -n 's/^\([a-z-]*\):.*## /make \1	/p' Makefile | expand -t 20

bootstrap: ## fetch the pinned Bun and the packages
	@tools/bootstrap.sh

build: bootstrap ## compile build/stevedore and its links in build/bin
	@bun tools/build.ts

demo: build ## run a container end to end on a private daemon, printing each command
	@tools/apt.sh demo
	@tools/demo.sh

ok: bootstrap ## the quick gate: format, types, lint, layers, docs, tests of changed packages
	@bun tools/ok.ts

test: build ## everything: ok, unit tests, suites, end to end, interop, random lanes, leak check
	@tools/apt.sh test
	@tools/apt.sh peer
	@bun tools/test.ts all

test-unit: bootstrap ## unit tests and suites only
	@bun tools/test.ts unit

test-e2e: build ## end-to-end and interop only
	@tools/apt.sh test
	@tools/apt.sh peer
	@bun tools/test.ts e2e

test-fuzz test-crash test-scale test-soak: build ## a long lane, for MINUTES= (10), with SEED=
	@tools/apt.sh test
	@tools/apt.sh peer
	@bun tools/test.ts $(@:test-%=%)

test-vm: build ## what needs a kernel, cgroups or an init of its own, in a virtual machine
	@tools/apt.sh test
	@tools/apt.sh peer
	@tools/apt.sh vm
	@bun tools/test.ts vm

calibrate: build ## run the end-to-end cases on the real peer and keep the results
	@tools/apt.sh test
	@tools/apt.sh peer
	@bun tools/test.ts calibrate

conformance: bootstrap ## make docs/conformance.md from the last whole test run
	@bun tools/conformance.ts --write

coverage: bootstrap ## list every RPC, command, flag and config key with the tests that show its effect
	@bun tests/coverage/check.ts --list

bench: build ## side-by-side figures against Debian's containerd
	@tools/apt.sh test
	@tools/apt.sh peer
	@if [ -f bench/main.ts ]; then bun bench/main.ts; else echo "there is no bench/main.ts yet" >&2; exit 2; fi

gen: bootstrap ## make generated files anew: wire messages, lists, docs/conformance.md
	@bun tools/gen.ts
	@bun tools/fix.ts --generated-only

fix: bootstrap ## repair what a tool can: format, import order, lint, checked-in lists
	@bun tools/fix.ts

install: build ## install the binary, its links and the systemd unit under DESTDIR and PREFIX
	@PREFIX="$(PREFIX)" DESTDIR="$(DESTDIR)" tools/install.sh install

uninstall: ## remove exactly what install put there
	@PREFIX="$(PREFIX)" DESTDIR="$(DESTDIR)" tools/install.sh uninstall

clean: ## remove build/ and node_modules
	rm -rf build node_modules packages/*/node_modules tests/node_modules bench/node_modules
