# Needs git, make and a Python of at least 3.11; the rest is installed into .venv.
#
#   make serve     run the demo server until Ctrl-C
#   make quick     a first answer: ruff, codespell, and the coroutine tests
#   make test      run every check: linters, type checkers, tests on the Pythons found
#   make coverage  measure what the tests execute
#   make test-cpython   run CPython's own tests with compat in the place of socketserver
#   make test-foreign   run tests of Django, fakeredis and Werkzeug in the same way
#   make lint      the linters and type checkers only
#   make docs      build the documentation site into site/
#   make pictures  take the pictures in docs/pictures again: Chromium is needed
#   make native    compile the core again for all environments in .venv
#   make sanitize  the socket tests with a core that tells of each misuse of memory
#   make format    put the code into the form that `make lint` asks for
#   make mutants   put known faults into copies of the package: the tests must catch each
#   make bench     measure servers here and elsewhere; ARGS=--quick in two minutes, ARGS=--help
#   make soak      visit servers of every kind 200,000 times, with faults mixed in: nothing may grow
#   make clean     remove what the above made
#
# PYTHON=/path/to/python chooses the interpreter of .venv; by default it is the newest on PATH.

VERSIONS := $(shell tools/pythons)
ifdef PYTHON
  MAIN := $(shell "$(PYTHON)" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
else
  # A .venv that is there stays, whatever has been added to PATH since.
  MAIN := $(shell sed -n 's/^version *= *\([0-9]*\.[0-9]*\).*/\1/p' .venv/pyvenv.cfg 2>/dev/null)
  ifeq ($(MAIN),)
    MAIN := $(firstword $(VERSIONS))
  endif
  PYTHON = $$(tools/pythons $(MAIN))
endif
OTHERS := $(filter-out $(MAIN),$(VERSIONS))

NATIVE := hatch_build.py $(wildcard native/*.[ch])
CREATED := .venv/.created-$(MAIN)
SERVES := .venv/.installed-to-serve
MEASURES := .venv/.installed-to-measure
DOCUMENTS := .venv/.installed-to-document
CHECKS := .venv/.installed-to-check
FOREIGN := .venv/foreign/.installed-with-tests
OTHER_CHECKS := $(OTHERS:%=.venv/python%/.installed-to-test)
PIP_INSTALL := -m pip install -qq --disable-pip-version-check --editable
RUN := .venv/bin/python

# Tests start thousands of programs: half of their time would be spent on compiling the package.
unexport PYTHONDONTWRITEBYTECODE

# What its makers have to say of the theme's successor is not for every build.
export NO_MKDOCS_2_WARNING := 1

.PHONY: serve quick test coverage test-cpython test-foreign lint docs pictures native sanitize format mutants bench soak clean
.DELETE_ON_ERROR:

serve: $(SERVES)
	@echo "to talk to it from another terminal: nc 127.0.0.1 9999"
	@# make would report Ctrl-C as an error: the shell takes the signal too, and ends well.
	@trap : INT; $(RUN) examples/echo.py || [ $$? = 130 ]

quick: $(CHECKS)
	@$(RUN) tools/checks.py quick

test: $(CHECKS) $(OTHER_CHECKS)
	@$(RUN) tools/checks.py test $(RUN) $(OTHERS:%=.venv/python%/bin/python)

coverage: $(CHECKS)
	@$(RUN) tools/checks.py coverage

test-cpython: $(CHECKS) $(OTHER_CHECKS)
	@$(RUN) tools/cpython_tests.py $(RUN) $(OTHERS:%=.venv/python%/bin/python)

test-foreign: $(FOREIGN)
	@.venv/foreign/bin/python tools/foreign_tests.py $(ARGS)

lint: $(CHECKS)
	@$(RUN) tools/checks.py lint

docs: $(DOCUMENTS)
	@# Not with --quiet, which keeps --strict from seeing the warnings.
	@$(RUN) -m mkdocs build --strict

pictures: $(CHECKS)
	@$(RUN) tools/browser_pictures.py
	@$(RUN) -m tools.terminal_pictures

native: $(CREATED)
	@for python in .venv/bin/python .venv/python*/bin/python; do \
	    [ ! -x $$python ] || AIOSOCKETSERVER_BUILD=native $$python $(PIP_INSTALL) --no-deps . || exit 1; \
	done

sanitize: $(CHECKS)
	@$(RUN) tools/sanitize.py

format: $(CHECKS)
	@$(RUN) -m ruff check --fix-only --quiet
	@$(RUN) -m ruff format

mutants: $(CHECKS)
	@$(RUN) tools/mutants.py

bench: $(MEASURES)
	@$(RUN) -m benchmarks $(ARGS)

soak: $(MEASURES)
	@$(RUN) -m benchmarks.soak $(ARGS)

clean:
	rm -rf .venv build dist htmlcov site .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(CREATED):
	@test -n "$(MAIN)" || { echo "No Python >= 3.11 with venv and ensurepip was found on PATH." >&2; exit 1; }
	@echo "creating .venv (Python $(MAIN))"
	@rm -rf .venv
	@"$(PYTHON)" -m venv .venv
	@touch $@

$(SERVES): $(CREATED) pyproject.toml $(NATIVE)
	@echo "installing the package with uvloop"
	@$(RUN) $(PIP_INSTALL) '.[uvloop]'
	@touch $@

$(MEASURES): $(CREATED) pyproject.toml $(NATIVE)
	@echo "installing what is measured"
	@$(RUN) $(PIP_INSTALL) '.[bench]'
	@touch $@

$(DOCUMENTS): $(CREATED) pyproject.toml $(NATIVE)
	@echo "installing what the documentation is built with"
	@$(RUN) $(PIP_INSTALL) '.[docs]'
	@touch $@

$(CHECKS): $(CREATED) pyproject.toml $(NATIVE)
	@echo "installing what the checks need"
	@$(RUN) $(PIP_INSTALL) '.[dev]'
	@touch $@

.venv/python%/.installed-to-test: $(CREATED) pyproject.toml $(NATIVE)
	@echo "installing what the tests need (Python $*)"
	@"$$(tools/pythons $*)" -m venv .venv/python$*
	@.venv/python$*/bin/python $(PIP_INSTALL) '.[test]'
	@touch $@

$(FOREIGN): $(CREATED) pyproject.toml $(NATIVE) tools/foreign/requirements.txt tools/foreign/sources.txt
	@echo "installing other projects, and their tests"
	@rm -rf .venv/foreign
	@$(RUN) -m venv .venv/foreign
	@.venv/foreign/bin/python -m pip install -qq --disable-pip-version-check -r tools/foreign/requirements.txt
	@.venv/foreign/bin/python $(PIP_INSTALL) '.[greenlet,uvloop]'
	@.venv/foreign/bin/python -m pip download -qq --disable-pip-version-check --no-deps --no-build-isolation \
	    --no-binary :all: --require-hashes --dest .venv/foreign/src -r tools/foreign/sources.txt
	@touch $@
