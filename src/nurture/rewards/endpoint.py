"""An endpoint that speaks OpenAI's chat protocol: one request, repeated within limits, or a clear failure."""

from __future__ import annotations

import http.client
import json
import os
import threading
import time
import urllib.error
import urllib.request
from typing import Any

from ..errors import InputError

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 20.0
"""Seconds between a failed request and the next one, doubled each time."""
GIVE_UP = 8
"""Requests that failed for good in a row, after which an endpoint counts as dead."""
LONGEST_REPLY = 4 << 20
WORTH_REPEATING = (408, 409, 425, 429, 500, 502, 503, 504)


class EndpointFailed(Exception):
    """No usable reply, and why."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A key is sent to the address that was given, and to no other."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Endpoint:
    """For one batch of requests, from any number of threads."""

    def __init__(self, url: str, key_env: str, seconds: float, tries: int):
        self.url = f"{url.rstrip('/')}/chat/completions"
        self.headers = {"Content-Type": "application/json"}
        if key_env:
            if key_env not in os.environ:
                raise InputError(f"key_env names the environment variable {key_env!r}, which is not set.")
            self.headers["Authorization"] = f"Bearer {os.environ[key_env]}"
        self.seconds, self.tries = seconds, tries
        self._opener = urllib.request.build_opener(_NoRedirects)
        self._lock = threading.Lock()
        self._failed_in_a_row = 0

    def chat(self, model: str, prompt: str, max_tokens: int) -> str:
        """The reply to one user turn, drawn greedily."""
        body = {
            "model": model, "messages": [{"role": "user", "content": prompt}], "temperature": 0,
            "max_tokens": max_tokens,
        }  # fmt: skip
        if self._failed_in_a_row >= GIVE_UP:
            raise EndpointFailed(f"not asked: the endpoint had failed {GIVE_UP} times in a row")
        pause, fault = FIRST_PAUSE, ""
        for number in range(self.tries):
            if number:
                time.sleep(min(pause, LONGEST_PAUSE))
            try:
                reply = self._post(body)
                break
            except _Again as error:
                fault, pause = str(error), max(2 * pause, error.after)
            except EndpointFailed:
                self._count(failed=True)
                raise
        else:
            self._count(failed=True)
            raise EndpointFailed(f"{fault} ({self.tries} tries)")
        self._count(failed=False)
        return reply

    def _count(self, failed: bool) -> None:
        with self._lock:
            self._failed_in_a_row = self._failed_in_a_row + 1 if failed else 0

    def _post(self, body: dict[str, Any]) -> str:
        request = urllib.request.Request(self.url, json.dumps(body).encode(), self.headers)
        try:
            with self._opener.open(request, timeout=self.seconds) as response:
                data = _read(response, time.monotonic() + self.seconds)
        except urllib.error.HTTPError as error:
            with error:
                said = error.read(300).decode(errors="replace")
            message = f"status {error.code} from {self.url}: {' '.join(said.split())[:200]}"
            if error.code in WORTH_REPEATING:
                raise _Again(message, _retry_after(error.headers.get("Retry-After"))) from None
            raise EndpointFailed(message) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error) or type(error).__name__
            raise _Again(f"no reply from {self.url}: {reason}") from None
        return _content(data)


class _Again(Exception):
    """A failure that may pass; not before `after` seconds, where the endpoint said so."""

    def __init__(self, message: str, after: float = 0.0):
        super().__init__(message)
        self.after = after


def _read(response: Any, deadline: float) -> bytes:
    """The whole body. The socket's own timeout is for each piece, so one that drips is cut off here."""
    data = bytearray()
    while piece := response.read1(1 << 16):
        data += piece
        if len(data) > LONGEST_REPLY:
            raise EndpointFailed("the reply is too long")
        if time.monotonic() > deadline:
            raise TimeoutError("the reply took too long")
    if response.length:
        raise http.client.IncompleteRead(bytes(data), response.length)
    return bytes(data)


def _content(data: bytes) -> str:
    try:
        content = json.loads(data)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError):
        raise _Again(f"not a chat completion: {data[:100].decode(errors='replace')!r}") from None
    if not isinstance(content, str):
        raise _Again("a chat completion without text")
    return content


def _retry_after(value: str | None) -> float:
    return float(value) if value and value.isdigit() else 0.0
