"""A model server is a stranger: no key is kept, nothing is followed, nothing is without bound."""

import base64
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import label_of, make_run, make_trace
from servers import Answer, completion, scripted

from trace_probe.errors import ServerError
from trace_probe.labelling.judge import Judge, JudgeServers
from trace_probe.labelling.runs import format_cost, label_run
from trace_probe.labels import Label
from trace_probe.model import endpoint
from trace_probe.model.endpoint import Patience, RequestError, Servers, retry_after, run
from trace_probe.model.keys import KEY, check_key, refuse_secrets, without_key
from trace_probe.model.reply import Odd, read_reply
from trace_probe.store import Store
from trace_probe.trace import Trace

SECRET = "sk-proj-Ab3/x+Yz_0987654321"
QUICK = Patience(attempts=2, first_wait_s=0.01, timeout_s=20)


def ask(url: str, patience: Patience = QUICK) -> Any:
    async def once() -> Any:
        async with Servers((url,), patience) as servers:
            return await servers.ask({"model": "m", "messages": [{"role": "user", "content": "?"}]})

    return run(once)


# Keys


@pytest.mark.parametrize("wrong", ["\n", " ", "é", "\ufeff", "\u201c", "\x00", "\t"])
def test_a_key_that_cannot_be_one_is_refused_before_it_is_used_and_is_not_printed(
    wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = f"sk-secret{wrong}12345"
    monkeypatch.setattr("os.environ", {KEY: key})
    with pytest.raises(ServerError, match="at place 10 of 15") as raised:
        Servers(("http://127.0.0.1:9/v1",))
    assert "secret" not in str(raised.value)
    monkeypatch.setattr("os.environ", {KEY: SECRET})
    assert check_key(KEY) == SECRET


def forms(key: str) -> list[str]:
    """Return a key as careless or hostile servers write it."""
    data = key.encode()
    return [
        key,
        json.dumps(key),
        json.dumps(json.dumps(key)),
        key.replace("/", "\\/"),
        "".join(f"\\u{ord(char):04x}" for char in key),
        "".join(f"%{byte:02X}" for byte in data),
        "".join(f"&#{byte};" for byte in data),
        "".join(f"\\x{byte:02x}" for byte in data),
        data.hex(),
        *(base64.b64encode(lead + data).decode() for lead in (b"", b"B", b"Be", b"Bearer ")),
        base64.urlsafe_b64encode(data).decode(),
        base64.b64encode(b"user:" + data + b"@host").decode(),
    ]


@pytest.mark.parametrize("number", range(len(forms(SECRET))))
@pytest.mark.parametrize("key", [SECRET, "sk-plain-0123456789", "0123456789abcdef"])
def test_a_key_is_struck_out_in_every_form(
    key: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY, key)
    form = forms(key)[number]
    struck = without_key(f"before {form} after")
    assert "***" in struck
    assert struck.startswith("before ")
    assert struck.endswith(" after")
    assert form[4:-4] not in struck
    assert without_key("a text that says nothing of it") == "a text that says nothing of it"


def test_a_placeholder_is_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "none")
    assert without_key("none of it") == "none of it"


@pytest.mark.parametrize("number", range(len(forms(SECRET))))
def test_a_good_reply_that_repeats_the_key_is_kept_without_it(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY, SECRET)
    form = forms(SECRET)[number]
    verdict = json.dumps({"verdict": "not_instrumental", "reason": f"I saw {form}.", "quotes": []})
    store = make_run(tmp_path / "run", range(1))
    with scripted(lambda _n, _b: completion(verdict, reasoning=f"hm {form}")) as asked:
        judge = Judge("j", "judge", JudgeServers((asked.url,), tmp_path / "cache", patience=QUICK))
        label_run(store, judge, progress=False)
    assert asked.headers[0]["authorization"] == f"Bearer {SECRET}"
    kept = b"".join(file.read_bytes() for file in tmp_path.rglob("*.json*"))
    assert b"I saw" in kept
    assert SECRET.encode() not in kept
    assert form[4:-4].encode() not in kept


