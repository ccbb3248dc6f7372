.PHONY: check fix demo app

check:
	ruff format --check .
	ruff check .
	mypy
	pytest

fix:
	ruff format .
	ruff check --fix .

demo:
	trace-probe demo

app:
	streamlit run app.py
