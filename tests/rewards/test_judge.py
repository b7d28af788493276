"""Against a real server that speaks the protocol, and one that misbehaves in every way we know."""

import json
import re
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from nurture.errors import InputError, RewardLost
from nurture.protocols import Answer, Failed, Scored, Unscorable
from nurture.records import Message, Task
from nurture.rewards import endpoint, reward_from, score_all

TASK = Task((Message("system", "be kind"), Message("user", "What is 2 + 2?")), "It is 4.")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.requests.append((self.path, dict(self.headers), body))
            number = len(server.requests)
        answer = server.behave(body["messages"][0]["content"], number)
        if callable(answer):
            answer(self)
            return
        status, data, *headers = answer if isinstance(answer, tuple) else (200, completion(answer))
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def completion(text):
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    return json.dumps({"id": "x", "object": "chat.completion", "model": "judge", "choices": [choice]}).encode()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(endpoint, "FIRST_PAUSE", 0.01)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests, server.lock, server.behave = [], threading.Lock(), lambda prompt, number: "[[10]]"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def judged(server, *texts, task=TASK, stop_limit=1.0, **fields):
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    reward = reward_from({"name": "judge", "url": url, "model": "judge-1", "seconds": 2, **fields})
    return score_all(reward, [Answer(task, text) for text in texts], deadline=30, stop_limit=stop_limit)


def between(prompt, start, stop):
    return re.search(f"===== {start} =====\n(.*?)\n===== {stop} =====", prompt, re.DOTALL)[1]


def test_rating(server):
    marks = {"4": "Right. [[10]]", "5": "Wrong. [[1]]", "four": "Not [[3]], rather\n[[ 7 ]]"}
    server.behave = lambda prompt, number: marks[between(prompt, "answer", "end")]
    found = judged(server, "4", "5", "four")
    assert [o.value for o in found] == pytest.approx([1.0, 0.0, 6 / 9])
    assert found[0].reason == "Right. [[10]]"
    path, headers, body = server.requests[0]
    assert path == "/v1/chat/completions" and "Authorization" not in headers
    assert body["model"] == "judge-1" and body["temperature"] == 0 and body["messages"][0]["role"] == "user"
    assert between(body["messages"][0]["content"], "conversation", "answer") == "system: be kind\nuser: What is 2 + 2?"


def test_braces_in_an_answer_are_only_text(server):
    server.behave = lambda prompt, number: "[[10]]" if "{conversation} {0}" in prompt else "[[1]]"
    assert judged(server, "{conversation} {0}")[0].value == 1.0


def test_yes_or_no(server):
    server.behave = lambda prompt, number: "[[Yes]]" if between(prompt, "answer", "end") == "4" else "[[no]]"
    assert [o.value for o in judged(server, "4", "5", how="yes-no", question="Is it 4?")] == [1.0, 0.0]
    assert all(body["messages"][0]["content"].startswith("Is it 4?") for _, _, body in server.requests)


def test_both_orders_cancel_a_preference_for_the_first(server):
    server.behave = lambda prompt, number: "[[A]]"
    assert judged(server, "4", how="compare")[0].value == 0.5
    assert len(server.requests) == 2
    server.behave = lambda prompt, number: "[[A]]" if between(prompt, "answer A", "answer B") == "better" else "[[B]]"
    assert judged(server, "better", how="compare")[0].value == 1.0
    server.behave = lambda prompt, number: "[[B]]" if between(prompt, "answer A", "answer B") == "worse" else "[[A]]"
    assert judged(server, "worse", how="compare")[0].value == 0.0
    server.behave = lambda prompt, number: "[[tie]]" if number % 2 else "[[A]]"
    server.requests.clear()
    assert judged(server, "x", how="compare")[0].value == 0.25
    assert isinstance(judged(server, "x", how="compare", task=Task((), None))[0], Unscorable)


@pytest.mark.parametrize("reply", ["", "10", "[[11]]", "[[0]]", "[[yes]]", "[[-3]]", "[[²]]", "[[ten]]"])
def test_a_reply_without_a_verdict_is_no_score(server, reply):
    server.behave = lambda prompt, number: reply
    (found,) = judged(server, "4")
    assert isinstance(found, Unscorable) and found.code == "NO_VERDICT"


def drop(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.wfile.flush()
    handler.connection.close()


def hang(handler):
    time.sleep(3)


def drip(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    try:
        for _ in range(60):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.05)
    except OSError:
        pass


BAD = {
    "status 500": (500, b"oops"), "overloaded": (503, b"{}"), "limit": (429, b"slow down", ("Retry-After", "0")),
    "no JSON": (200, b"<html>"), "no choices": (200, b'{"choices": []}'), "no text": (200, completion(None)),
    "a list": (200, b"[1]"), "dropped": drop, "hangs": hang, "drips": drip,
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_a_request_that_fails_is_repeated_and_then_failed_never_zero(server, kind):
    server.behave = lambda prompt, number: BAD[kind] if number == 1 else "[[10]]"
    assert judged(server, "4", seconds=0.5) == [Scored(1.0, "[[10]]")]
    server.requests.clear()
    server.behave = lambda prompt, number: BAD[kind]
    (found,) = judged(server, "4", tries=2, seconds=0.5)
    assert isinstance(found, Failed) and found.code == "ENDPOINT" and found.reason.endswith("(2 tries)")
    assert len(server.requests) == 2


@pytest.mark.parametrize("status", [400, 401, 404, 302])
def test_a_refusal_is_not_repeated(server, status):
    server.behave = lambda prompt, number: (status, b"no", ("Location", "http://127.0.0.1:1/"))
    (found,) = judged(server, "4")
    assert isinstance(found, Failed) and f"status {status}" in found.reason and len(server.requests) == 1


def test_a_dead_endpoint(server, monkeypatch):
    server.shutdown()
    server.server_close()
    found = judged(server, *["4"] * 40, concurrency=1, tries=2)
    reasons = Counter("not asked" in o.reason for o in found)
    assert all(isinstance(o, Failed) and o.code == "ENDPOINT" for o in found) and reasons == {False: 8, True: 32}
    with pytest.raises(
        RewardLost, match=r"40 of 40 rewards could not be computed in .* most often because of ENDPOINT"
    ):
        judged(server, *["4"] * 40, concurrency=1, tries=1, stop_limit=0.5)


def test_the_key_stays_in_the_environment(server, monkeypatch):
    with pytest.raises(InputError, match="'NURTURE_TEST_KEY', which is not set"):
        reward_from({"name": "judge", "url": "http://x/v1", "model": "m", "key_env": "NURTURE_TEST_KEY"}).check()
    monkeypatch.setenv("NURTURE_TEST_KEY", "hunter2")
    (found,) = judged(server, "4", key_env="NURTURE_TEST_KEY")
    assert server.requests[0][1]["Authorization"] == "Bearer hunter2" and "hunter2" not in repr(found)
    reward = reward_from({"name": "judge", "url": "http://x/v1", "model": "m", "key_env": "NURTURE_TEST_KEY"})
    assert "hunter2" not in reward.model_dump_json()


def test_order_is_kept(server):
    server.behave = lambda prompt, number: f"[[{1 + int(between(prompt, 'answer', 'end')) % 10}]]"
    found = judged(server, *map(str, range(30)), concurrency=8)
    assert [o.value for o in found] == pytest.approx([(i % 10) / 9 for i in range(30)])
