"""How a client is told that it may not."""

from typing import Any


class Refusal(Exception):
    """A request that gets an error for an answer, in OpenAI's form."""

    def __init__(self, status: int, message: str, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param

    @property
    def body(self) -> dict[str, Any]:
        """Return the body of the answer."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers that say what to do about it."""
        if self.status == 401:
            return {"www-authenticate": "Bearer"}
        return {"retry-after": "1"} if self.status in (429, 503) else {}


def bad(message: str, param: str | None) -> Refusal:
    """Return the refusal of a request that is malformed, or asks what is not served."""
    return Refusal(400, message, "invalid_request", param)