@pytest.mark.parametrize(
    "url", ["", "localhost:8000", "ftp://host/v1", "http://", "http://[::1", "http://h:99999/v1"]
)
def test_an_address_that_is_none_is_one_sentence(url: str) -> None:
    with pytest.raises(ServerError, match="is no address of a server: write"):
        refuse_secrets([url], {})


# Replies without bound


@contextmanager
def raw(head: bytes, chunk: bytes, pause_s: float = 0.0) -> Iterator[str]:
    """Serve one head and then the same chunk again and again."""
    stop, sock = threading.Event(), socket.create_server(("127.0.0.1", 0))
    sock.settimeout(0.05)

    def answer(connection: socket.socket) -> None:
        with connection:
            connection.recv(1 << 16)
            try:
                connection.sendall(head)
                while not stop.is_set():
                    connection.sendall(chunk)
                    time.sleep(pause_s)
            except OSError:
                return

    def serve() -> None:
        while not stop.is_set():
            try:
                answering = threading.Thread(target=answer, args=(sock.accept()[0],), daemon=True)
            except TimeoutError:
                continue
            answering.start()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}/v1"
    finally:
        stop.set()
        thread.join()
        sock.close()


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"


def test_a_body_without_end_is_left_at_the_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "MOST_BYTES", 1 << 20)
    with (
        raw(HEAD + b"content-length: 300000000\r\n\r\n", b" " * 65536) as url,
        pytest.raises(RequestError, match="longer than 1 MB"),
    ):
        ask(url)


def test_a_drip_does_not_outlive_the_deadline() -> None:
    start = time.monotonic()
    with (
        raw(HEAD + b"content-length: 300000000\r\n\r\n", b" ", 0.02) as url,
        pytest.raises(RequestError, match="no whole answer within 0.3 s"),
    ):
        ask(url, Patience(attempts=2, first_wait_s=0.01, timeout_s=0.3))
    assert time.monotonic() - start < 10


def test_a_packed_body_is_not_unpacked() -> None:
    with (
        raw(HEAD + b"content-encoding: gzip\r\ncontent-length: 9\r\n\r\n", b"\x1f\x8b") as url,
        pytest.raises(RequestError, match=r"is packed \(gzip\)"),
    ):
        ask(url)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_trace_is_not_sent_on_to_where_a_server_points(status: int) -> None:
    with scripted(lambda _n, _b: completion("mine")) as other:
        points = Answer(status, b"", {"location": f"{other.url}/chat/completions"})
        with (
            scripted(lambda _n, _b: points) as asked,
            pytest.raises(RequestError, match=f"status {status}.*points elsewhere"),
        ):
            ask(asked.url)
    assert len(asked.bodies) == 1
    assert not other.bodies


# Odd replies

ODD = (
    {"content": 7},
    {"content": ["a"]},
    {"content": {"text": "a"}},
    {"content": "\ud800"},
    {"content": "a", "refusal": 3},
    {"reasoning": "\udfff"},
    {"reasoning_details": 3},
    {"reasoning_details": [3]},
)


@pytest.mark.parametrize("message", ODD, ids=lambda one: ascii(one))
def test_an_odd_reply_is_a_passing_fault(message: dict[str, Any]) -> None:
    odd = {"choices": [{"message": {"content": "a", **message}}]}
    with scripted(
        lambda n, _b: completion("good") if n else Answer(body=json.dumps(odd).encode())
    ) as asked:
        assert ask(asked.url).text == "good"


DEEP = b'{"choices":' + b"[" * 200_000 + b"]" * 200_000 + b"}"


