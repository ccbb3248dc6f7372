"""Pages of the explorer, run without a browser."""

import json
from pathlib import Path
from typing import Any

APP = Path(__file__).parents[2] / "app.py"


VIEWS = APP.parent / "trace_probe" / "explorer" / "views"


PAGES = tuple(sorted(view.stem for view in VIEWS.glob("[a-z]*.py")))


def open_page(page: str, **query: str) -> Any:
    from streamlit.testing.v1 import AppTest

    app = AppTest.from_file(str(APP), default_timeout=20)
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
