"""The strict readers: every fault has its code and its place, and good rows come back as they were written."""

import errno
import gzip
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nurture.data.read import BadRow, Row, read_rows, scan
from nurture.errors import DataError

GOOD = b'{"text": "one"}\n'


def faults(path):
    """[(line:col, code)] of the bad rows, or of the one error that concerns the file."""
    try:
        bad = [row for row in scan(path) if isinstance(row, BadRow)]
    except DataError as error:
        return [(error.where.removeprefix(str(path)).lstrip(":"), error.code)]
    return [(row.where.removeprefix(str(path) + ":"), row.code) for row in bad]


@pytest.mark.parametrize(
    "content, expected",
    [
        # `{"text": one}`: the value starts at column 10
        (GOOD * 2 + b'{"text": one}\n' + GOOD * 2, [("3:10", "BAD_JSON")]),
        (GOOD + b'{"text": "cut o', [("2:10", "BAD_JSON")]),
        (GOOD + b'{"text": "a"} {"text": "b"}\n', [("2:15", "BAD_JSON")]),
        (GOOD + b"{'text': 'one'}\n", [("2:2", "BAD_JSON")]),
        (GOOD + b'{"text": "caf\xe9"}\n' + GOOD, [("2:14", "ENCODING")]),
        ('{"text": "é"}\n'.encode() + b'{"text": "\xc3\xa9\xe9"}\n', [("2:12", "ENCODING")]),
        ('{"text": "one"}\n'.encode("utf-16"), [("1:1", "ENCODING")]),
        ('{"text": "one"}\n'.encode("utf-16-le"), [("1:1", "ENCODING")]),
        ('{"text": "one"}\n'.encode("utf-16-be"), [("1:1", "ENCODING")]),
        ('{"text": "one"}\n'.encode("utf-32"), [("1:1", "ENCODING")]),
        (b"", [("", "EMPTY_FILE")]),
        (b"\n \r\n\n", [("", "EMPTY_FILE")]),
        (b"[]", [("", "EMPTY_FILE")]),
        (GOOD + b'{"a": 1, "b": {"c": 1, "c": 2}}\n', [("2:24", "DUPLICATE_KEY")]),
        (b'{"a": {"a": 1}, "b": [{"a": 1}], "a": 2}\n', [("1:34", "DUPLICATE_KEY")]),
        (GOOD + b'{"x": NaN}\n', [("2:7", "NOT_FINITE")]),
        (b'{"s": "NaN", "x": [1, -Infinity]}\n', [("1:23", "NOT_FINITE")]),
        (b'{"x": 1e999}\n', [("1:7", "NOT_FINITE")]),
        (GOOD + b'["one"]\n', [("2:1", "NOT_AN_OBJECT")]),
        (
            GOOD + b'"one"\n' + b"7\nnull\n",
            [("2:1", "NOT_AN_OBJECT"), ("3:1", "NOT_AN_OBJECT"), ("4:1", "NOT_AN_OBJECT")],
        ),
        (b'{"text": "a\x00b"}\n', [("1:12", "NUL")]),
        (b'{"text": "a\\u0000b"}\n', [("1:12", "NUL")]),
        (b'{"text": "a\\ud83d"}\n', [("1:12", "LONE_SURROGATE")]),
        (b'{"text": "\\ude00a"}\n', [("1:11", "LONE_SURROGATE")]),
        (b'{"text": "\\ud83d\\ude00\\ude00"}\n', [("1:23", "LONE_SURROGATE")]),
        (b'{"text": "\\\\u0000 \\ud83d\\ude00"}\n', []),
        (b'{"a":' * 100_000, [("1:1", "BAD_JSON")]),
        (b'{"a": ' + b"9" * 5000 + b"}\n", [("1:1", "BAD_JSON")]),
    ],
)
def test_each_fault_has_its_code_and_place(tmp_path, content, expected):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    assert faults(path) == expected
    packed = tmp_path / "rows.jsonl.gz"
    packed.write_bytes(gzip.compress(content))
    assert faults(packed) == expected


def test_the_rows_around_a_bad_one_are_still_read(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"n": 1}\n{"n": NaN}\n{"n": 3}\n')
    rows = list(scan(path))
    assert [type(row) for row in rows] == [Row, BadRow, Row]
    assert [row.raw for row in rows] == ['{"n": 1}', '{"n": NaN}', '{"n": 3}']
    with pytest.raises(DataError, match=r"rows\.jsonl:2:7 NOT_FINITE"):
        list(read_rows(path))


