# What developers and CI run. `make help` lists it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
export PATH := $(HOME)/.cargo/bin:/usr/local/go/bin:$(PATH)

CACHE := $(or $(GODWIT_LAB_CACHE),$(HOME)/.cache/godwit-lab)
RUN_LAB := cargo run --quiet --package godwit-lab --bin lab --

# Debian packages: the build (cc, protoc, cmake), and the lab (the rest).
PACKAGES := build-essential ca-certificates cmake debian-archive-keyring debootstrap e2fsprogs git iproute2 protobuf-compiler qemu-system-x86 qemu-utils util-linux
# What tests run is built so that they can end it at chosen places; what is installed never is.
TESTED := --workspace --features godwit-wire/failpoints
DENY_VERSION := 0.20.2
STORE ?= s3
LAB ?= node
SUITE ?= all
# Tests that need no node: units, and of each crate what is in `tests`, a file or a directory with a `main.rs`. By name: a selection of
# packages has other features of what they depend on, and all of it would be built again.
CRATE_TESTS := $(wildcard */tests crates/*/tests ci/lab/tests ci/programs/tests)
CRATE_TESTS := $(wildcard $(CRATE_TESTS:=/*.rs)) $(patsubst %/main.rs,%,$(wildcard $(CRATE_TESTS:=/*/main.rs)))
UNIT_TESTS := --lib --bins $(addprefix --test ,$(sort $(basename $(notdir $(CRATE_TESTS)))))
PROGRAMS := containerd-shim-godwit-v2 godwit-agent godwit-pager godwit-relay godwit-cri-proxy godwit godwit-install
DENY := $(CACHE)/tools/cargo-deny-$(DENY_VERSION)/bin/cargo-deny

.PHONY: help deps build release check demo demo-pods bench conformance tested-tools test test-unit test-full test-e2e vm-test kubernetes lab-up lab-down

help: ## This list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

deps: ## Install the Debian packages that build and lab need (quick when they are there)
	@missing=$$(for p in $(PACKAGES); do dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
	if [ -n "$$missing" ]; then \
		echo "installing" $$missing; \
		apt-get update -q || echo "some package lists could not be renewed; going on"; \
		DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $$missing; \
	fi
	@command -v cargo >/dev/null || { echo "Rust is missing: install rustup, it reads rust-toolchain.toml"; exit 1; }
	@command -v go >/dev/null || { echo "Go is missing: the lab builds its S3 server and Kubernetes from Go modules"; exit 1; }

$(DENY): | deps
	@echo "building cargo-deny $(DENY_VERSION) (once, a few minutes)"
	nice cargo install --locked --quiet cargo-deny --version $(DENY_VERSION) --root $(CACHE)/tools/cargo-deny-$(DENY_VERSION)

build: deps ## Build everything, for tests
	cargo build $(TESTED)

check: deps $(DENY) ## Format, lints, licences and sources, documentation, crate graph
	cargo fmt --all --check
	cargo clippy $(TESTED) --all-targets -- -D warnings
	cargo clippy --workspace --all-targets -- -D warnings # what is installed: without failpoints
	$(DENY) check bans licenses sources
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" cargo doc --workspace --no-deps --quiet
	cargo test --quiet $(TESTED) --test crate_graph

test: check test-unit test-e2e ## Everything that CI holds (needs root)

kubernetes: deps ## Build the Kubernetes that tests and lab use (quick when it is there; else five minutes)
	$(RUN_LAB) kubernetes

# The same by the lab that tests use: nothing is built twice.
tested-tools: build
	$(or $(CARGO_TARGET_DIR),target)/debug/lab s3 build
	$(or $(CARGO_TARGET_DIR),target)/debug/lab kubernetes

# End-to-end tests are a suite's `--test`; what they share has tests that need no node.
test-unit: tested-tools ## Tests that need no node
	cargo test $(TESTED) $(UNIT_TESTS)
	cargo test $(TESTED) --doc

test-full: tested-tools ## What `test` leaves out: long searches, ten thousand lives, a hundred races, an installer that dies at each step, the virtual machine (four hours; docs/verification.md)
	cargo test $(TESTED) $(UNIT_TESTS) --no-fail-fast -- --ignored
	cargo test $(TESTED) --test churn -- --ignored
	cargo test $(TESTED) --test clusters -- --ignored --test-threads=1
	cargo test $(TESTED) --test install --test vm -- --ignored --test-threads=1

# Most of the time they wait: two rows of suites go beside each other, each in a lab of its own. The virtual machine's processors are
# emulated by both of this one's: it comes last, by itself.
ROW_pods := clusters kubelet
ROW_nodes := lab shim_lifecycle moves ownership agent_dies shim_dies store_refuses hydration interrupted refusals commands starts pods connections churn cri_proxy cgroup_v2 install
SUITES = $(addprefix --test ,$(1))

test-e2e: tested-tools ## Tests on real nodes (needs root)
	cargo test $(TESTED) $(call SUITES,$(ROW_pods) $(ROW_nodes) vm) --no-run
	$(MAKE) --no-print-directory --keep-going --jobs=2 row-pods row-nodes
	cargo test $(TESTED) --test vm -- --test-threads=1

row-%:
	GODWIT_LAB=$* cargo test $(TESTED) $(call SUITES,$(ROW_$*)) -- --test-threads=1 2>&1 | sed --unbuffered 's/^/$*: /'

vm-test: build ## A stock Debian in a virtual machine: install, also when it dies or loses power at any step, move, a pod of Redis, power loss, both cgroup drivers, another release (an hour)
	cargo test $(TESTED) --test vm -- --include-ignored --test-threads=1

release: deps ## Build what is installed on nodes, into target/release
	cargo build --release $(foreach p,$(PROGRAMS),--package $(p))

demo: release ## The main job: Redis moves under load, with a report (STORE=s3, the default, or STORE=file)
	cargo run --release --package godwit-e2e --bin demo -- --store $(STORE)

demo-pods: release kubernetes ## The main job for pods: Redis and a sidecar move under load from one Kubernetes cluster to another, with a report (STORE=s3 or file)
	cargo run --release --package godwit-e2e --bin demo-pods -- --store $(STORE)

bench: release kubernetes ## Times of a 1 GiB and of a small container against runc alone, of shims against containerd's, of CRI calls against containerd alone, of restored pods against the kubelet's own checkpoints, as ratios (docs/performance.md)
	cargo run --release --package godwit-e2e --bin bench
	cargo run --release --package godwit-e2e --bin bench -- --mib 1 --raw target/bench/small.json
	cargo run --release --package godwit-e2e --bin shim-bench
	cargo run --release --package godwit-e2e --bin proxy-bench
	cargo run --release --package godwit-e2e --bin pod-bench -- --mib 64
	cargo run --release --package godwit-e2e --bin pod-bench -- --mib 1024 --raw target/bench/pods-1g.json

conformance: build ## containerd's own client tests, its CRI tests through the CRI proxy, and critest straight and through it, with our shim, compared with its runc shim (SUITE=client, cri or critest for one of them; needs root; 50 minutes)
	$(or $(CARGO_TARGET_DIR),target)/debug/conformance --suite $(SUITE)

lab-up: deps ## Start two nodes with containerd, or two Kubernetes clusters with LAB=clusters (see docs/lab.md)
	$(RUN_LAB) up $(LAB)

lab-down: ## Take the nodes of all labs down, such as an interrupted demo has left; not those that a process works with
	$(RUN_LAB) down --all
