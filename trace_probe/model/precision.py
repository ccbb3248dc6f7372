"""Numbers that a model's precision cannot hold, and what its user is told then."""

from trace_probe.errors import ModelError


def overflowed(what: str) -> ModelError:
    """Return the error for values of a model that are inf or nan.

    Scores of nan would never alarm, and logits of nan draw tokens of no meaning, so neither may
    pass unseen.
    """
    return ModelError(
        f"{what} are inf or nan, which float16 gives where values exceed 65,504: load the model "
        f"in bfloat16 or float32; if it is already, its weights are damaged: fetch them again"
    )
