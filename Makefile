.PHONY: check engine fix demo slice app picture docs

check:
	ruff format --check .
	ruff check .
	mypy
	pytest -n auto

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

app:
	streamlit run app.py

picture:
	python -m benchmarks.picture notebooks/trace.png

docs:  # needs: pip install -e ".[docs]"; the site is written to build/site
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict
