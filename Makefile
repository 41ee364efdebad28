# `make demo` and `make test` do all their set-up on a fresh machine.
SHELL := /bin/bash
PY := .venv/bin/python
# Some images set it. Hundreds of processes would compile each module anew: a quarter of what their start takes.
unexport PYTHONDONTWRITEBYTECODE
# A test that takes its process along is tried again by the next one, and so on.
PYTEST = $(PY) -m pytest -n 4 --dist loadfile --no-loadscope-reorder --max-worker-restart 2

.PHONY: help setup demo test fuzz check docs format contracts bench-economics bench-exact bench-federated bench-home bench-kills bench-nat bench-pipeline bench-sandbox bench-transport bench-verifier gpu-check journeys soak clean
help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

setup: ## virtual environment, Python packages, Foundry, contract libraries
	@scripts/setup.sh

demo: setup ## fine-tune a real model on a local network: checked, slashed, paid (about 4 minutes)
	@$(PY) scripts/demo.py

test: setup ## the whole test suite, contracts included
	@# The contracts' tests take what the others leave of the CPUs; the IPFS daemons of the tests are fetched meanwhile.
	@said=$$(mktemp); $(PY) scripts/contracts.py test --beside >"$$said" 2>&1 & contracts=$$!; \
		trap 'kill -- -$$contracts 2>/dev/null; wait; rm -f "$$said"' EXIT; $(PY) scripts/ipfs_daemons.py install & \
		code=0; $(PYTEST) || code=$$?; wait $$contracts || code=$$?; cat "$$said"; exit $$code

fuzz: setup ## contracts, violations, bombs, floods, the API's document, 10 million mutated inputs: out/bench (45 minutes; FUZZ="--inputs 100000")
	@$(PY) scripts/contracts.py test --fuzz-runs 10000
	@API_EXAMPLES=100 API_SEED=$$RANDOM LIFE_SEED=$$RANDOM $(PY) -m pytest tests/transport/test_hostile.py \
		tests/transport/test_greedy.py tests/artifacts/test_unfolding.py tests/verifier/test_api_schema.py \
		tests/chain/test_history.py --timeout 1800 -o faulthandler_timeout=2400
	@$(PY) scripts/fuzz.py $(FUZZ)
	@$(PY) scripts/floods.py

check: setup ## formatting, lint, types, generated files; Slither and line coverage of the contracts
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .
	@trap wait EXIT; $(PY) -m mypy sdk/proofyard node/proofyard verifier/proofyard scripts & \
		$(PY) scripts/contracts.py check && wait $$!

docs: setup ## the documentation's site: out/site, with warnings as errors
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build && echo "out/site/index.html"

format: setup ## rewrite the sources in the house format
	@$(PY) -m ruff format .
	@$(PY) -m ruff check --fix .

contracts: setup ## compile the contracts and regenerate sdk/proofyard/chain/abi
	@$(PY) scripts/contracts.py build

bench-transport: setup ## transport against stock aioquic, py-libp2p and TCP: out/bench (about 6 minutes)
	@$(PY) scripts/bench_transport.py

bench-kills: setup ## kill -9 of a node, a leader, a verifier in rounds that nodes decide: out/bench/federated.json (KILLS="--rounds 2")
	@$(PY) scripts/bench_kills.py $(KILLS)

bench-nat: setup ## who reaches whom from behind real NATs, how soon and how fast: out/bench/nat.json (about 15 minutes)
	@$(PY) scripts/prepare_model.py --cache .cache >/dev/null
	@$(PY) scripts/bench_nat.py

bench-exact: setup ## bits, verdicts, speed and quality of exact execution: docs/verification.md (about 45 minutes)
	@$(PY) scripts/bench_exact.py

bench-federated: setup ## averaging at equal tokens, hostile workers, bench-kills, bench-home: out/bench/federated.json (hours; FEDERATED="--rounds 2")
	@$(PY) scripts/prepare_model.py --cache .cache >/dev/null
	@$(PY) scripts/bench_federated.py $(FEDERATED)
	@$(PY) scripts/bench_kills.py $(KILLS)
	@$(PY) scripts/bench_home.py $(AT_HOME)

bench-home: setup ## how much of the time workers on home lines train, small deltas and dense: out/bench/federated.json (AT_HOME="--tiny")
	@$(PY) scripts/prepare_model.py --cache .cache >/dev/null
	@$(PY) scripts/bench_home.py $(AT_HOME)

bench-pipeline: setup ## what verification costs a running job: time, waits, redone work, gas: docs/performance.md (about 25 minutes)
	@$(PY) scripts/prepare_model.py --cache .cache >/dev/null
	@$(PY) scripts/bench_pipeline.py

bench-verifier: setup ## tasks a second, cost, gas and memory of a verifier with 500 nodes: docs/performance.md (about 20 minutes)
	@$(PY) scripts/bench_verifier.py

bench-economics: setup ## honest against strategic owners with the shipped parameters: docs/economics.md (a few minutes)
	@$(PY) scripts/bench_economics.py

bench-sandbox: setup ## attempts to get out of the sandbox, and what it costs: out/bench/sandbox.json (about 5 minutes)
	@$(PY) scripts/prepare_model.py --cache .cache >/dev/null
	@$(PY) scripts/bench_sandbox.py

gpu-check: setup ## exact execution on a CUDA device against this machine's CPU: bits and times
	@$(PY) scripts/gpu_check.py

journeys: setup ## four people who have the documents alone, in terminals and a browser: out/bench/journeys.json (about 12 minutes; JOURNEYS=owner)
	@$(PY) scripts/prepare_model.py --cache .cache >/dev/null
	@$(PY) -m pip install -qq --disable-pip-version-check matplotlib
	@$(PY) scripts/journeys.py $(JOURNEYS)

soak: setup ## an hour of kills, reorganisations and failing machines, everything checked: docs/operate.md (SOAK="--minutes 10")
	@$(PY) scripts/soak.py $(SOAK)

clean: ## remove what the targets made
	rm -rf out .venv node_modules tests/chain/dapps/node_modules .pytest_cache .mypy_cache .ruff_cache contracts/out contracts/cache
