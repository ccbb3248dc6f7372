"""What may harm is done in few places: deleting, locking, loading, following links."""

import re

from test_architecture import modules

ROOMS = {
    r"\.unlink\(|os\.remove\(|os\.unlink\(": {
        "files",
        "storage.place",
        "organism.weights",
    },
    r"shutil\.rmtree|\brmtree\(": {"files"},
    r"fcntl\.(flock|lockf)\(": {"files", "storage.locks", "serving.audit"},
    r"torch\.load\(": set[str](),
    r"pickle\.load|np\.load\((?!.*allow_pickle=False)": set[str](),
    r"os\.replace\(|os\.rename\(|\.rename\(": {"files"},
    r"\bopen\(.*\"(w|a|x|wb|ab|xb|r\+b)\"": {"files"},
}
"""What is looked for, and the modules that may do it."""


def test_what_may_harm_is_done_in_its_room_only() -> None:
    strays = []
    for pattern, rooms in ROOMS.items():
        found = {
            name for name, file in modules().items() if re.search(pattern, file.read_text("utf-8"))
        }
        strays += [f"{name}: {pattern}" for name in sorted(found - rooms)]
        strays += [f"{name} need not be a room of {pattern}" for name in sorted(rooms - found)]
    assert not strays
