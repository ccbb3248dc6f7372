"""Alarms reach the webhook signed, are tried again, and hold nobody up."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from servers import Answer, Asked, scripted

from trace_probe.errors import ServerError
from trace_probe.serving.webhook import SECRET, Hook, Webhook, hook_from

KEY = "a secret of some length"
ALARM = {"event": "alarm", "completion": "chatcmpl-1", "probe": "p", "text": "Wait, déjà vu."}


def sent(
    answer: Callable[[int, dict[str, Any]], Answer], alarms: int = 1, **patience: Any
) -> tuple[Counter[str], Asked, float]:
    """Send alarms to a scripted server; return what became of them, and how long `put` took."""
    found: Counter[str] = Counter()
    quick: dict[str, Any] = {"first_wait": 0.01, "try_seconds": 1.0, "deadline_seconds": 5.0}

    async def run(url: str) -> float:
        hook = replace(Hook(url, KEY.encode()), **{**quick, **patience})
        async with Webhook(hook, lambda result: found.update([result])).running() as webhook:
            began = time.monotonic()
            for number in range(alarms):
                webhook.put({**ALARM, "sentence": number})
            return time.monotonic() - began

    with scripted(answer) as asked:
        took = asyncio.run(run(asked.url.removesuffix("/v1") + "/alarms"))
    return found, asked, took


def test_an_alarm_is_signed_so_that_the_receiver_can_tell_it_from_a_forgery() -> None:
    found, asked, _ = sent(lambda *_: Answer(204))
    assert found == {"delivered": 1}
    headers, body = asked.headers[0], json.dumps(asked.bodies[0]).encode()
    assert asked.bodies[0] == {"type": "trace_probe.alarm", "data": {**ALARM, "sentence": 0}}
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    mac = hmac.new(KEY.encode(), signed, hashlib.sha256).digest()
    assert headers["webhook-signature"] == "v1," + base64.b64encode(mac).decode()
    assert KEY not in str(asked.headers)


def test_a_passing_fault_is_tried_again_with_the_same_id() -> None:
    found, asked, _ = sent(lambda number, _: Answer((500, 429, 200)[number]))
    assert found == {"delivered": 1}
    assert len(asked.bodies) == 3
    assert len({each["webhook-id"] for each in asked.headers}) == 1


@pytest.mark.parametrize("status", [301, 307, 400, 404])
def test_a_redirect_is_not_followed_and_a_refusal_is_final(status: int) -> None:
    with scripted(lambda *_: Answer()) as other:
        moved = Answer(status, headers={"location": other.url})
        found, asked, _ = sent(lambda number, _: Answer() if number else moved, alarms=2)
    assert found == {"given-up": 1, "delivered": 1}  # one alarm given up does not end the next
    assert len(asked.bodies) == 2
    assert not other.bodies


def test_a_receiver_that_does_not_answer_is_left_at_the_deadline() -> None:
    began = time.monotonic()
    found, asked, took = sent(
        lambda *_: Answer(delay_s=1.0), try_seconds=0.2, deadline_seconds=0.3, first_wait=0.2
    )
    assert found == {"given-up": 1}
    assert len(asked.bodies) == 1
    assert took < 0.9  # it does not wait for the answer, which takes a second
    assert time.monotonic() - began < 5


def test_a_queue_that_is_full_drops_alarms_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    found, _, took = sent(lambda *_: Answer(delay_s=0.05), alarms=20, most_waiting=3)
    assert found["dropped"] >= 16
    assert found["delivered"] + found["dropped"] == 20
    assert took < 0.9  # one after the other they would take a second
    assert "it is in the audit log" in caplog.text


def test_a_server_that_stops_waits_only_so_long(caplog: pytest.LogCaptureFixture) -> None:
    began = time.monotonic()
    sent(lambda *_: Answer(503), first_wait=60.0, deadline_seconds=100.0, closing_seconds=0.2)
    assert time.monotonic() - began < 30
    assert "in the audit log alone" in caplog.text


@pytest.mark.parametrize(
    ("url", "secret", "reason"),
    [
        ("ftp://example.org", KEY, "is no address"),
        ("https://", KEY, "is no address"),
        ("https://me:hush@example.org", KEY, "leave it out"),
        ("http://example.org/alarms", KEY, "use https"),
        ("https://example.org/alarms", "", "set a secret in the environment variable"),
        ("https://example.org/alarms", "curly ’quote", "set it again"),
        ("https://example.org/alarms", "whsec_@@", "is not base64"),
        ("https://example.org/alarms", "whsec_", "shorter than 16 bytes"),
        ("https://example.org/alarms", "hunter2", "shorter than 16 bytes"),
    ],
)
def test_what_cannot_be_a_webhook_is_refused_before_a_model_is_loaded(
    url: str, secret: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SECRET, secret.replace(" ", "") if "curly" not in secret else secret)
    with pytest.raises(ServerError, match=reason) as refused:
        hook_from(url)
    assert "hush" not in str(refused.value)
    assert not secret or secret not in str(refused.value)


def test_the_secret_is_read_as_standard_webhooks_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SECRET, "whsec_" + base64.b64encode(b"\x00\xff raw bytes 123").decode())
    assert hook_from("https://example.org/alarms").secret == b"\x00\xff raw bytes 123"
    monkeypatch.setenv(SECRET, "plain-and-long-enough")
    assert hook_from("http://127.0.0.1:9/alarms").secret == b"plain-and-long-enough"
