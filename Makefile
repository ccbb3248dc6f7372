.PHONY: check fix demo app picture

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
