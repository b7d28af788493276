"""Scores that depend on nothing but their text, folders that transformers reads, and the numbers on the card."""

import json

import numpy as np
import pytest
import torch
from engine import engine, pairs
from typer.testing import CliRunner

from nurture.cli import app
from nurture.data.select import Best, select
from nurture.data.template import Template, ensure_chat
from nurture.errors import DataError, InputError
from nurture.evaluate.reward_bench import reward_bench, tally_subsets
from nurture.evaluate.reward_card import (
    Pairs,
    calibration,
    calibration_error,
    decide,
    pair_card,
    rated_apart,
    rating_table,
    reward_card,
)
from nurture.evaluate.scoring import load_reward_model, score, score_groups, scorer
from nurture.evaluate.statistics import clustered_wilson, effective_number, wilson
from nurture.methods import Process, Reward
from nurture.models.heads import add_score_head, classifier
from nurture.models.load import load_model
from nurture.models.save import save_model
from nurture.records import Conversation, Message, Pair, Text
from nurture.types import Batch, Group, Response

TINY = {
    "config": {
        "model_type": "llama", "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "initializer_range": 0.3,
    },
    "tokenizer": {"vocab_size": 320},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random reward model of two criteria, saved as a run saves it."""
    texts = ["what is two plus two", "it is four", "i do not know"] * 20
    loaded = load_model(TINY, dtype=torch.float32, device=torch.device("cpu"), seed=3, texts=texts)
    ensure_chat(loaded.tokenizer)
    model = loaded.model
    add_score_head(model, 2)
    model.score.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    model.config.pad_token_id = loaded.tokenizer.pad_token_id
    method = Reward(criteria=("helpful", "harmless"), weights=(1.0, 2.0))
    settings = method.model_dump(mode="json") | {"template": Template(loaded.tokenizer).hash}
    saved = classifier(model, method.criteria, settings)
    path = tmp_path_factory.mktemp("reward") / "model"
    save_model(saved, loaded.tokenizer, path, state=None, dtype=torch.float32, card="", original_dropout=None)
    return path


def chat(question, reply):
    return Conversation((Message("user", question), Message("assistant", reply)), origin="rows.jsonl:1")


CHATS = [
    chat("what is two plus two", "it is four"),
    chat("what is two plus two", "i do not know what it is " * 3),
    chat("who is it", "i do not know"),
    chat("what", "four"),
]


def test_a_score_alone_is_the_score_in_any_batch(folder):
    model = load_reward_model(folder, precision="fp32")
    together = score(model, CHATS)
    assert together == pytest.approx([score(model, [c])[0] for c in CHATS], abs=1e-5)
    assert together[::-1] == pytest.approx(score(model, CHATS[::-1]), abs=1e-5)
    assert len(set(together)) == len(CHATS)


@pytest.mark.parametrize("layout", ["tree", "rows"])
def test_scores_do_not_depend_on_layout_or_pass(layout):
    batch = pairs(n=6)
    whole = score_groups(engine(layout="tree"), Reward(), batch.groups, 1 << 30, batch.device)
    parts = score_groups(engine(layout=layout), Reward(), batch.groups, 25, batch.device)
    torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-5)
    alone = torch.cat([score_groups(engine(layout=layout), Reward(), [g], 1 << 30, batch.device) for g in batch.groups])
    torch.testing.assert_close(whole, alone, rtol=1e-4, atol=1e-5)


def by_transformers(folder, template, conversations):
    from transformers import AutoModelForSequenceClassification

    theirs, report = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert theirs.config.num_labels == 2 and theirs.config.id2label == {0: "helpful", 1: "harmless"}
    scores = []
    for group in template.encode_many(conversations, "last"):
        end = int(Batch((group,)).ends[0][0])  # transformers reads at the last token it is given: the stop token
        ids = torch.as_tensor(np.concatenate([group.prompt, group.responses[0].ids[: end + 1]]))[None]
        with torch.no_grad():
            helpful, harmless = theirs(ids).logits[0].tolist()
        scores.append(helpful + 2 * harmless)
    return scores


def test_transformers_sequence_classifier_gives_the_same_scores(folder):
    ours = load_reward_model(folder, precision="fp32")
    assert score(ours, CHATS) == pytest.approx(by_transformers(folder, ours.template, CHATS), abs=1e-4)


def test_selection_keeps_the_rows_that_a_reward_model_likes_best(folder, tmp_path):
    template = load_reward_model(folder, precision="fp32").template
    theirs = by_transformers(folder, template, CHATS)
    best = sorted(sorted(range(len(CHATS)), key=lambda i: -theirs[i])[:2])
    pairs = [Pair(c.messages[:1], c.messages[1:], (Message("assistant", "it"),), origin=c.origin) for c in CHATS]
    for records in (CHATS, pairs):
        assert list(select(records, [Best(2, scorer(folder, precision="fp32"))]).kept) == best
    with pytest.raises(DataError, match=r"RAW_TEXT"):
        select([Text("four", "rows.txt:1")], [Best(1, scorer(folder))])
    rows = [{"instruction": c.messages[0].content, "output": c.messages[1].content, "id": i}
            for i, c in enumerate(CHATS)]  # fmt: skip
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out.jsonl"
    done = CliRunner().invoke(app, ["data", "select", str(path), str(out), f"best=2:{folder}"])
    assert done.exit_code == 0, done.output
    assert "removed: not among the 2 best" in done.output
    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(written) == 2 and all(row in rows for row in written)


def test_what_is_no_reward_model_or_cannot_be_scored_is_refused(folder, tmp_path):
    with pytest.raises(InputError, match="scores texts and cannot write any"):
        load_model(folder, dtype=torch.float32, device=torch.device("cpu"), seed=0)
    model = load_reward_model(folder, precision="fp32")
    with pytest.raises(DataError, match=r"rows\.jsonl:1 TOO_LONG"):
        score(model, [chat("what " * 200, "four")])
    with pytest.raises(DataError, match=r"rows\.jsonl:1 EMPTY"):
        score(model, [Conversation((Message("user", "what"),), origin="rows.jsonl:1")])
    other = Template(model.template.tokenizer, source=model.template.source.replace("assistant", "Assistant"))
    with pytest.raises(InputError, match=r"TEMPLATE .* another chat template than the policy's"):
        model.require_same_template(other)
    model.require_same_template(model.template)


def test_a_file_of_comparisons(folder, tmp_path):
    rows = [
        {"prompt": "what is two plus two", "chosen": "it is four", "rejected": "i do not know", "subset": "sums"},
        {"prompt": "what is two plus two", "chosen": "i do not know", "rejected": "it is four", "subset": "sums"},
        {
            "prompt": [{"role": "user", "content": "who"}],
            "chosen": [{"role": "assistant", "content": "it"}],
            "rejected": [{"role": "assistant", "content": "four"}],
            "subset": "names",
        },
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    model = load_reward_model(folder, precision="fp32")
    found = reward_bench(model, path)
    assert found["rows"] == 3 and found["subset sums"] == 0.5, "one of two opposite comparisons is won"
    a, b = score(model, [chat("who", "it"), chat("who", "four")])
    assert found["subset names"] == float(a > b)
    path.write_text(json.dumps(rows[0] | {"rejected": "it is four"}) + "\n")
    with pytest.raises(InputError, match=r"pairs\.jsonl:1 SAME_ANSWERS"):
        reward_bench(model, path)


def test_a_file_of_rankings_is_one_of_comparisons(folder, tmp_path):
    texts = ["it is four", "it is two", "it is", "i do not know"]
    path = tmp_path / "rankings.jsonl"
    path.write_text(json.dumps({"prompt": "what", "responses": texts, "ranks": [1, 2, 2, 4], "subset": "sums"}) + "\n")
    model = load_reward_model(folder, precision="fp32")
    first, second, third, last = score(model, [chat("what", text) for text in texts])
    won = [first > second, first > third, first > last, second > last, third > last]
    found = reward_bench(model, path)
    with pytest.raises(InputError, match="give a file; on the lab it is nurture eval MODEL"):
        reward_bench(model, "lab/comparisons")
    assert found["rows"] == 5 and found["subset sums"] == pytest.approx(sum(won) / 5)


def test_subsets_are_weighted_as_rewardbench_weights_them():
    wins = {
        "alpacaeval-easy": [True] * 3 + [False],
        "mt-bench-easy": [False],
        "math-prm": [True] * 2,
        "hep-go": [False] * 16,
    }
    found = tally_subsets(wins)
    chat, reasoning = 3 / 5, 984 / 1000
    assert found["section Chat"] == pytest.approx(chat) and found["section Reasoning"] == pytest.approx(reasoning)
    assert found["accuracy"] == pytest.approx((chat + reasoning) / 2)
    assert tally_subsets({"mine": [True, False, False], "yours": [True]})["accuracy"] == 0.5


@pytest.mark.parametrize(("hits", "n"), [(0, 5), (3, 7), (50, 60), (1, 1)])
def test_the_interval_is_wilsons(hits, n):
    """Its ends are the shares from which what was seen lies exactly 1.96 standard errors away."""
    for end in wilson(hits, n):
        assert abs(hits / n - end) == pytest.approx(1.959964 * (end * (1 - end) / n) ** 0.5, abs=1e-9)
    low, high = wilson(hits, n)
    assert low <= hits / n <= high


def test_a_calibrated_model_is_seen_to_be_calibrated():
    draw = np.random.default_rng(0)
    gap = np.abs(draw.normal(0, 2, 40_000))
    sure = 1 / (1 + np.exp(-gap))
    right = draw.random(len(gap)) < sure
    bins = calibration(sure, right, range(len(gap)))
    assert calibration_error(bins) < 0.01
    bold = calibration(1 / (1 + np.exp(-4 * gap)), right, range(len(gap)))
    assert calibration_error(bold) > 0.05, "four times as sure as it should be"
    assert sum(b["n"] for b in bins) == len(gap)


def plain(gap, length_gap, **more):
    """Pairs of as many prompts, whose gap of scores is the log-odds."""
    return Pairs(gap, length_gap, range(len(gap)), log_odds=gap, **more)


def carded(pairs):
    return {"prompts": len(set(pairs.prompts))} | pair_card(pairs)


def test_a_model_that_measures_length_is_caught():
    draw = np.random.default_rng(1)
    length_better, length_worse = draw.integers(5, 60, 400).astype(float), draw.integers(5, 60, 400).astype(float)
    longer = length_better - length_worse
    card = carded(plain(longer / 20, longer))
    assert card["length"]["correlation"] == pytest.approx(1.0)
    assert card["length"]["longer_scores_higher"]["share"] == 1.0
    assert card["accuracy"]["share"] == pytest.approx(np.mean(length_better > length_worse))
    assert decide(card)[0] == "no-go"
    right = carded(plain(4.0 - draw.normal(0, 0.5, 400), longer))
    assert decide(right)[0] == "go" and right["accuracy"]["share"] == 1.0
    tied = carded(plain(np.zeros(400), longer))
    assert tied["accuracy"]["share"] == 0.0, "a tie is no win"
    assert tied["length"]["longer_scores_higher"]["n"] == 0, "and prefers no length"
    few = carded(plain(np.full(20, 4.0), np.zeros(20)))
    assert decide(few)[0] == "caution" and "only 20 prompts" in decide(few)[1]
    same = carded(Pairs(np.full(400, 4.0), longer, [i // 20 for i in range(400)], log_odds=np.full(400, 4.0)))
    assert decide(same)[0] == "caution" and "only 20 prompts" in decide(same)[1], "of twenty comparisons each"


def test_a_coin_that_sees_whole_rankings_is_rarely_taken_for_more():
    """Of six pairs made of four answers nobody knows as much as of six pairs: the interval has to be wider than theirs,
    so that what it says at 95% is true of 95%."""
    draw = np.random.default_rng(0)
    better, worse = np.asarray([(i, j) for i in range(4) for j in range(i + 1, 4)]).T
    prompts = np.repeat(range(60), 6).tolist()
    outside, naively = 0, 0
    for _ in range(1000):
        scores = draw.normal(size=(60, 4))
        right = (scores[:, better] > scores[:, worse]).ravel()
        low, high = clustered_wilson(right.tolist(), prompts)
        outside += not low <= 0.5 <= high
        low, high = wilson(int(right.sum()), len(right))
        naively += not low <= 0.5 <= high
    assert outside < 75 < 85 < naively, "50 of 1,000 are expected"


def test_alone_in_its_prompt_each_comparison_counts_as_one():
    hits = [True] * 30 + [False] * 12
    assert clustered_wilson(hits, range(42)) == wilson(30, 42)
    assert effective_number(hits, range(42)) == 42
    copies = [hit for hit in hits for _ in range(5)]
    assert effective_number(copies, [i for i in range(42) for _ in range(5)]) == pytest.approx(41), "copies add nothing"
    assert effective_number([True] * 8, "aaaabbcd") == 4 and effective_number([True, False], "aa") == 1


def test_a_rater_is_held_against_what_its_ratings_prefer():
    """Answers to one prompt that people rate differently are pairs, and what several people say of one is averaged."""
    texts = {"good": 0.9, "fine": 0.6, "poor": 0.1}
    ids = {text: np.arange(4, dtype=np.int32) + 10 * i for i, text in enumerate(texts)}

    def rated(prompt, text, rating):
        response = Response(ids[text], np.ones(4, bool), scores=(rating,))
        return Group(np.asarray([prompt], np.int32), (response,), key=text)

    groups = [rated(1, text, rating) for text, rating in texts.items()]
    groups += [rated(1, "poor", 0.3), rated(1, "fine", 0.7), rated(2, "good", 0.5), rated(2, "fine", float("nan"))]
    batch, method = Batch(tuple(groups)), Reward()
    prompts = [g.prompt.tobytes() for g in groups]
    better, worse = rated_apart(batch, prompts, method.combined(batch.ratings.double()).tolist())
    named = {(groups[i].key, groups[j].key) for i, j in zip(better, worse, strict=True)}
    assert named == {("good", "fine"), ("good", "poor"), ("fine", "poor")}
    assert len(better) == 3, "the two ratings of `poor` are one answer, 0.2"
    close = [rated(1, "good", 0.25), rated(1, "good", 0.75), rated(1, "fine", 0.5)]
    batch = Batch(tuple(close))
    assert not len(rated_apart(batch, prompts[:3], method.combined(batch.ratings.double()).tolist())[0]), "equal means"


def test_how_sure_it_is_is_read_where_the_loss_is(folder):
    """A weight of 3, or a sigmoid that keeps ratings on their scale, changes what a judge says and not its odds."""
    roles, batch, template = engine(layout="tree"), pairs(n=12), load_reward_model(folder).template
    cards = [
        reward_card(roles, method, batch.groups, template, tokens=1 << 30, device=batch.device)
        for method in (Reward(), Reward(weights=(3.0,)), Reward(rating="bounded"))
    ]
    assert cards[0]["calibration"] == cards[1]["calibration"] == cards[2]["calibration"]
    scores = score_groups(roles, Reward(), batch.groups, 1 << 30, batch.device)[:, 0]
    gap = (scores[batch.better] - scores[batch.worse]).abs().sigmoid()
    told = sum(bin["sure"] * bin["n"] for bin in cards[0]["calibration"]) / batch.num_pairs
    assert told == pytest.approx(float(gap.mean()), rel=1e-5)
    assert cards[0]["prompts"] == 12


def test_ratings_are_held_against_always_saying_the_mean():
    truth = np.array([[0.0], [0.5], [1.0], [np.nan]], np.float32)
    table = rating_table(["overall"], np.array([[0.1], [0.5], [0.9], [0.3]]), truth)
    assert table["overall"]["ratings"] == 3 and table["overall"]["correlation"] == pytest.approx(1.0)
    assert table["overall"]["rms_error"] == pytest.approx(np.sqrt(0.02 / 3), rel=1e-5)
    assert [row["truth"] for row in table["overall"]["by_guess"]] == [0.0, 0.5, 1.0]
    assert decide({"criteria": rating_table(["overall"], np.full((4, 1), 0.5), truth), "prompts": 4})[0] == "no-go"


def test_a_rater_that_follows_length_is_told():
    draw = np.random.default_rng(2)
    truth, length = draw.random((400, 1)), draw.integers(5, 60, 400).astype(float)
    table = {"criteria": rating_table(["overall"], truth + draw.normal(0, 0.1, (400, 1)), truth.astype(np.float32))}
    card = table | {"pairs_from": "ratings", "prompts": 400}
    assert decide(card | pair_card(Pairs(draw.normal(size=400), length, range(400))))[0] == "go"
    rare = {"criteria": table["criteria"] | {"rare": table["criteria"]["overall"] | {"ratings": 9}}, "prompts": 400}
    assert decide(rare)[0] == "caution" and "only 9 ratings of a criterion" in decide(rare)[1]
    verdict, reason = decide(card | pair_card(Pairs(length / 9, length, range(400))))
    assert verdict == "caution" and "follow length" in reason


def test_without_any_preference_nothing_is_known():
    assert decide({"answers": 12})[0] == "no-go" and "nobody preferred" in decide({"answers": 12})[1]


@pytest.mark.parametrize("aggregate", ["min", "product", "last"])
def test_a_process_reward_model_judges_an_answer_line_by_line(aggregate, tmp_path):
    """As many passes as there are lines: the score of a step depends on nothing behind it."""
    loaded = load_model(TINY, dtype=torch.float32, device=torch.device("cpu"), seed=3, texts=["a b c d e f g"] * 20)
    ensure_chat(loaded.tokenizer)
    template, model = Template(loaded.tokenizer), loaded.model
    add_score_head(model, 1)
    model.score.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    model.config.pad_token_id = loaded.tokenizer.pad_token_id
    settings = Process(aggregate=aggregate).model_dump(mode="json") | {"template": template.hash}
    saved = classifier(model, ("overall",), settings)
    folder = tmp_path / "model"
    save_model(saved, loaded.tokenizer, folder, state=None, dtype=torch.float32, card="", original_dropout=None)

    said, lines = chat("what", "a b c\n\nd e \nf g a"), ["a b c", "d e", "f g a"]
    judged = load_reward_model(folder, precision="fp32")
    found = score(judged, [said, chat("what", "a b c"), chat("what", "")])
    group, ends = template.encode_steps(said, lines)
    steps: list[float] = []
    for line, end in zip(lines, ends, strict=True):
        ids = np.concatenate([group.prompt, group.responses[0].ids[: end + 1]])
        assert template.tokenizer.decode(ids.tolist()).endswith(line)
        until = Group(ids[:1], (Response(ids[1:], np.ones(len(ids) - 1, bool)),))
        scores = score_groups(judged.roles, judged.method, [until], 1 << 30, torch.device("cpu"))
        steps.append(float(scores[0, 0].sigmoid()))
    expected = {"min": min(steps), "product": float(np.prod(steps)), "last": steps[-1]}[aggregate]
    assert found[0] == pytest.approx(expected, rel=1e-5)
    assert found[1] == pytest.approx(steps[0], rel=1e-5), "one line is one step"
    (silent,) = template.encode_many([chat("what", "")], "last")
    scores = score_groups(judged.roles, judged.method, [silent], 1 << 30, torch.device("cpu"))
    assert found[2] == pytest.approx(float(scores[0, 0].sigmoid())), "where nothing is said the end is judged"
    spelled = chat("what", "a <|im_end|> b\nc")
    assert len(template.encode_steps(spelled, ["a <|im_end|> b", "c"])[1]) == 2 and 0 < score(judged, [spelled])[0] < 1
    turns = (Message("user", "what"), Message("assistant", "a b", train=True), Message("user", "and"),
             Message("assistant", "c d\ne", train=True))  # fmt: skip
    assert score(judged, [Conversation(turns)]) != score(judged, [Conversation(turns[:2])])
    with pytest.raises(DataError, match="EMPTY"):
        score(judged, [Conversation((Message("user", "what"), Message("assistant", "a", train=False)), origin="f:1")])
