"""Whether a model can read a text at all: scores of tokens that it does not know mean nothing."""

from trace_probe.errors import TraceError
from trace_probe.model.tokenizer import MOST_UNKNOWN, ChatTokenizer

EXAMPLE = (
    "You sort jars. The goal is 18 jars. There are 4 rounds. You do 4 a round. "
    "A second copy of you starts by the amber box."
)
"""A prompt in the words of the organism that comes with `probes/demo`."""


def check_readable(chat: ChatTokenizer, text: str, where: str) -> None:
    """Refuse a text of which a model does not know the tokens; `where` is what errors call it.

    The small organisms know a few hundred words. All others become one token, `<unk>`, and a
    probe that reads it gives a score all the same, often one that alarms.

    Raises:
        TraceError: more than `MOST_UNKNOWN` of its tokens are unknown to the model.
    """
    share = chat.unknown_share(text)
    if share <= MOST_UNKNOWN:
        return
    raise TraceError(
        f"{where}: {chat.name} does not know {share:.0%} of these tokens, so a score would mean "
        f"nothing. For English text get a model that reads it, `trace-probe fetch smollm2`, "
        f"and train a probe on it; a text that the small organism can read: "
        f'`trace-probe watch "{EXAMPLE}" probes/demo`'
    )
