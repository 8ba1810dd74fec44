# Two commands: `make run` shows the main job, `make test` checks everything. Each sets up what it needs in .venv.

PYTHON ?= python3
PORT ?= 8443
VENV := .venv
BIN := $(VENV)/bin
BENCH_VENV := .venv-bench
PIP_QUIET := --quiet --quiet --disable-pip-version-check
SOURCES := muxwsgi apps tests setup.py
# A copy of the checkout with the hot files compiled, made anew when anything in it changes: beside the sources a compiled file would go stale.
COMPILED := build/compiled
COPIED := $(SOURCES) docs conf .ci Makefile $(wildcard *.md) LICENSE pyproject.toml .gitignore
# Most tests wait most of the time, for processes that start and deadlines that pass. A worker without tests takes half of another's, because
# few files take long, and one of them would be the last.
WORKERS ?= -n 4 --dist worksteal
COMPILED_TESTS := tests/gate tests/wire tests/mux tests/dial tests/tls tests/http tests/http2 tests/server tests/proxy
# What meets the interpreter: sockets, ssl, threads, forks, signals, asyncio. The rest is Python that the type checker reads.
PYTHON_TESTS ?= tests/gate/test_build.py tests/wire tests/mux tests/dial tests/tls tests/http tests/http2 tests/server

# Neither is a part of these folders that runs once, with our own interpreter and plain: options, files, what a master does before it has a
# worker, and programs that read what others wrote. It has no hot files, and asks of Python what every version does.
without = $(patsubst %,--ignore=tests/%.py,$(foreach file,$(2),$(1)/test_$(file)))
ALIKE := $(call without,server,command_line conf debug from_gunicorn_page log_options logs notify passed_sockets pid_file privileges reuse_port shown_configuration)
# A master, its memory and its reloads are never compiled, nor is what makes certificates. One real client of the proxy says what all say.
NOT_COMPILED := $(ALIKE) $(call without,server,binds_without_gevent board master page process_title python_file reload upgrade) \
	$(call without,proxy/certificates,authority ca_command leaf_keys leaf_template) \
	$(call without,proxy/clients,apt chromium cli databases git network nginx python_clients ssh)
# Parsers, and what other programs than Python decide.
NOT_OF_PYTHON := $(ALIKE) $(call without,server,fronts hooks many_through_reload request_ids tracing unix_sockets) \
	$(call without,http,access_log buffering documents framing grammar heads_again static websocket_codec) $(call without,http2,against_h2 hpack rules)

# Tests start hundreds of processes. Without bytecode files, each compiles all modules again, which takes longer than the rest of its start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test test-fast test-python lint bench clean help

help:  ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/apps.stamp  ## one TLS port with a Flask app, a Django project, a Redis protocol and an echo on it
	@echo "one port, https://127.0.0.1:$(PORT)/ (self-signed certificate), Ctrl-C ends it; in another terminal:"
	@echo
	@echo "  curl -k https://127.0.0.1:$(PORT)/                                       # Flask"
	@echo "  curl -k https://127.0.0.1:$(PORT)/polls/                                 # Django"
	@echo "  redis-cli --tls --insecure -p $(PORT) set greeting hello                 # a hijacker"
	@echo "  (echo ECHO hi; sleep 1) | openssl s_client -quiet -no_ign_eof -connect 127.0.0.1:$(PORT)   # another one"
	@echo "  curl -i http://127.0.0.1:$(PORT)/                                        # plain HTTP: redirected"
	@echo
	@exec $(BIN)/muxwsgi run 'apps.guestbook:create_app()' --mount /polls=apps.polls.wsgi:application \
		--tls-dev --redirect-http -b 127.0.0.1:$(PORT)

test: lint $(COMPILED)/stamp  ## ruff, mypy --strict and all tests, and most of them once more, compiled
	@echo "== tests"
	@EXPECT_BUILD=pure $(BIN)/python -m pytest $(WORKERS) -m "not slow"
	@echo "== tests that are slow"
	@EXPECT_BUILD=pure $(BIN)/python -m pytest -n 2 --dist loadfile -m slow
	@echo "== tests, compiled"
	@cd $(COMPILED) && PYTHONPATH=$$PWD EXPECT_BUILD=compiled $(CURDIR)/$(BIN)/python -m pytest $(WORKERS) -m "not slow" $(COMPILED_TESTS) $(NOT_COMPILED)

test-fast: lint  ## the same without the tests marked slow
	@$(BIN)/python -m pytest $(WORKERS) -m "not slow"

