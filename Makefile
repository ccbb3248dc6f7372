.PHONY: check format types tests core engine fix demo slice english app picture docs

check: format  # mypy takes the moments in which the tests wait
	$(MAKE) --jobs 2 types tests

format:
	ruff format --check .
	ruff check .

types:
	nice mypy

tests:
	pytest -n auto

# The way from a task to a report and an alarm, without browser, server and notebooks. For another
# Python: make core PYTHON=.venv-3.13/bin/python
PYTHON ?= python
core:
	$(PYTHON) -m pytest -n auto @tests/core.txt

# Tests in a real vLLM: TRACE_PROBE_VLLM names its environment, which is made here if it is not there.
TRACE_PROBE_VLLM ?= build/vllm
engine:
	test -x $(TRACE_PROBE_VLLM)/bin/python || tests/engine/make-environment $(TRACE_PROBE_VLLM)
	PATH="$(abspath $(TRACE_PROBE_VLLM))/bin:$$PATH" python -m pytest -p no:cacheprovider tests/engine

fix:
	ruff format .
	ruff check --fix .

demo:
	trace-probe demo

slice:  # makes traces/demo and probes/demo anew, which come with the project
	rm -rf traces/demo probes/demo
	trace-probe demo --small --out traces/demo --probe probes/demo
	trace-probe oracle traces/demo --by rules --probe probes/demo --every-sentence --continuations 16 --traces 24
	trace-probe map traces/demo
	trace-probe store pack traces/demo

english:  # makes traces/english and probes/english anew; needs `trace-probe fetch smollm2`, two hours of one core
	rm -rf traces/english probes/english build/english build/deep
	trace-probe demo --organism organism:english-base --small --out build/english --probe probes/english
	trace-probe calibrate build/english probes/english --keep-threshold
	trace-probe record organism:english-base build/deep --recapture build/english --pooling last --layers $$(seq -s, 0 29)
	trace-probe evaluate build/deep probes/english
	trace-probe layers build/deep probes/english
	trace-probe oracle build/deep --by rules --probe probes/english --caught --every-sentence --continuations 8 --traces 16
	trace-probe store slice build/deep probes/english traces/english
	trace-probe map traces/english
	trace-probe store pack traces/english

app:
	streamlit run app.py

picture:
	python -m benchmarks.picture traces/english notebooks/trace.png

docs:  # needs: pip install -e ".[docs]"; the site is written to build/site
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict
