"""What a source may name: folders, patterns, what `datasets` saved, LLaMA-Factory's dataset_info.json."""

import json

import pytest

from nurture.data.load import BadRows, load_records
from nurture.data.read import read_rows
from nurture.data.sources import hub_rows, open_source
from nurture.errors import DataError, InputError
from nurture.records import Conversation, Message, Pair, Rating, Text


def write(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def row(n):
    return {"prompt": f"{n}", "completion": f" {n}."}


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "rows"
    write(root / "b.jsonl", row(3), row(4))
    write(root / "a" / "one.jsonl", row(1))
    write(root / "a" / "two.jsonl", row(2))
    (root / "README.md").write_text("About these rows.")
    (root / ".cache").mkdir()
    write(root / ".cache" / "x.jsonl", {"nothing": 1})
    return root


def test_a_folder_is_read_in_the_order_of_its_names(folder):
    loaded = load_records(folder, wants="conversation")
    assert [r.prompt for r in loaded.records] == ["1", "2", "3", "4"]
    assert [r.origin for r in loaded.records] == ["a/one.jsonl:1", "a/two.jsonl:1", "b.jsonl:1", "b.jsonl:2"]
    assert loaded.report.files == {"a/one.jsonl": 1, "a/two.jsonl": 1, "b.jsonl": 2}
    assert loaded.report.unread == ("README.md",)
    told = "\n".join(loaded.report.lines())
    assert "b.jsonl (2 rows)" in told and "README.md" in told
    assert json.loads(json.dumps(loaded.report.to_json()))["files"]["b.jsonl"] == 2


def test_a_pattern_names_files(folder):
    loaded = load_records(str(folder / "a" / "*.jsonl"), wants="conversation")
    assert [r.origin for r in loaded.records] == ["one.jsonl:1", "two.jsonl:1"]
    assert len(load_records(str(folder / "*" / "t*.jsonl"), wants="conversation").records) == 1
    with pytest.raises(DataError, match="NO_MATCH"):
        load_records(str(folder / "*.parquet"), wants="conversation")


def test_a_bad_row_of_a_folder_names_its_file(folder):
    write(folder / "a" / "two.jsonl", row(2), {"prompt": "x", "completion": ""})
    with pytest.raises(BadRows, match=r"a/two\.jsonl:2 EMPTY_ANSWER"):
        load_records(folder, wants="conversation")


def test_a_folder_without_data_is_an_error(tmp_path):
    (tmp_path / "notes.md").write_text("x")
    with pytest.raises(DataError, match="EMPTY_FOLDER"):
        load_records(tmp_path, wants="text")


def test_what_datasets_saved_is_read_as_datasets_reads_it(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = [
        {"messages": [{"role": "user", "content": f"{i}"}, {"role": "assistant", "content": "x"}]} for i in range(9)
    ]
    whole = datasets.Dataset.from_list(rows)
    whole.save_to_disk(tmp_path / "one", num_shards=3)
    loaded = load_records(tmp_path / "one", wants="conversation")
    assert [r.messages[0].content for r in loaded.records] == [r["messages"][0]["content"] for r in whole]
    splits = datasets.DatasetDict({"train": whole, "test": whole.select(range(2))})
    splits.save_to_disk(tmp_path / "two")
    with pytest.raises(InputError, match="splits train, test"):
        load_records(tmp_path / "two", wants="conversation")
    assert len(load_records(f"{tmp_path}/two#test", wants="conversation").records) == 2
    assert len(load_records(tmp_path / "two" / "train", wants="conversation").records) == 9


def test_a_hub_name_goes_through_datasets(tmp_path):
    """A local folder stands for the hub, which answers to the same two calls."""
    pytest.importorskip("datasets")
    write(tmp_path / "hub" / "train.jsonl", *(row(i) for i in range(5)))
    write(tmp_path / "hub" / "test.jsonl", row(9))
    name = str(tmp_path / "hub")
    opened = hub_rows(name, name, None, None, "train")
    first, again = ([r.value for r in opened.scan()] for _ in range(2))
    assert first == again == [row(i) for i in range(5)]
    assert opened.origin(next(iter(opened.scan()))) == f"{name}#train:1"
    with pytest.raises(InputError, match="splits"):
        hub_rows(name, name, None, None, None)
    with pytest.raises(InputError, match="cannot be read from the hub"):
        open_source("nobody/nothing-of-that-name#train")


def test_a_missing_file_is_no_hub_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "data" / "train.jsonl", row(1))
    for name in ("data/trian.jsonl", "data/train", "nowhere/train.jsonl", "train.jsonl#x"):
        with pytest.raises(DataError, match="MISSING_FILE"):
            load_records(name, wants="conversation")


def info(tmp_path, **entries):
    (tmp_path / "dataset_info.json").write_text(json.dumps(entries))
    return f"{tmp_path}/dataset_info.json"


class TestLlamaFactory:
    def test_alpaca_reads_only_what_is_listed(self, tmp_path):
        write(tmp_path / "a.jsonl", {"q": "Add.", "output": "3", "system": "Never read.", "input": "1 2"})
        path = info(tmp_path, mine={"file_name": "a.jsonl", "columns": {"prompt": "q", "response": "output"}})
        loaded = load_records(path, wants="conversation")
        assert loaded.records == [Conversation((Message("user", "Add."), Message("assistant", "3")), (), "a.jsonl:1")]
        assert loaded.report.ignored == {"system (not in columns)": 1, "input (not in columns)": 1}

    def test_without_columns_the_defaults_hold(self, tmp_path):
        write(tmp_path / "a.jsonl", {"instruction": "Add.", "input": "1 2", "output": "3", "system": "Never read."})
        loaded = load_records(info(tmp_path, mine={"file_name": "a.jsonl"}), wants="conversation")
        assert [m.content for m in loaded.records[0].messages] == ["Add.\n1 2", "3"]

    def test_sharegpt_with_tags_of_its_own(self, tmp_path):
        turns = [{"who": "q", "says": "Hi"}, {"who": "a", "says": "Hello."}]
        write(tmp_path / "s.jsonl", {"talk": turns})
        tags = {"role_tag": "who", "content_tag": "says", "user_tag": "q", "assistant_tag": "a"}
        entry = {"file_name": "s.jsonl", "formatting": "sharegpt", "columns": {"messages": "talk"}, "tags": tags}
        loaded = load_records(info(tmp_path, mine=entry, other=entry) + "#mine", wants="conversation")
        assert loaded.records[0].messages == (Message("user", "Hi"), Message("assistant", "Hello."))

    def test_rankings_and_labels(self, tmp_path):
        write(tmp_path / "p.jsonl", {"instruction": "Hi", "input": "", "better": "Hello.", "worse": "What?"})
        columns = {"prompt": "instruction", "query": "input", "chosen": "better", "rejected": "worse"}
        ranked = {"file_name": "p.jsonl", "ranking": True, "columns": columns}
        said = {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}, {"from": "gpt", "value": "What?"}
        write(tmp_path / "q.jsonl", {"conversations": [said[0]], "chosen": said[1], "rejected": said[2]})
        columns = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"}
        talked = {"file_name": "q.jsonl", "ranking": True, "formatting": "sharegpt", "columns": columns}
        write(tmp_path / "k.jsonl", {"messages": [said[0], said[1]], "liked": True})
        columns = {"messages": "messages", "kto_tag": "liked"}
        labelled = {"file_name": "k.jsonl", "formatting": "sharegpt", "columns": columns}
        path = info(tmp_path, ranked=ranked, talked=talked, labelled=labelled)
        hi, hello, what = (Message("user", "Hi"),), (Message("assistant", "Hello."),), (Message("assistant", "What?"),)
        assert load_records(f"{path}#ranked", wants="pair").records == [Pair(hi, hello, what, None, "p.jsonl:1")]
        assert load_records(f"{path}#talked", wants="pair").records == [Pair(hi, hello, what, None, "q.jsonl:1")]
        rating = Rating(hi, hello, {"desirable": 1.0}, "k.jsonl:1")
        assert load_records(f"{path}#labelled", wants="rating").records == [rating]

    def test_a_prompt_alone_is_text(self, tmp_path):
        write(tmp_path / "t.jsonl", {"content": "Once."})
        path = info(tmp_path, wiki={"file_name": "t.jsonl", "columns": {"prompt": "content"}})
        assert load_records(path, wants="text").records == [Text("Once.", "t.jsonl:1")]

    @pytest.mark.parametrize(
        "entry, message",
        [
            ({"file_name": "a.jsonl", "num_samples": 5}, "num_samples would change which rows"),
            ({"file_name": "a.jsonl", "formatting": "alpacca"}, "Did you mean 'alpaca'"),
            ({"file_name": "a.jsonl", "columns": {"prompt": "q", "images": "i"}}, "images"),
            ({"file_name": "a.jsonl", "tags": {"roletag": "x"}}, "Did you mean 'role_tag'"),
            ({"script_url": "x"}, "script_url is not read"),
            ({}, "names no file_name"),
        ],
    )
    def test_what_is_not_read_is_refused(self, tmp_path, entry, message):
        write(tmp_path / "a.jsonl", {"instruction": "x", "output": "y"})
        with pytest.raises(InputError, match=message):
            load_records(info(tmp_path, mine=entry), wants="conversation")

    def test_of_several_entries_none_is_guessed(self, tmp_path):
        path = info(tmp_path, alpaca_en={"file_name": "a"}, alpaca_zh={"file_name": "b"})
        with pytest.raises(InputError, match="alpaca_en, alpaca_zh"):
            load_records(path, wants="conversation")
        with pytest.raises(InputError, match="Did you mean 'alpaca_en'"):
            load_records(f"{path}#alpaca_em", wants="conversation")


def test_a_file_with_a_hash_in_its_name_is_itself(tmp_path):
    path = write(tmp_path / "rows#1.jsonl", row(1))
    assert [r.value for r in read_rows(path)] == [row(1)]
    assert load_records(path, wants="conversation").records[0].origin == "rows#1.jsonl:1"
