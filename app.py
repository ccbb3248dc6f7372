"""The explorer, from a checkout: ``streamlit run app.py``."""

from trace_probe.explorer.main import main

main()
