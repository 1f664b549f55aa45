# What each command does: `make help`. Everything is built under target/; no command but `install` writes outside it
# and the library cache (see scripts/fetch-libs.sh), and none touches an existing cluster.

PG_CONFIG ?= pg_config
CLIPS ?=
QUERY ?=
BENCH ?=
CARGO_BUILD_JOBS ?= $(shell nproc)

export PG_CONFIG CARGO_BUILD_JOBS
export PGRX_PG_CONFIG_PATH = $(shell command -v $(PG_CONFIG) || echo /usr/bin/pg_config)
export RUSTDOCFLAGS = -D warnings
# The scripts fetch it: tests that lack it fail here, where elsewhere they say that they are skipped.
export ESR_REQUIRE_ONNXRUNTIME = 1
# Debian's minimal images have no locale and tools disagree on their default.
export LC_ALL = C.UTF-8

PURE = -p esr-vector -p esr-ivf -p esr-audio -p esr-wire -p esr-encoder -p esr-embedder
# Set variables that the libraries' paths depend on, then run.
WITH_ORT = eval "export $$(scripts/fetch-libs.sh onnxruntime)" &&
WITH_LIBS = eval "$$(scripts/fetch-libs.sh onnxruntime libtorch | sed 's/^/export /')" &&

# The benchmark program with a private PostgreSQL that holds this build.
BENCHES = $(WITH_ORT) ESR_PG_BIN="$$(scripts/private-postgres.sh target/release target/pg-release)" target/release/esr-benches

.DEFAULT_GOAL := help
.PHONY: help setup build install demo test test-all test-pure test-server test-trainer lint bench clean

help: ## Say what each command does
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  make demo CLIPS=folder    ... with your own audio files (and a manifest.csv, if there is one)"
	@echo "  make install PG_CONFIG=/path/to/pg_config    ... into another PostgreSQL"

setup: ## Install missing Debian packages (needs root or sudo only if something is missing)
	@scripts/setup.sh

build: setup ## Build the extension and esr-embedder, optimised
	cargo build --release -p esr -p esr-embedder

install: build ## Install the extension, its embedder, ONNX Runtime and the models into PostgreSQL
	scripts/install.sh target/release "$(DESTDIR)$$($(PG_CONFIG) --pkglibdir)" "$(DESTDIR)$$($(PG_CONFIG) --sharedir)"
	@echo "installed; in a database: CREATE EXTENSION esr;"

demo: ## Start a private cluster, load clips, answer style queries, write target/demo/index.html
	@scripts/setup.sh $(if $(CLIPS),,demo)
	cargo build --release -p esr -p esr-embedder -p esr-demo
	ESR_PG_BIN="$$(scripts/private-postgres.sh target/release target/pg-release)" \
		target/release/esr-demo --output target/demo $(if $(CLIPS),--clips "$(CLIPS)") $(if $(QUERY),--query "$(QUERY)")

test: setup ## Run lint and every test: pure crates, server suite on throw-away clusters, trainer
	@scripts/test.sh

# All packages are selected at once: cargo chooses features for the packages selected, so that part by part most
# dependencies would be compiled three times.
test-all: setup
	$(WITH_LIBS) cargo build --workspace --lib --bins --tests
	$(WITH_LIBS) ESR_PG_BIN="$$(scripts/private-postgres.sh target/debug target/pg-debug)" cargo test --workspace --no-fail-fast

test-pure: setup ## Run the tests of the pure crates (seconds; no PostgreSQL)
	$(WITH_ORT) cargo test --no-fail-fast $(PURE)

test-server: setup ## Run the server suite on throw-away clusters
	cargo build -p esr -p esr-embedder -p esr-demo
	ESR_PG_BIN="$$(scripts/private-postgres.sh target/debug target/pg-debug)" cargo test --no-fail-fast -p esr-tests -p esr -p esr-demo

test-trainer: setup ## Run the trainer's tests on tiny networks (fetches a CPU libtorch)
	$(WITH_LIBS) cargo test --no-fail-fast -p esr-trainer

lint: setup ## Check formatting, clippy and rustdoc; warnings are errors
	cargo fmt --all --check
	$(WITH_LIBS) cargo clippy --workspace --all-targets -- -D warnings
	$(WITH_LIBS) cargo doc --workspace --no-deps --document-private-items

bench: build ## Measure kernels, embedding speed, exact scans, and the index beside other extensions' (BENCH="--rows 500000")
	$(WITH_ORT) cargo bench -p esr-benches --bench kernels
	$(WITH_ORT) target/release/esr-embedder bench models/default
	cargo build --release -p esr-benches
	$(BENCHES) exact
	$(BENCHES) latency
	$(BENCHES) load
	$(BENCHES) storm
	$(BENCHES) writing
	for data in clustered hard $(if $(wildcard ../shared/data),real); do $(BENCHES) index --data $$data $(BENCH) || exit; done

clean: ## Remove what was built
	cargo clean
