"""What is built for others: a wheel with all that runs, a source archive with all that tests."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.version import Version

from trace_probe.organism.family import FAMILY

ROOT = Path(__file__).parents[1]
BUILD = "from setuptools import build_meta as b; b.build_sdist('dist'); b.build_wheel('dist')"
MOST_BYTES = 20 * 2**20


def tracked() -> list[str]:
    done = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        pytest.skip("not a git checkout: no list of committed files")
    return [name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the wheel and the source archive, built of the committed files alone."""
    if Version(importlib.metadata.version("setuptools")) < Version("77"):
        pytest.skip("setuptools is older than 77 (extra: test)")
    folder = tmp_path_factory.mktemp("build")
    for name in tracked():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    done = subprocess.run([sys.executable, "-c", BUILD], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    (wheel,), (archive,) = folder.glob("dist/*.whl"), folder.glob("dist/*.tar.gz")
    return wheel, archive


def test_an_editable_install_is_found_beside_the_folder_of_the_clone(tmp_path: Path) -> None:
    if Version(importlib.metadata.version("setuptools")) < Version("77"):
        pytest.skip("setuptools is older than 77 (extra: test)")
    clone, site = tmp_path / "trace_probe", tmp_path / "site"
    for name in ("pyproject.toml", "README.md", "LICENSE", "trace_probe/__init__.py"):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, clone / name)
    build = "from setuptools import build_meta as b; b.build_editable('dist')"
    done = subprocess.run([sys.executable, "-c", build], capture_output=True, text=True, cwd=clone)
    assert done.returncode == 0, done.stderr
    (wheel,) = clone.glob("dist/*.whl")
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(site)
    find = (
        "import site; site.addsitedir('site'); "
        "from importlib.util import find_spec; print(find_spec('trace_probe').origin)"
    )
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [sys.executable, "-S", "-c", find]  # without what is installed here
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=clean)
    assert done.stdout.strip() == str(clone / "trace_probe" / "__init__.py"), done.stderr


def test_the_wheel_holds_the_package_and_nothing_else(built: tuple[Path, Path]) -> None:
    wheel, _ = built
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())
    package = {name for name in names if ".dist-info/" not in name}
    assert package == {name for name in tracked() if name.startswith("trace_probe/")}
    assert wheel.stat().st_size < MOST_BYTES


def test_the_wheel_holds_the_organisms_and_the_reader(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[0]) as opened:
        names = set(opened.namelist())
    for one in FAMILY:
        for file in ("config.json", "model.safetensors", "tokenizer.json", "card.json"):
            assert f"trace_probe/organism/family/{one.name}/{file}" in names
    for kind in ("js", "css", "html"):
        assert any(n.startswith("trace_probe/explorer/") and n.endswith(f".{kind}") for n in names)


def test_the_source_archive_holds_every_committed_file(built: tuple[Path, Path]) -> None:
    """But for files that begin with a dot, so that the tests can be run from it."""
    with tarfile.open(built[1]) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    assert {name for name in tracked() if not name.startswith(".")} <= names
    assert not [name for name in names if "__pycache__" in name or "/cache/" in name]
