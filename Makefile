# make run: everything set up, the real thing compressed · make test · make lint · make down
PYTHON ?= python3.11
TORCH  ?= torch==2.13.0
RECIPE ?= sentiment
JOBS   ?= 2
BIN := .venv/bin

.PHONY: run test lint install up down clean
install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@echo "installing (about 5 minutes the first time)"
	@$(BIN)/python -m pip install -q -c constraints.txt "$(TORCH)"
	@$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev]"
	@$(BIN)/python -c "import torch; print('note: this torch is a CUDA build; TORCH=... picks another') if torch.version.cuda else None"
	@$(BIN)/shrink --version
	@touch $@

run: install
	@$(BIN)/shrink run $(RECIPE) --smoke-first

# so many processes, each with one thread (more would fight); a file of tests stays in one of them
test: install
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

lint: install
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

up: install
	@$(BIN)/shrink up

down:
	@test ! -x $(BIN)/shrink || $(BIN)/shrink down

clean: down
	rm -rf .venv .shrink
