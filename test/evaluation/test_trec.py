"""TREC files: what is written is read again, and bad lines are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.evaluation import trec
from vla_retrieval.evaluation.qrels import Qrels
from vla_retrieval.evaluation.run import Run

IDS = st.text(min_size=1, max_size=8).filter(lambda text: text.isprintable() and " " not in text)
ENTRY_IDS = st.integers(0, 2**63 - 1)
SCORES = st.floats(allow_nan=False)
QRELS = st.dictionaries(IDS, st.dictionaries(ENTRY_IDS, st.integers(1, 50), max_size=5), max_size=5)
HITS = st.dictionaries(IDS, st.dictionaries(ENTRY_IDS, SCORES, max_size=5), max_size=5)


def run_from(hits: dict[str, dict[int, float]]) -> Run:
    found = [(row, e, s) for row, of in enumerate(hits.values()) for e, s in of.items()]
    rows, entry_ids, scores = zip(*found, strict=True) if found else ((), (), ())
    return Run.from_hits(list(hits), rows, entry_ids, scores)


def lines_file(folder: Path, lines) -> Path:
    path = folder / "lines.txt"
    path.write_bytes("".join(lines).encode())
    return path


@given(QRELS)
def test_qrels_come_back_as_they_were(tmp_path_factory, grades):
    qrels = Qrels.from_mapping(grades)
    path = lines_file(tmp_path_factory.mktemp("qrels"), trec.qrels_lines(qrels))
    again = trec.read_qrels(path)

    assert again.query_ids == qrels.query_ids
    for name in ("offsets", "entry_ids", "grades"):
        assert getattr(again, name).tolist() == getattr(qrels, name).tolist()


@given(HITS)
def test_a_run_comes_back_to_the_last_bit(tmp_path_factory, hits):
    run = run_from(hits)
    path = lines_file(tmp_path_factory.mktemp("run"), trec.run_lines(run, "标签"))
    again = trec.read_run(path, run.depth).aligned(run.query_ids)

    assert again.query_ids == run.query_ids
    assert again.entry_ids.tolist() == run.entry_ids.tolist()
    assert again.scores.tobytes() == run.scores.tobytes()


def test_files_are_written_whole_and_in_the_layout_of_trec(tmp_path):
    trec.write_qrels(tmp_path / "qrels", Qrels.from_mapping({"拿起杯子": {7: 2, 8: 1}, "b": {}}))
    run = Run.from_scores(["拿起杯子"], [[7, 8]], [[0.1, 0.30000000000000004]], depth=3)
    trec.write_run(tmp_path / "run", run, "flat")

    assert (tmp_path / "qrels").read_text("utf-8") == "拿起杯子 0 7 2\n拿起杯子 0 8 1\nb 0 -1 0\n"
    assert (tmp_path / "run").read_text("utf-8") == (
        "拿起杯子 Q0 8 1 0.30000000000000004 flat\n拿起杯子 Q0 7 2 0.1 flat\n"
    )
    assert {path.name for path in tmp_path.iterdir()} == {"qrels", "run"}


def test_a_file_that_exists_is_not_overwritten(tmp_path):
    path = lines_file(tmp_path, ["mine"])

    with pytest.raises(InvalidInputError, match="out: expected a path that does not exist"):
        trec.write_qrels(path, Qrels.from_mapping({}))
    assert path.read_text() == "mine"


def test_a_tag_with_a_space_is_refused(tmp_path):
    with pytest.raises(InvalidInputError, match="tag: expected printable text without spaces"):
        trec.write_run(tmp_path / "run", run_from({"a": {1: 0.5}}), "my run")
    assert not list(tmp_path.iterdir())


def test_files_of_others_are_read(tmp_path):
    qrels = trec.read_qrels(
        lines_file(tmp_path, ["\ufeffb\tQ0\t5\t1\r\n", "\r\n", "a 0 any-doc 0\r\n", "b 0 4 -2\n"])
    )

    assert qrels.query_ids == ("b", "a")
    assert qrels.entry_ids.tolist() == [5]


def test_the_ranking_is_that_of_the_scores_and_not_of_the_rank_column(tmp_path):
    path = lines_file(tmp_path, ["a Q0 9 1 0.5 t\n", "b Q0 1 1 1e-3 t\n", "a Q0 4 7 5E-1 t\n"])
    run = trec.read_run(path)

    assert run.query_ids == ("a", "b")
    assert run.entry_ids.tolist() == [[4, 9], [1, -1]]
    assert trec.read_run(path, depth=1).entry_ids.tolist() == [[4], [1]]


def test_an_empty_file_has_no_queries(tmp_path):
    path = lines_file(tmp_path, [])

    assert trec.read_qrels(path).query_ids == ()
    assert trec.read_run(path).query_ids == ()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a 0 5", "expected 4 columns, qid 0 docid grade, got 3: 'a 0 5'"),
        ("two words 0 5 1", "expected 4 columns, qid 0 docid grade, got 5"),
        ("拿起\u3000杯子 0 5 1", "expected 4 columns"),
        ("a 0 5 x", "expected a whole number up to 50 as grade, got 'x'"),
        ("a 0 5 51", "expected a whole number up to 50 as grade, got '51'"),
        ("a 0 5 1.0", "expected a whole number.*got '1.0'"),
        ("a 0 5 1_0", "expected a whole number.*got '1_0'"),
        ("a 0 doc5 1", "expected an entry id as docid, a whole number from 0 on, got 'doc5'"),
        ("a 0 -1 1", "expected an entry id as docid.*got '-1'"),
        ("a 0 9223372036854775808 1", "expected an entry id"),
        ("a\u200b 0 5 1", "expected a printable query id"),
        ("ok 0 1 2", "expected each docid once for a query, got 1 again for 'ok'"),
    ],
)
def test_a_bad_line_of_qrels_is_refused_by_name(tmp_path, line, message):
    path = lines_file(tmp_path, ["ok 0 1 1\n", "\n", f"{line}\n", "ok 0 2 1\n"])

    with pytest.raises(InvalidInputError, match=rf"lines\.txt:3: {message}"):
        trec.read_qrels(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a Q0 5 1 0.5", "expected 6 columns, qid Q0 docid rank score tag, got 5"),
        ("a Q0 5 1 high t", "expected a number as score, got 'high'"),
        ("a Q0 5 1 nan t", "expected a number as score, got 'nan'"),
        ("a Q0 5 1 1_0 t", "expected a number as score, got '1_0'"),
        ("a Q0 5 first 0.5 t", "expected a whole number as rank, got 'first'"),
        ("a Q0 5.0 1 0.5 t", "expected an entry id as docid"),
        ("ok Q0 1 2 0.5 t", "expected each docid once for a query, got 1 again for 'ok'"),
    ],
)
def test_a_bad_line_of_a_run_is_refused_by_name(tmp_path, line, message):
    path = lines_file(tmp_path, ["ok Q0 1 1 0.9 t\n", f"{line}\n", "ok Q0 2 3 0.4 t\n"])

    with pytest.raises(InvalidInputError, match=rf"lines\.txt:2: {message}"):
        trec.read_run(path)


def test_a_line_that_is_not_utf8_is_refused_by_name(tmp_path):
    path = tmp_path / "gbk.txt"
    path.write_bytes(b"ok 0 1 1\n" + "拿起杯子 0 5 1\n".encode("gbk"))

    with pytest.raises(InvalidInputError, match=r"gbk\.txt:2: expected UTF-8 text"):
        trec.read_qrels(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InvalidInputError, match=r"none\.txt: expected a file that can be read"):
        trec.read_run(tmp_path / "none.txt")


def test_infinite_scores_come_back(tmp_path):
    run = run_from({"a": {1: np.inf, 2: 0.0, 3: -np.inf}})
    path = lines_file(tmp_path, trec.run_lines(run, "t"))

    assert trec.read_run(path).scores.tolist() == [[np.inf, 0.0, -np.inf]]
