# omlx: the same commands on macOS (Metal) and Linux (MLX's CPU backend). See README.md.
.DEFAULT_GOAL := help
SHELL := /bin/bash
CARGO := cargo

.PHONY: help
help: ## Say what there is.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 16

.PHONY: setup
setup: ## Prepare MLX on Linux (nothing to do on macOS). Part of the targets below.
	@packaging/linux/setup.sh

.PHONY: clients
clients:
	@tests/clients/setup.sh

.PHONY: build
build: export OMLX_COMMIT := $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
build: setup ## Build omlxd and omlxctl, optimised, into target/release.
	$(CARGO) build --release --locked --bins

.PHONY: run
run: build clients ## Build, start the daemon on the bundled model, ask it something, stop it.
	@packaging/demo/run.sh

.PHONY: serve
serve: build ## Build and run the daemon in the foreground, with its files in ~/.omlx.
	target/release/omlxd serve

.PHONY: test
test: lint clients ## Everything that CI checks.
	$(CARGO) test --workspace --locked

.PHONY: lint
lint: setup deny ## Format, clippy, documentation, dependencies.
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked

.PHONY: check-macos
check-macos: setup ## Compile, lint and link everything for Apple Silicon, on Linux, and run the Metal kernel's source (25 minutes and 6 GB from nothing).
	packaging/macos/check.sh all

.PHONY: deny
deny: ## Check licences and sources of all dependencies.
	@packaging/cargo-deny.sh check --hide-inclusion-graph licenses bans sources

.PHONY: sbom
sbom: ## List everything that is linked in, as CycloneDX, in target/sbom.cdx.json (Python 3.11).
	@mkdir -p target
	python3 packaging/sbom.py >target/sbom.cdx.json
	@echo "wrote target/sbom.cdx.json"

.PHONY: soak
soak: ## The long runs: kvstore with 10,000 seeds, 200 kills, 10,000 schedules; 50 kills of a pull; 100 starts; 30 turns; schemas over 20 seeds; 20 minutes of everything.
	KVSTORE_SEEDS=10000 KVSTORE_KILLS=200 KVSTORE_SCHEDULES=10000 \
		$(CARGO) test -p kvstore --locked --lib --test model --test kill -- --nocapture
	OMLX_PULL_KILLS=50 $(CARGO) test -p omlxd --locked --test pull -- --nocapture killed
	$(CARGO) test -p omlx-tests --locked --test engine -- --ignored --nocapture --test-threads 1 all_turns
	OMLX_SOAK=1 $(CARGO) test -p engine --locked --lib grammar::
	OMLX_CYCLES=100 $(CARGO) test -p omlxd --locked --test holds -- starts_and_stops
	OMLX_SOAK_SECS=1200 $(CARGO) test -p omlx-tests --locked --test daemon soak -- --nocapture

.PHONY: fuzz
fuzz: setup ## Fuzz what reads kvstore's records, models' answers, chat templates, tokenizers and requests, and what writes streams, FUZZ_SECS each (nightly Rust, cargo-fuzz). `make test` has short runs.
	@tests/fuzz/run.sh

.PHONY: conformance
conformance: build ## Try thousands of requests that schemathesis makes from docs/openapi.json against the daemon.
	@tests/conformance/run.sh

.PHONY: agents
agents: setup ## Run Codex, Claude Code and OpenCode from npm (1.2 GB) against the daemon, offline. `make test` replays recordings.
	@tests/agents/run.sh

.PHONY: eval-tiny
eval-tiny: build ## Measure the bundled model on its held-out cases, through the daemon.
	@packaging/omlx-tiny/eval.sh

.PHONY: bench
bench: build ## Compare with mlx-lm's server, and kvstore with dd and memcpy, side by side in one run.
	tests/bench/run.sh
