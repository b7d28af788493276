"""CSV, text, Arrow: rows as they were written, faults with their place."""

import gzip
import json

import pyarrow as pa
import pytest

from nurture.data.load import load_records
from nurture.data.read import BadRow, read_rows, scan
from nurture.errors import DataError
from nurture.records import Text


def faults(path):
    try:
        bad = [row for row in scan(path) if isinstance(row, BadRow)]
    except DataError as error:
        return [(error.where.removeprefix(str(path)).lstrip(":"), error.code)]
    return [(row.where.removeprefix(str(path) + ":"), row.code) for row in bad]


def test_csv_cells_hold_commas_quotes_and_line_breaks(tmp_path):
    path = tmp_path / "rows.csv"
    content = '\ufeffinstruction,output\r\n"Say ""hi"", then go","two\r\nlines"\r\n\r\nAdd.,3\r\n'
    path.write_bytes(content.encode())
    rows = list(read_rows(path))
    assert [row.value for row in rows] == [
        {"instruction": 'Say "hi", then go', "output": "two\r\nlines"},
        {"instruction": "Add.", "output": "3"},
    ]
    assert [row.where.rpartition(":")[2] for row in rows] == ["2", "5"]
    assert rows[0].raw == '"Say ""hi"", then go","two\r\nlines"'
    (tmp_path / "rows.csv.gz").write_bytes(gzip.compress(content.encode()))
    assert [row.value for row in read_rows(tmp_path / "rows.csv.gz")] == [row.value for row in rows]
    assert len(load_records(path, wants="conversation").records) == 2


def test_tabs_part_the_cells_of_tsv(tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_text("prompt\tcompletion\nOne, two\t three\n")
    assert [row.value for row in read_rows(path)] == [{"prompt": "One, two", "completion": " three"}]


@pytest.mark.parametrize(
    "content, expected",
    [
        (b"a,b\n1,2\n3\n4,5,6\n7,8\n", [("3", "CSV_COLUMNS"), ("4", "CSV_COLUMNS")]),
        (b"a,a\n1,2\n", [("1", "DUPLICATE_KEY")]),
        (b"a,\n1,2\n", [("1", "BAD_CSV")]),
        (b'a,b\n1,2\n"open,3\n', [("3", "BAD_CSV")]),
        (b'a,b\n"x"y,2\n', [("2", "BAD_CSV")]),
        (b"a,b\nna\xefve,2\n", [("2:3", "ENCODING")]),
        ("a,b\n1,2\n".encode("utf-16"), [("1:1", "ENCODING")]),
        (b"a,b\n1,\x00\n", [("2:3", "NUL")]),
        (b"a,b\n", [("", "EMPTY_FILE")]),
        (b"", [("", "EMPTY_FILE")]),
    ],
)
def test_what_is_wrong_with_a_csv_has_a_place(tmp_path, content, expected):
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    assert faults(path) == expected


def test_each_line_of_text_is_a_row(tmp_path):
    path = tmp_path / "rows.txt"
    path.write_bytes(b"Once.\r\n\n  Twice, [a].\nNever.")
    assert load_records(path, wants="text").records == [
        Text("Once.", "rows.txt:1"),
        Text("  Twice, [a].", "rows.txt:3"),
        Text("Never.", "rows.txt:4"),
    ]
    path.write_bytes(b"one\ntw\x00o\n")
    assert faults(path) == [("2:3", "NUL")]
    path.write_bytes(b"one\ntw\xff\n")
    assert faults(path) == [("2:3", "ENCODING")]


def test_arrow_in_both_its_forms(tmp_path):
    rows = [{"messages": [{"role": "user", "content": str(i)}], "n": i} for i in range(2500)]
    table = pa.Table.from_pylist(rows)
    with pa.OSFile(str(tmp_path / "file.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=1000)
    with pa.OSFile(str(tmp_path / "stream.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=1000)
    for name in ("file.arrow", "stream.arrow"):
        found = list(read_rows(tmp_path / name))
        assert [row.value for row in found] == rows
        assert found[2047].where.endswith(f"{name}:2048") and json.loads(found[2047].raw) == rows[2047]
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        assert faults(tmp_path / name) == [("", "BAD_ARROW")]


def test_a_nul_in_a_table_is_a_bad_row(tmp_path):
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist([{"t": "a\0b"}, {"t": "\\u0000"}]), tmp_path / "rows.parquet")
    assert faults(tmp_path / "rows.parquet") == [("1", "NUL")]
