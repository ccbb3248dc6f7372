.PHONY: check fix demo app picture docs

check:
	ruff format --check .
	ruff check .
	mypy
	pytest -n auto

fix:
	ruff format .
	ruff check --fix .

demo:
	trace-probe demo

app:
	streamlit run app.py

picture:
	python -m benchmarks.picture notebooks/trace.png

docs:  # needs: pip install -e ".[docs]"; the site is written to build/site
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict
