"""What may be called what: one pattern for the ids and names that become names of files."""

import re

from trace_probe.errors import StoreError, TraceProbeError

NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 ._+:@=,()%~-]{0,198}[A-Za-z0-9_+:@=)%~-])?")


def checked_name(name: object, what: str, wrong: type[TraceProbeError] = StoreError) -> str:
    """Return a name that is safe in a path; `what` says in an error whose name it is.

    Raises:
        TraceProbeError: of the kind `wrong`; it could lead out of its folder, or is no name.
    """
    if isinstance(name, str) and NAME.fullmatch(name):
        return name
    shown = repr(name) if len(repr(name)) <= 80 else f"{repr(name)[:77]}..."
    raise wrong(
        f"{what} cannot be called {shown}: use up to 200 letters, digits, spaces and "
        f"._+:@=,()%~- that begin with a letter or a digit"
    )
