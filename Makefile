# The daily commands. `make` lists them.
COMPILE = uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	--no-emit-index-url --no-emit-find-links
.PHONY: help install lock format lint types test fast faults bench docs
help:    ## this list
	@grep -E '^[a-z]+: .*##' Makefile | sed 's/:.*##/\t/'
install: ## the package, editable, with everything for its tests
	pip install -e '.[embedded,plot,test]'
lock:    ## requirements/*.txt, versions with hashes for CI and the image (needs uv)
	$(COMPILE) --group build --output-file requirements/build.txt
	$(COMPILE) pyproject.toml --extra embedded --extra plot --extra test --output-file requirements/ci.txt
	$(COMPILE) pyproject.toml --output-file requirements/image.txt
format:  ## lay out the code
	ruff format . && ruff check --fix .
lint:    ## style
	ruff check . && ruff format --check .
types:   ## mypy --strict
	mypy
test:    ## everything
	pytest -n 2 --dist loadfile
fast:    ## only what is quick
	pytest -m 'not slow'
faults:  ## every fault and a long soak, 18 minutes; writes docs/reliability.md
	pytest tests/faults --reliability docs/reliability.md
bench:   ## cost of recording, exporting and reading live, side by side with the alternatives
	python benchmarks/ingest.py
	python benchmarks/export.py
	python benchmarks/retention.py
	python benchmarks/latency.py
docs:    ## docs/configuration.md from the code, the files of sql/ into docs/sql.md
	python docs/generate.py
