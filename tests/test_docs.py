"""The documentation: it builds without a warning, names what is there, and its commands parse."""

import os
import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name

import pytest

import trace_probe as tp
from trace_probe.tasks.sources import tasks_from

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))


def test_every_public_name_has_its_place_in_the_reference() -> None:
    text = (ROOT / "docs" / "api.md").read_text("utf-8")
    named = set(re.findall(r"^::: ([\w.]+)$", text, re.MULTILINE))
    objects = [tasks_from if name == "tasks" else getattr(tp, name) for name in tp.__all__]
    assert {f"{one.__module__}.{one.__qualname__}" for one in objects} <= named
    assert all(resolve_name(name) for name in named)


def test_every_page_is_reached_from_the_menu() -> None:
    menu = (ROOT / "mkdocs.yml").read_text("utf-8")
    assert [page.name for page in PAGES if f" {page.name}\n" not in menu] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8"))
    assert not [link for link in links if not page.parent.joinpath(link).is_file()]


def test_extras_that_the_pages_name_are_there() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    named = {
        name
        for page in PAGES
        for name in re.findall(r'install -e "\.\[(\w+)\]"', page.read_text("utf-8"))
    }
    assert named
    assert named <= set(extras["optional-dependencies"])


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    if not (find_spec("mkdocs") and find_spec("material") and find_spec("mkdocstrings")):
        pytest.skip("MkDocs is not installed (extra: docs)")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(build, capture_output=True, text=True, cwd=ROOT, env=quiet)
    assert (done.returncode, "WARNING" in done.stderr) == (0, False), done.stderr
    page = (tmp_path / "api" / "index.html").read_text("utf-8")
    assert "trace_probe.monitor.live.Monitor" in page
    assert "fonts.googleapis.com" not in page