def test_the_suspected_encoding_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    for content, name in (
        ('{"text": "one"}'.encode("utf-16"), "UTF-16"),
        ('{"text": "one"}'.encode("utf-32"), "UTF-32"),
        (b'{"text": "caf\xe9 "}', "Latin-1"),
        (b'{"text": "\x93quoted\x94"}', "Windows-1252"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=name):
            list(read_rows(path))


@pytest.mark.parametrize("content", [b"\xef\xbb\xbf" + GOOD * 2, GOOD[:-1] + b"\r\n\r\n \t\n" + GOOD[:-1]])
def test_bom_crlf_blank_lines_and_a_missing_last_line_break_are_fine(tmp_path, content):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    assert [row.value for row in read_rows(path)] == [{"text": "one"}] * 2


def test_elements_of_an_array_know_their_place(tmp_path):
    path = tmp_path / "rows.json"
    path.write_bytes(b'\xef\xbb\xbf [\n  {"n": 1}, {"n": 2},\n\n  {"n":\n 3}\n]\n')
    rows = list(read_rows(path))
    assert [row.value["n"] for row in rows] == [1, 2, 3]
    assert [row.where.removeprefix(str(path)) for row in rows] == [":2:3", ":2:13", ":4:3"]
    assert rows[1].origin == "rows.json:2:13"


@pytest.mark.parametrize(
    "content, expected",
    [
        ('[\n{"n": 1},\n{"n": }\n]', [("3:7", "BAD_JSON")]),
        ('[\n{"n": 1}\n{"n": 2}\n]', [("3:1", "BAD_JSON")]),
        ('[\n{"n": 1}', [("2:9", "BAD_JSON")]),
        ('[{"n": 1}]\n{"n": 2}', [("2:1", "BAD_JSON")]),
        ('[{"n": 1},]', [("1:11", "BAD_JSON")]),
        ('[\n{"n": 1},\n  3,\n{"n": NaN}]', [("3:3", "NOT_AN_OBJECT"), ("4:7", "NOT_FINITE")]),
        ('[{"n": 1},\n{"n": 1}, {"n": 1, "n": 2}]', [("2:20", "DUPLICATE_KEY")]),
        ('{\n  "rows": []\n}', [("1:2", "NOT_AN_ARRAY")]),
    ],
)
def test_faults_in_an_array(tmp_path, content, expected):
    path = tmp_path / "rows.json"
    path.write_text(content)
    assert faults(path) == expected


def test_an_array_in_another_encoding(tmp_path):
    path = tmp_path / "rows.json"
    path.write_bytes('[{"a": "é"},\n {"a": "'.encode() + b'\xe9x"}]')
    assert faults(path) == [("2:9", "ENCODING")]


def test_one_object_a_line_may_be_called_json(tmp_path):
    path = tmp_path / "rows.json"
    path.write_bytes(GOOD * 3)
    assert len(list(read_rows(path))) == 3


def test_what_is_wrong_with_the_file_itself(tmp_path):
    (tmp_path / "trainer.jsonl").write_bytes(GOOD)
    assert faults(tmp_path / "train.jsonl") == [("", "MISSING_FILE")]
    with pytest.raises(DataError, match=r"trainer\.jsonl"):
        list(scan(tmp_path / "train.jsonl"))
    assert faults(tmp_path / "nowhere" / "train.jsonl") == [("", "MISSING_FILE")]
    assert faults(tmp_path) == [("", "NOT_A_FILE")]
    (tmp_path / "rows.xlsx").write_bytes(GOOD)
    assert faults(tmp_path / "rows.xlsx") == [("", "UNKNOWN_EXTENSION")]
    (tmp_path / "rows.jsonl.gz").write_bytes(b"\x1f\x8bgarbage")
    assert faults(tmp_path / "rows.jsonl.gz") == [("", "BAD_GZIP")]
    (tmp_path / "rows.jsonl.gz").write_bytes(GOOD)
    assert faults(tmp_path / "rows.jsonl.gz") == [("", "BAD_GZIP")]
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(GOOD * 100)[:-12])
    assert faults(tmp_path / "rows.jsonl.gz")[0][1] in ("BAD_GZIP", "BAD_JSON")
    (tmp_path / "rows.parquet").write_bytes(b"PAR1garbage")
    assert faults(tmp_path / "rows.parquet") == [("", "BAD_PARQUET")]


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="this system has no file that fails when it is read")
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.jsonl.gz", "rows.parquet"])
def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path, name):
    (tmp_path / name).symlink_to("/proc/self/mem")  # nothing is mapped at its beginning
    assert faults(tmp_path / name) == [("", "UNREADABLE")]


def test_a_file_that_may_not_be_read_is_one_sentence(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD)
    path.chmod(0)
    if os.geteuid() == 0:  # whom the mode does not stop

        def refuse(self, mode):
            raise PermissionError(errno.EACCES, "Permission denied", str(self))

        monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=r"rows\.jsonl UNREADABLE cannot be read \(Permission denied\)"):
        list(scan(path))


@pytest.mark.parametrize("checksum", [True, False])
def test_damaged_parquet_pages_are_an_error(tmp_path, checksum):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "rows.parquet"
    rows = [{"text": f"Row {i}, of the number {i * i}."} for i in range(500)]
    pq.write_table(pa.Table.from_pylist(rows), path, compression="zstd", write_page_checksum=checksum)
    whole = path.read_bytes()
    found = []
    for at in range(4, len(whole), len(whole) // 40):
        path.write_bytes(whole[:at] + bytes(255 - b for b in whole[at : at + 24]) + whole[at + 24 :])
        found += faults(path) or [(at, "unnoticed")]
    codes = {code for _, code in found}
    assert codes == {"BAD_PARQUET"} if checksum else "BAD_PARQUET" in codes


def test_parquet_rows_are_numbered(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    values = [{"messages": [{"role": "user", "content": str(i)}], "n": i} for i in range(3000)]
    pq.write_table(pa.Table.from_pylist(values), tmp_path / "rows.parquet")
    rows = list(read_rows(tmp_path / "rows.parquet"))
    assert [row.value for row in rows] == values
    assert rows[2047].where.endswith("rows.parquet:2048") and json.loads(rows[2047].raw) == values[2047]


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=8,
)
rows_of_values = st.lists(st.dictionaries(texts, values, max_size=4), min_size=1, max_size=5)


@settings(max_examples=60)
@given(rows=rows_of_values, ascii=st.booleans(), end=st.sampled_from(["\n", "\r\n", "\n\n"]))
def test_any_objects_come_back_equal(tmp_path, rows, ascii, end):
    lines = tmp_path / "rows.jsonl"
    lines.write_bytes("".join(json.dumps(row, ensure_ascii=ascii) + end for row in rows).encode())
    assert [row.value for row in read_rows(lines)] == rows
    array = tmp_path / "rows.json"
    array.write_bytes(json.dumps(rows, ensure_ascii=ascii, indent=len(rows) % 3 or None).encode())
    assert [row.value for row in read_rows(array)] == rows
