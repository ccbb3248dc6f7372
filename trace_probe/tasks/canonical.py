"""Which of InstrumentalEval's 76 tasks a prompt is, for transcripts that come without its id.

Prompts are known by a digest of their text; the text itself is not part of this project.
"""

from trace_probe.files import tables_beside
from trace_probe.tasks.published import task_id
from trace_probe.trace import digest

DIGESTS = tables_beside(__file__)
"""By category and in order, the first 8 digits of `digest` of each prompt."""
_KNOWN = {
    found: (task_id(category, number), category)
    for category, digests in DIGESTS.items()
    for number, found in enumerate(digests, start=1)
}


def canonical(prompt: str) -> tuple[str, str] | None:
    """Return id and category of the task whose prompt this is, None if it is none of the 76."""
    return _KNOWN.get(digest(prompt.strip())[:8])
