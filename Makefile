# `make help` says what there is. Everything lives in .venv; nothing outside this folder is touched.
#   PYTHON=python3.12   the Python to make .venv with (else the first fitting one that is found)
#   TORCH=2.12.1        the PyTorch to install: a version, a file or any requirement (else the one already in .venv, else the lock's)

PYTHON ?= python3 python3.14 python3.13 python3.12 python3.11
TORCH  ?=
BIN    := .venv/bin
LOCK   := .venv/constraints.txt
PYTEST := $(BIN)/pytest

.PHONY: help demo test slow campaign lint format clean FORCE
.DELETE_ON_ERROR:

help:
	@echo 'make demo     a model grows from the text of the standard library: 5 minutes, then runs/demo/report.html'
	@echo 'make test     format, lint, types, import order, and the tests that take minutes all together'
	@echo 'make slow     the tests that take minutes each'
	@echo 'make campaign NAME=damage   hundreds of trials, their numbers kept in benchmarks/results (also: not_finite saves full_disk resume strictness prepare_kills prepare_damage ugly planted tokenizer_ids sampling co_tenants cached)'
	@echo 'make lint     the checks of make test without the tests'
	@echo 'make format   put the code into the form that make lint wants'
	@echo 'make clean    remove .venv and the caches (never runs/)'
	@echo 'Settings: PYTHON=python3.12, TORCH=2.12.1 or TORCH=path/to/torch.whl'

demo: .venv/.demo
	@$(BIN)/fledge demo

test: lint
	OMP_NUM_THREADS=1 $(PYTEST) -n 2 --dist loadgroup

# One after the other and with every core: these train, and some keep an eye on the clock.
slow: .venv/.dev
	$(PYTEST) -m 'slow and not gpu and not network' --timeout 1800

campaign: .venv/.dev
	$(BIN)/python benchmarks/$(NAME).py

lint: .venv/.dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/pyrefly check
	$(BIN)/lint-imports

format: .venv/.dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf .venv .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist
	find fledge tests -name __pycache__ -prune -exec rm -rf {} +

# What is installed is stamped, so that the next call starts at once; a TORCH that is asked for is always looked at.
.venv/.demo: pyproject.toml constraints.txt $(if $(TORCH),FORCE)
	@$(call install,demo,the core and scikit-learn,250 MB and 2 minutes)
	@touch $@

.venv/.dev: pyproject.toml constraints.txt $(if $(TORCH),FORCE)
	@$(call install,dev,everything that the tests need,2.8 GB on the disk and 4 minutes)
	@touch .venv/.demo $@

FORCE:

# $(call install,extra,what it is,how much it is): one pip command, so that no package can bring another torch along.
define install
$(venv); \
wanted='$(TORCH)'; case "$$wanted" in [0-9]*) wanted="torch==$$wanted";; esac; \
held=$$($(BIN)/python -c 'from importlib.metadata import version; print("torch==" + version("torch"))' 2>/dev/null); \
{ grep -v '^torch==' constraints.txt; [ -n "$$wanted" ] || echo "$${held:-$$(grep '^torch==' constraints.txt)}"; } > $(LOCK); \
echo "Installing $(2) into .venv, with $${wanted:-$$(tail -1 $(LOCK))}: about $(3) the first time; a GPU build of PyTorch is 3 GB more."; \
$(BIN)/python -m pip install -qq --disable-pip-version-check --constraint $(LOCK) $${wanted:+"$$wanted"} --editable '.[$(1)]' || \
	{ echo "Not installed, for the reason above. fledge runs on Python 3.11 or newer and $$(grep -o 'torch>[^"]*' pyproject.toml), and needs the network this once." >&2; exit 1; }
endef

# A .venv whose pip answers is kept, and with it the torch in it; else the first fitting Python makes one.
define venv
if ! $(BIN)/python -m pip --version > /dev/null 2>&1; then \
	old=; bare=; made=; \
	for python in $(PYTHON); do \
		case $$($$python -c '$(fit)' 2>/dev/null) in \
			fit) made=$$python; break;; \
			old) old="$$old $$python";; \
			bare) bare=$$python;; \
		esac; \
	done; \
	if [ -z "$$made" ]; then \
		if [ -n "$$bare" ]; then echo "$$bare cannot make virtual environments: install its venv module (Debian, Ubuntu: sudo apt install python3-venv), then call make again."; \
		else echo "fledge needs Python 3.11 or newer, and found$${old:- none}$${old:+, which is older}: install one, or name it with make PYTHON=/path/to/python3."; fi >&2; \
		exit 1; \
	fi; \
	$$made -m venv .venv || exit 1; \
fi
endef
fit := import sys; sys.version_info >= (3, 11) or sys.exit(sys.stdout.write("old")); \
	from importlib.util import find_spec; print("fit" if find_spec("ensurepip") else "bare")
