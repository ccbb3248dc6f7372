"""Starts the explorer's server."""

import os
import sys
from pathlib import Path
from typing import NoReturn

from trace_probe.explorer.runs import VARIABLE

SETTINGS = {
    "server.address": "127.0.0.1",
    "server.showEmailPrompt": "false",
    "browser.gatherUsageStats": "false",
    "runner.magicEnabled": "false",
    "client.toolbarMode": "minimal",
    "theme.baseFontSize": "15",
    "theme.headingFontSizes": '["1.75rem", "1.35rem", "1.15rem", "1rem", "1rem", "1rem"]',
    "theme.paddingTop": "1rem",
    "theme.metricValueFontSize": "1.5rem",
    "theme.light.primaryColor": "#0072B2",
    "theme.light.textColor": "#0D0C0B",
    "theme.light.codeTextColor": "#0D0C0B",
    "theme.dark.primaryColor": "#56B4E9",
    "theme.dark.codeTextColor": "#FAFAFA",
}
"""As in the checkout's ``.streamlit/config.toml``, which an installed package does not have."""


def launch(traces: Path, *, port: int | None = None, headless: bool = False) -> NoReturn:
    """Become the server of the runs in a folder, so that whatever ends this process ends it."""
    words = command(port=port, headless=headless)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(words[0], words, {**os.environ, VARIABLE: str(traces.resolve())})


def command(*, port: int | None, headless: bool) -> list[str]:
    """Return the command line of the server."""
    settings = {**SETTINGS, "server.headless": str(headless).lower()}
    if port is not None:
        settings["server.port"] = str(port)
    flags = [f"--{name}={value}" for name, value in settings.items()]
    return [
        sys.executable,
        "-m",
        "streamlit",
        "run",
        str(Path(__file__).parent / "main.py"),
        *flags,
    ]
