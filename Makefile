# The contributor's commands. PYTHON=python3.9 make …: on another Python. All of them make their environment themselves.
PYTHON ?= python3
# A single test; a name without a folder is looked for in all files: a function's or a class's.
T =
# Four at once, on however few processors: the tests wait as much as they compute.
RUN = tests/run $(PYTHON) -q
AT_ONCE = -n 4 --dist loadgroup

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*##  */\1\t/p' Makefile | expand -t 10

unit:  ## what the code does, without namespaces and packages, with few random examples: seconds
	EFFORT=0.1 $(RUN) -n 4 --dist worksteal -m "not kernel and not once" tests/unit tests/windows

kernel:  ## what runs on a real kernel, in network namespaces: minutes
	$(RUN) $(AT_ONCE) tests/kernel tests/lab

lint:  ## mypy --strict, flake8, and the rules for sources and pages
	$(RUN) -n 4 -m once tests/unit

all:  ## every test, as CI runs them on the newest Python
	$(RUN) $(AT_ONCE)

one:  ## a single test: make one T=tests/unit/plan/test_diff.py::test_x, T=test_x or T=TestX
	@test -n "$(T)" || { echo 'which one? make one T=test_x'; exit 2; }
	@case "$(T)" in */*) set -- "$(T)" ;; \
	    *) set -- $$(grep -rlwE --include='*.py' "(def|class) $(T)" tests) -k "$(T)" ;; esac; \
	    [ "$$1" != -k ] || { echo 'no test has the name $(T)'; exit 2; }; $(RUN) "$$@"

walks:  ## long: twenty times as many random examples, walks, and moments to be killed at
	EFFORT=20 $(RUN) $(AT_ONCE) tests/unit/test_properties.py tests/windows/test_walks.py \
	    tests/kernel/test_properties.py tests/kernel/test_crash.py tests/kernel/test_numbers.py

docs:  ## writes what the commands say now into the samples of the pages, and names those that it changed
	$$(tests/venv $(PYTHON))/bin/python -m tests.docs --write

bench:  ## how fast, as ratios on this machine; wants it for itself
	$$(tests/venv $(PYTHON))/bin/python -m tests.bench

boot:  ## boots every Debian suite that we know in a simulated VPC (root)
	PYTHON=$(PYTHON) tests/boot/run --all

pythons:  ## the part without namespaces, and a wheelhouse, on Pythons of Debian sid (root)
	tests/pythons

.PHONY: help unit kernel lint all one walks docs bench boot pythons
