"""Agreement of labellers: published examples, and a crowd whose quality is known."""

import json
import random

import pytest

from nurture.data.convert import as_nurture, as_openai_row, as_sharegpt
from nurture.data.formats import Fault
from nurture.data.labellers import agreements, cohen_kappa, fleiss_kappa, screen, votes
from nurture.data.load import load_records
from nurture.data.select import Screen, select
from nurture.errors import InputError
from nurture.records import Message, Pair, Ranking, Rating


def user(text):
    return (Message("user", text),)


def answer(text):
    return (Message("assistant", text),)


def pair(item, better, worse, who):
    return Pair(user(f"question {item}"), answer(better), answer(worse), origin=f"rows:{item}", labeller=who)


def crowd(n=200, seed=0, **rights):
    """Each item is judged by all; each labeller names the better answer so often."""
    draw = random.Random(seed)
    rows = []
    for i in range(n):
        good, bad = draw.sample(["alpha", "omega"], 2)
        for who, right in rights.items():
            sides = (good, bad) if draw.random() < right else (bad, good)
            rows.append(pair(i, *sides, who))
    return rows


def test_fleiss_example():
    """Fourteen psychologists, ten patients, five diagnoses: kappa 0.210, the worked example of many textbooks."""
    counts = ["0 0 0 0 14", "0 2 6 4 2", "0 0 3 5 6", "0 3 9 2 0", "2 2 8 1 1",
              "7 7 0 0 0", "3 2 6 3 0", "2 5 3 2 2", "6 5 2 1 0", "0 2 2 3 7"]  # fmt: skip
    said = [[kind for kind, n in enumerate(map(int, row.split())) for _ in range(n)] for row in counts]
    assert fleiss_kappa(said) == pytest.approx(0.210, abs=5e-4)
    assert fleiss_kappa([*said, [3]]) == fleiss_kappa(said), "one vote agrees with nobody"


def test_cohen_example():
    """Two readers of fifty applications, 20 accepted and 15 rejected by both: kappa 0.4."""
    both = [(1, 1)] * 20 + [(1, 0)] * 5 + [(0, 1)] * 10 + [(0, 0)] * 15
    assert cohen_kappa(both) == pytest.approx(0.4)
    assert cohen_kappa([(1, 1), (0, 0)]) == 1 and cohen_kappa([]) == 0


def test_pairs_rankings_and_ratings_say_the_same():
    texts = ("a", "b", "c")
    ranks = (2, 1, 2)
    as_ranking = [Ranking(user("q"), tuple(map(answer, texts)), ranks, labeller="x")]
    as_ratings = [
        Rating(user("q"), answer(t), {"overall": -r}, labeller="x") for t, r in zip(texts, ranks, strict=True)
    ]
    found = votes(as_ranking)
    assert found == votes(as_ratings) and sorted(v["x"] for v in found.values()) == [-1, 0, 1]
    as_pairs = votes([Pair(user("q"), answer("b"), answer(t), labeller="x") for t in ("a", "c")])
    assert all(found[item] == said for item, said in as_pairs.items())
    assert not votes([Pair(user("q"), answer("b"), answer("a"))]), "nobody signed it"


def test_agreement_is_with_the_majority_of_the_others():
    rows = crowd(400, a=1.0, b=1.0, c=0.8)
    told = {one.labeller: one for one in agreements(votes(rows))}
    assert told["c"].agreement == pytest.approx(0.8, abs=0.06) and told["c"].shared == 400
    # With one other who is always right, the majority of a's others is right, or (where c is wrong) a tie.
    assert told["a"].agreement == 1 and told["a"].shared == pytest.approx(320, abs=25)


def test_who_is_bad_is_left_out_and_nobody_else():
    rows = crowd(200, careful=0.95, fair=0.85, noisy=0.8, clicks=0.5, contrary=0.1)
    kept, out = screen(rows, 0.4)
    assert [one.labeller for one in out] == ["contrary", "clicks"]
    assert {r.labeller for r in kept} == {"careful", "fair", "noisy"} and len(kept) == 600
    unsigned = pair(1, "x", "y", "")
    assert unsigned in screen([*rows, unsigned], 0.4)[0]
    done = select(rows, [Screen()]).steps[0]
    assert done.kept == 600 and done.reasons == {"labelled by contrary": 200, "labelled by clicks": 200}


def test_what_cannot_be_known_is_told():
    alone = [pair(i, "x", "y", f"labeller {i % 3}") for i in range(90)]
    with pytest.raises(InputError, match="no two labellers judged 20 of the same"):
        screen(alone, 0.4)
    with pytest.raises(InputError, match="one is wrong too often"):
        screen(crowd(100, a=0.9, b=0.5), 0.6)


@pytest.mark.parametrize("column", ["labeller", "labeler", "annotator"])
def test_files_name_their_labellers(column, tmp_path):
    row = {"prompt": "q", "chosen": "a", "rejected": "b"}
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row | {column: who}) + "\n" for who in ("ann", 7, None)))
    loaded = load_records(path, wants="pair")
    assert [r.labeller for r in loaded.records] == ["ann", "7", ""] and not loaded.report.ignored
    path.write_text("".join(json.dumps(as_nurture(r)) + "\n" for r in loaded.records))
    assert load_records(path, wants="pair").records == loaded.records
    for write in (as_openai_row, as_sharegpt):
        with pytest.raises(Fault, match="who labelled"):
            write(loaded.records[0])


def test_the_labs_clickers_are_found():
    from nurture.lab.datasets import task_of_all
    from nurture.lab.votes import votes

    rows = [row for i in range(300) for row in votes(task_of_all(1_000_003, "train", i, 0), 0, i, 0)]
    assert len({r.labeller for r in rows[:3]}) == 3 and len({r.prompt for r in rows[:3]}) == 1
    out = {one.labeller for one in screen(rows, 0.4)[1]}
    assert out == {"random_clicker", "clicker_2", "clicker_3", "clicker_4"}
