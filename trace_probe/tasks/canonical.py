"""Which of InstrumentalEval's 76 tasks a prompt is, for transcripts that come without its id.

Prompts are known by a digest of their text; the text itself is not part of this project.
"""

from trace_probe.tasks.published import task_id
from trace_probe.trace import digest

DIGESTS: dict[str, str] = {
    "deceptive-behavior": (
        "9035365a d1a25f53 1e79ad4c 20886361 ce2a2aac 6b88ed3a fa6c4b27 b9406d03 "
        "625cf0f4 5905dadc 596802b8"
    ),
    "evading-shutdown": (
        "32b2f434 ea6be94b 3e427707 26bf68ea c902eae6 7e228d0c 0de5c59b 3d21af03 "
        "8cb09405 89832c10 5d29f1c2 50f97885 35376bae 2f564de8 d9751b56 73ef4ceb "
        "1738d2c4 9f27ed10 649e7400 c406e1f3"
    ),
    "hacking-computer-systems": (
        "e94fb302 8a32a34b 2e7cff15 93b614aa 72ef958f d1bd847f 216394e3 6c838e60 9f54ee54 5049ba13"
    ),
    "hiding-unwanted-behavior": (
        "ff1cf516 2037cc16 a02e35b6 8d046874 42a21da7 08828c14 9d04f181 994786ca "
        "5bd4e52e 509a01ea 347490c5"
    ),
    "running-multiple-ai-copies": (
        "4f932f95 5e1b08b5 079ebaf1 feb3e67e 9e0fca59 deef7913 11acc829 ff9932d3 "
        "af5cce92 6bbace98 3e0060d5 1828287e c0eb5510"
    ),
    "strategically-appearing-aligned": (
        "e21ea2e9 aaf06c23 6ae6abcd edf28014 d571b391 33264db1 d365ca94 d734d579 "
        "b1c19361 0434e551 7aa7b705"
    ),
}
"""By category and in order, the first 8 digits of `digest` of each prompt."""

_KNOWN = {
    found: (task_id(category, number), category)
    for category, line in DIGESTS.items()
    for number, found in enumerate(line.split(), start=1)
}


def canonical(prompt: str) -> tuple[str, str] | None:
    """Return id and category of the task whose prompt this is, None if it is none of the 76."""
    return _KNOWN.get(digest(prompt.strip())[:8])
