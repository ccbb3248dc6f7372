"""Pages of the explorer, run without a browser."""

import json
from functools import cache
from pathlib import Path
from typing import Any

APP = Path(__file__).parents[2] / "app.py"


VIEWS = APP.parent / "trace_probe" / "explorer" / "views"


PAGES = tuple(sorted(view.stem for view in VIEWS.glob("[a-z]*.py")))


def new_app() -> Any:
    """Return the explorer, not yet run.

    Streamlit looks for components in all packages that are installed. Here it does so once, not for
    each app: it takes three quarters of the time in which a page opens.
    """
    from streamlit.components.v2 import manifest_scanner
    from streamlit.testing.v1 import AppTest

    search = manifest_scanner.scan_component_manifests
    if not hasattr(search, "cache_info"):
        setattr(manifest_scanner, search.__name__, cache(search))
    return AppTest.from_file(str(APP), default_timeout=60)


def open_page(page: str, **query: str) -> Any:
    app = new_app()
    for key, value in query.items():
        app.query_params[key] = value
    if page != "home":
        app.switch_page(str(VIEWS / f"{page}.py"))
    return app.run()


def words(app: Any) -> str:
    parts = [*app.text, *app.code, *app.error, *app.info, *app.warning, *app.success]
    parts += [*app.title, *app.subheader]
    return "\n".join(str(part.value) for part in parts)


def reader_content(app: Any) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(app.get("bidi_component")[0].proto.json)["sides"][0]
    return content
