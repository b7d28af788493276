"""`nurture data stats` with models: topics by an embedding model, coherence by a judge that answers over HTTP."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import combinations

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel
from typer.testing import CliRunner

from nurture.cli import app
from nurture.errors import InputError
from nurture.models.load import train_tokenizer

DIALOGUES = [("What is one and one?", "Two."), ("Tell a tale.", "Once upon a time there was a fox. " * 9), ("Hi", "Ho")]


def rows_file(path):
    turns = [[("user", asked), ("assistant", said)] for asked, said in DIALOGUES]
    rows = [{"messages": [{"role": role, "content": text} for role, text in some]} for some in turns]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def stats(*words):
    done = CliRunner().invoke(app, ["data", "stats", *map(str, words), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)["sources"][0]


@pytest.mark.filterwarnings("ignore")
def test_topics_by_an_embedding_model(tmp_path):
    """Against the same model asked about one text at a time, without padding, and all pairs in a loop."""
    torch.manual_seed(0)
    folder = tmp_path / "encoder"
    tokenizer = train_tokenizer([text for pair in DIALOGUES for text in pair] * 9, 300)
    tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64, initializer_range=0.5,
    )  # fmt: skip
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    found = stats(rows_file(tmp_path / "rows.jsonl"), "--embed", folder)

    model = AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
    reader = AutoTokenizer.from_pretrained(folder)
    vectors = []
    for asked, said in DIALOGUES:
        ids = reader(f"{asked}\n{said}", return_tensors="pt", truncation=True, max_length=64)
        with torch.no_grad():
            vectors.append(model(input_ids=ids["input_ids"]).last_hidden_state[0].mean(0).double().numpy())
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in combinations(vectors, 2)]
    assert found["topic"] == pytest.approx(np.mean(cosines), abs=1e-5)
    assert found["topic_by"] == str(folder)


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked = body["messages"][0]["content"]
        self.server.asked.append((body["model"], asked))
        mark = "no idea" if "fox" in asked else "It follows. [[9]]" if "user: Hi\nassistant: Ho" in asked else "[[4]]"
        data = json.dumps({"choices": [{"message": {"content": mark}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def test_coherence_by_a_judge(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked = []
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}/v1#small-judge"
        found = stats(rows_file(tmp_path / "rows.jsonl"), "--judge", url)
    finally:
        server.shutdown()
        server.server_close()
    assert len(server.asked) == 3 and {model for model, _ in server.asked} == {"small-judge"}
    assert (found["coherence"], found["coherence_of"]) == (pytest.approx((9 + 4) / 2), 2)
    with pytest.raises(InputError, match="write URL#MODEL"):
        stats(tmp_path / "rows.jsonl", "--judge", "http://127.0.0.1:1/v1")


def test_a_column_names_the_tasks(tmp_path):
    def rows(name, *columns):
        turns = [{"role": "user", "content": "Say it."}, {"role": "assistant", "content": "It."}]
        path = tmp_path / name
        path.write_text("".join(json.dumps({"messages": turns, **more}) + "\n" for more in columns))
        return path

    told = rows("told.jsonl", {"family": "a", "kind": "x"}, {"family": "a", "kind": "y"}, {"family": "b", "kind": "y"})
    assert stats(told)["tasks"] == {"a": 2, "b": 1}
    assert stats(told, "--task-column", "kind")["tasks"] == {"y": 2, "x": 1}
    half = rows("half.jsonl", {"family": "a"}, {})
    assert stats(half)["task_kind"] == "opening words"
    with pytest.raises(InputError, match=r"half.jsonl:2 MISSING_FIELD has no 'family', the task_column"):
        stats(half, "--task-column", "family")
    seeds = tmp_path / "seeds.jsonl"  # two records of one row
    seeds.write_text(
        json.dumps({"instruction": "Add", "task": "sum", "instances": [{"input": "1 1", "output": "2"}] * 2}) + "\n"
    )
    assert stats(seeds)["tasks"] == {"sum": 2}


@pytest.mark.long
def test_the_lab_knows_its_tasks():
    found = stats("lab/votes")
    assert len(found["tasks"]) == 14 and set(found["tasks"].values()) == {429}


def test_stats_read_rows_as_another_kind(tmp_path):
    path = tmp_path / "maths.jsonl"
    path.write_text(json.dumps({"question": "One and one?", "answer": "One and one are two.\n#### 2"}) + "\n")
    assert stats(path)["trained_share"] == 0
    assert stats(path, "--as", "conversation")["trained_share"] == pytest.approx(6 / 9)
