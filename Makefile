# make run      build, fetch the default model, answer PROMPT
# make test     set up and run all tests
# make lint     ruff, pyright, clang-format
# make sanitize native tests under the address and undefined-behaviour sanitizers

PYTHON ?= python3
PROMPT ?= Explain in two sentences why the sky is blue.
BIN := .venv/bin
NATIVE := CMakeLists.txt pyproject.toml $(shell find csrc -name '*.cpp' -o -name '*.h')
CXX_FILES := $(shell find csrc tests -name '*.cpp' -o -name '*.h')

.PHONY: run test lint format sanitize clean

run: .venv/built
	@$(BIN)/freehold run --max-tokens 256 --prompt "$(PROMPT)" </dev/null

test: .venv/parity
	@if [ -f ../shared/tools/get_models.py ]; then $(BIN)/python ../shared/tools/get_models.py || \
		echo "the real models cannot be fetched: their tests will be skipped"; fi
	$(BIN)/python -m pytest

lint: .venv/parity
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)

format: .venv/dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(CXX_FILES)

sanitize: .venv/dev
	$(BIN)/cmake -S . -B build/sanitize -DFREEHOLD_SANITIZE=ON -DCMAKE_BUILD_TYPE=RelWithDebInfo >/dev/null
	$(BIN)/cmake --build build/sanitize --parallel 2
	build/sanitize/fuzz_gguf
	build/sanitize/native_test

.venv/created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) --version)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	@touch $@

.venv/built: .venv/created $(NATIVE)
	$(BIN)/python -m pip install --quiet --editable '.[serve,inspect]'
	@touch $@

.venv/dev: .venv/built
	$(BIN)/python -m pip install --quiet --group dev
	@touch $@

.venv/parity: .venv/dev
	$(BIN)/python -m pip install --quiet --group parity
	@touch $@

clean:
	rm -rf build .venv
