# Words that a person and CI both type. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo test test-slow lint types format bench site clean

help:  ## show these words
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

# one stamp file: installing again happens only when the project or its pins change
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	@touch $@

demo: $(VENV)/installed  ## run the main job on real data: lynx and hare (4 to 8 minutes)
	$(BIN)/retrodict demo --out runs/demo

# most of the fast tests' time is compilation of what runs once: it is optimized little, by the emitter that is quicker
QUICKLY := --xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false
test: $(VENV)/installed lint types  ## lint, check types, run the fast tests (six to twelve minutes)
	XLA_FLAGS="$(XLA_FLAGS) $(QUICKLY)" $(BIN)/python -m pytest -m "not slow" --numprocesses 2 --dist loadfile

test-slow: $(VENV)/installed  ## the trained bars: about two hours on two cores
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/installed  ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed  ## mypy
	$(BIN)/mypy

format: $(VENV)/installed  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/installed  ## the ten tasks of the benchmark at 10,000 simulations, beside published figures
	$(BIN)/retrodict bench --out runs/bench.jsonl
	$(BIN)/retrodict bench --out runs/bench.jsonl --table --page runs/bench.html

# mkdocs says on every build that it may change one day; warnings that end a build are others
site: $(VENV)/site-installed  ## these documents as pages: site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

$(VENV)/site-installed: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	@touch $@

clean:  ## remove what was installed and written
	rm -rf $(VENV) runs site