@pytest.mark.parametrize("body", [DEEP, b"", b"[]", b"null", b'"x"', b"\xff", b"{}", b'{"a":1e'])
def test_a_judge_that_answers_nonsense_gives_unknown_labels_and_ends_nothing(
    body: bytes, tmp_path: Path
) -> None:
    store = make_run(tmp_path / "run", range(2))
    with scripted(lambda _n, _b: Answer(body=body)) as asked:
        judge = Judge("j", "judge", JudgeServers((asked.url,), patience=QUICK))
        found = label_run(store, judge, progress=False)
    assert (found.labelled, found.unknown) == (2, 2)
    assert "no chat completion" in next(iter(store.labels().values())).rationale


@pytest.mark.parametrize("count", ["1e999", "-5", "NaN", '"many"', "[]", "0.5", "true", "1e30"])
def test_a_count_that_cannot_be_is_unknown(count: str, tmp_path: Path) -> None:
    verdict = json.dumps(json.dumps({"verdict": "unclear", "reason": "", "quotes": []}))
    body = (
        f'{{"choices": [{{"message": {{"content": {verdict}}}}}],'
        f'"usage": {{"prompt_tokens": {count}, "completion_tokens": {count}}}}}'
    )
    store = make_run(tmp_path / "run", range(1))
    with scripted(lambda _n, _b: Answer(body=body.encode())) as asked:
        judge = Judge("j", "judge", JudgeServers((asked.url,), patience=QUICK))
        found = label_run(store, judge, progress=False)
    assert found.cost is not None
    assert (found.cost.prompt_tokens, found.cost.completion_tokens) == (0, 0)
    assert found.cost.uncounted == found.cost.requests > 0
    assert "tokens of 1 requests unknown" in format_cost(found.cost, (1.0, 1.0)).replace(
        f"of {found.cost.requests} requests", "of 1 requests"
    )


FIELDS = (
    *("choices", "message", "content", "text", "refusal", "reasoning", "reasoning_details"),
    *("usage", "token_ids", "prompt_tokens", "completion_tokens", "finish_reason"),
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None, categories=None))
    | st.sampled_from(["stop", "length", "content_filter"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(FIELDS),
            inner,
            max_size=6,
        )
    ),
    max_leaves=24,
)


@settings(max_examples=200)
@given(JSON)
def test_whatever_a_server_sends_is_read_or_called_odd(body: object) -> None:
    choice = {"choices": [{"message": body}], "usage": body}
    for one in (body, {"choices": body}, {"choices": [body]}, choice):
        try:
            reply = read_reply(one)
        except Odd:
            continue
        (reply.text + (reply.reasoning or "") + reply.refusal).encode()
        assert all(count is None or count >= 0 for count in (reply.prompt_tokens,))


@settings(max_examples=200)
@given(st.text(max_size=20) | st.floats().map(str))
def test_a_server_can_ask_for_any_patience_and_gets_a_number_or_none(text: str) -> None:
    found = retry_after(text)
    assert found is None or 0 <= found < float("inf")


# Labels are kept as they come


class Faulty:
    """A labeller that breaks at one of the traces."""

    name = "faulty"

    def __init__(self, at: int) -> None:
        self.at, self.asked = at, 0

    def label(self, trace: Trace) -> Label:
        self.asked += 1
        if self.asked == self.at:
            raise KeyboardInterrupt
        return Label(trace.id, self.name, False)


def test_labels_that_came_before_an_interruption_are_kept_and_no_line_is_repeated(
    tmp_path: Path,
) -> None:
    store = make_run(tmp_path / "run", range(8))
    with pytest.raises(KeyboardInterrupt):
        label_run(store, Faulty(6), progress=False)
    assert len(Store(store.path).labels("faulty")) == 5
    label_run(store, Faulty(0), progress=False)
    assert len(store.labels("faulty")) == 8
    assert len([one for one in store.every_label() if one.labeller == "faulty"]) == 8


def test_labelling_again_adds_only_what_changed(tmp_path: Path) -> None:
    store = make_run(tmp_path / "run", range(3))
    with store.writing():
        store.add_labels([label_of(make_trace(0))])
    before = len(list(store.every_label()))
    for _ in range(2):
        label_run(store, Faulty(0), progress=False)
    assert len(list(store.every_label())) == before + 3