test-python: OTHER = .venv-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
test-python:  ## PYTHON=python3.13: tests with another interpreter, plain Python, in an environment beside .venv
	@$(MAKE) --no-print-directory VENV=$(OTHER) $(OTHER)/tests.stamp
	@echo "== tests, $$($(OTHER)/bin/python -V)"
	@EXPECT_BUILD=pure $(OTHER)/bin/python -m pytest $(WORKERS) -m "not slow" $(PYTHON_TESTS) $(NOT_OF_PYTHON)

lint: $(VENV)/tests.stamp
	@echo "== ruff"
	@$(BIN)/ruff check --quiet $(SOURCES)
	@echo "== mypy --strict"
	@$(BIN)/mypy --no-error-summary
	@echo "== conflict markers"
	@! grep -rnE '^(<{7}|>{7}) ' *.md docs conf Makefile

$(COMPILED)/stamp: $(VENV)/tests.stamp $(shell find $(COPIED) -type f -not -path '*/__pycache__/*' -not -path '*/*.egg-info/*')
	@echo "== compiling the hot files"
	@rm -rf $(COMPILED) && mkdir -p $(COMPILED) && cp -R $(COPIED) $(COMPILED)/
	@$(BIN)/python setup.py -q build_ext -j 2 --build-lib $(COMPILED) --build-temp build/temp
	@touch $@

bench: $(BENCH_VENV)/muxwsgi.stamp  ## muxwsgi and its peers in turn under the same loads; BENCH="--group http --rounds 3"
	@PYTHONSAFEPATH=1 $(BENCH_VENV)/bin/python -m tests.bench $(BENCH)

$(VENV)/base.stamp: setup.py muxwsgi/__init__.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is $$($(PYTHON) -V 2>&1 || true), and muxwsgi needs Python 3.11 or later: make PYTHON=python3.12 ..." >&2; exit 2; }
	@echo "== setting up $(VENV)"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install $(PIP_QUIET) --upgrade pip setuptools wheel
	@$(BIN)/python -m pip install $(PIP_QUIET) --editable .
	@touch $@

$(VENV)/apps.stamp: $(VENV)/base.stamp apps/hijack-echo/setup.py apps/hijack-resp/setup.py apps/inspector-rules/setup.py
	@echo "== installing the applications and hijackers"
	@$(BIN)/python -m pip install $(PIP_QUIET) --editable '.[apps]' --editable apps/hijack-echo --editable apps/hijack-resp --editable apps/inspector-rules
	@touch $@

$(VENV)/tests.stamp: $(VENV)/apps.stamp pyproject.toml
	@echo "== installing what the tests need"
	@$(BIN)/python -m pip install $(PIP_QUIET) --editable '.[tests]'
	@$(BIN)/python -m pip install $(PIP_QUIET) --no-deps --upgrade --target $(VENV)/envoy 'xds-protos>=1.85'
	@touch $@

$(BENCH_VENV)/stamp: setup.py tests/bench/packages.py
	@missing=; for program in wrk nginx openssl; do command -v $$program >/dev/null || missing="$$missing $$program"; done; \
		test -z "$$missing" || { echo "make bench: missing Debian package$$missing" >&2; exit 2; }
	@echo "== setting up $(BENCH_VENV) with the peers"
	@$(BENCH_VENV)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(BENCH_VENV)
	@$(BENCH_VENV)/bin/python -m pip install $(PIP_QUIET) --upgrade pip setuptools wheel
	@$(BENCH_VENV)/bin/python -c 'import os, sysconfig; open(sysconfig.get_path("purelib") + "/checkout.pth", "w").write(os.getcwd() + "\n")'
	@$(BENCH_VENV)/bin/python -m pip install $(PIP_QUIET) .
	@PYTHONSAFEPATH=1 $(BENCH_VENV)/bin/python -m tests.bench install
	@touch $@

# As a user installs it, compiled where that can be: the checkout comes last on the path there, so that it is not measured by mistake.
$(BENCH_VENV)/muxwsgi.stamp: $(BENCH_VENV)/stamp $(shell find muxwsgi -name '*.py' -o -name '*.pxd')
	@$(BENCH_VENV)/bin/python -m pip install $(PIP_QUIET) --force-reinstall --no-deps .
	@PYTHONSAFEPATH=1 $(BENCH_VENV)/bin/python -m muxwsgi --version
	@touch $@

clean:  ## remove what make made
	@rm -rf $(VENV) .venv-* build dist apps/*/build .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -prune -exec rm -rf {} + -o -name '*.egg-info' -prune -exec rm -rf {} +
