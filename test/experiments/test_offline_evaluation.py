"""Evaluating the demonstration bag: numbers, the same hash again, going on where it broke off."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from test.evaluation.writers import Recorded, ns, two_tasks, write_rosbags
from vla_retrieval.cli.evaluate import main as evaluate_tool
from vla_retrieval.encoders import DoubleEncoder, EncoderSettings, load_encoder
from vla_retrieval.errors import InvalidInputError, StorageError
from vla_retrieval.evaluation.comparing import compare
from vla_retrieval.evaluation.frames import ReadOptions
from vla_retrieval.evaluation.gates import parse_gate, tabulate
from vla_retrieval.evaluation.randomization import holm
from vla_retrieval.evaluation.splits import SplitOptions
from vla_retrieval.experiments.assembling import Outcome
from vla_retrieval.experiments.comparing import compare_folders
from vla_retrieval.experiments.folder import read_instructions, read_trec, write_folder
from vla_retrieval.experiments.offline import evaluate_bags
from vla_retrieval.experiments.searching import DIRECTIONS
from vla_retrieval.experiments.settings import ExperimentSettings
from vla_retrieval.types import RgbImage

DEMO = Path(__file__).parents[2] / "demo"
SETTINGS = ExperimentSettings(
    split=SplitOptions(seed=1), relevance="labels", relevance_file=DEMO / "tasks.yaml", depth=20
)


class Interrupted(DoubleEncoder):
    """The test double, cut off after some batches."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self._left = batches

    def encode_images(self, images: list[RgbImage]) -> np.ndarray:
        if self._left == 0:
            raise KeyboardInterrupt
        self._left -= 1
        return super().encode_images(images)


def evaluated(work: Path, settings: ExperimentSettings = SETTINGS) -> Outcome:
    return evaluate_bags([DEMO / "bag"], DoubleEncoder(), settings, work)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return evaluated(tmp_path_factory.mktemp("work"))


def test_the_demonstration_model_finds_the_tasks_of_the_demonstration_bag(tmp_path: Path) -> None:
    encoder = load_encoder(EncoderSettings(device="cpu"))
    found = evaluate_bags([DEMO / "bag"], encoder, SETTINGS, tmp_path / "work").evaluation
    again = evaluate_bags([DEMO / "bag"], encoder, SETTINGS, tmp_path / "again").evaluation
    assert found.hash == again.hash
    assert found.counts["frames"] == 170
    assert found.counts["episodes"] == 32
    macro = {name: result.macro for name, result in found.directions.items()}
    assert macro["pair"]["hit@1"].value == pytest.approx(1.0, abs=0.02)
    assert macro["scene to scenes"]["hit@1"].value == pytest.approx(1.0, abs=0.02)
    assert macro["instruction to scenes"]["hit@5"].value >= 0.85
    assert macro["scene to instructions"]["ndcg@10"].value >= 0.80


def test_the_same_bag_and_settings_give_the_same_hash(outcome: Outcome, tmp_path: Path) -> None:
    assert evaluated(tmp_path / "work").evaluation.hash == outcome.evaluation.hash


def test_another_storage_of_the_same_data_gives_the_same_hash(
    outcome: Outcome, tmp_path: Path
) -> None:
    copy = tmp_path / "another name"
    types = get_typestore(Stores.ROS2_HUMBLE)
    with (
        Reader(DEMO / "bag") as reader,
        Writer(copy, version=8, storage_plugin=StoragePlugin.SQLITE3) as writer,
    ):
        topics = {
            c.topic: writer.add_connection(c.topic, c.msgtype, typestore=types)
            for c in reader.connections
        }
        for connection, stamp_ns, data in reader.messages():
            writer.write(topics[connection.topic], stamp_ns, data)
    found = evaluate_bags([copy], DoubleEncoder(), SETTINGS, tmp_path / "work")
    assert found.evaluation.hash == outcome.evaluation.hash


def test_the_parts_of_the_wall_time_are_those_of_the_stages(outcome: Outcome) -> None:
    wall, times = outcome.evaluation.wall_sec, outcome.evaluation.times
    encoding = sum(times[f"encode {what} (batch)"].total_sec for what in ("images", "instructions"))
    assert wall["encoding"] == pytest.approx(encoding)
    assert wall["searching"] == pytest.approx(times["search"].total_sec)
    assert min(wall.values()) >= 0.0


def test_another_setting_gives_another_hash(outcome: Outcome, tmp_path: Path) -> None:
    other = ExperimentSettings(
        split=SplitOptions(seed=1), relevance="labels", relevance_file=DEMO / "tasks.yaml",
        depth=20, scene_weight=0.25,
    )  # fmt: skip
    assert evaluated(tmp_path / "work", other).evaluation.hash != outcome.evaluation.hash


@pytest.mark.parametrize("batches", [1, 3])
def test_a_broken_evaluation_goes_on_and_ends_the_same(
    outcome: Outcome, tmp_path: Path, batches: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        evaluate_bags([DEMO / "bag"], Interrupted(batches), SETTINGS, tmp_path / "work")
    found = evaluate_bags([DEMO / "bag"], Interrupted(100), SETTINGS, tmp_path / "work")
    assert found.evaluation.hash == outcome.evaluation.hash
    assert found.evaluation.times["encode images (batch)"].calls == 6 - batches


def test_an_evaluation_that_broke_off_while_searching_searches_only_the_rest(
    outcome: Outcome, tmp_path: Path
) -> None:
    def interrupt(doing: str, done: int, total: int) -> None:
        if doing == "searching: instruction to scenes":
            raise KeyboardInterrupt

    bags, work = [DEMO / "bag"], tmp_path / "work"
    with pytest.raises(KeyboardInterrupt):
        evaluate_bags(bags, DoubleEncoder(), SETTINGS, work, interrupt)
    found = evaluate_bags(bags, DoubleEncoder(), SETTINGS, work)
    assert found.evaluation.hash == outcome.evaluation.hash
    left = sum(len(outcome.ranked[name].frames) for name in list(DIRECTIONS)[3:])
    assert found.evaluation.times["search"].calls == left


def test_rankings_of_other_settings_are_not_taken_for_these_and_not_kept(
    outcome: Outcome, tmp_path: Path
) -> None:
    kept = tmp_path / "work" / "rankings"
    for settings in (replace(SETTINGS, depth=15), replace(SETTINGS, scene_weight=0.25), SETTINGS):
        found = evaluated(tmp_path / "work", settings)
        assert len(list(kept.iterdir())) == len(DIRECTIONS)
    assert found.evaluation.hash == outcome.evaluation.hash


def test_work_on_other_frames_of_the_same_bags_is_refused(tmp_path: Path) -> None:
    evaluated(tmp_path / "work", replace(SETTINGS, split=SplitOptions(seed=1, every_sec=2.0)))
    with pytest.raises(InvalidInputError, match="work"):
        evaluated(tmp_path / "work")


def test_work_serves_every_seed(tmp_path: Path) -> None:
    far = SplitOptions(seed=1, exclude_within_sec=0.5)
    evaluated(tmp_path / "work", replace(SETTINGS, split=far))
    found = evaluated(tmp_path / "work", replace(SETTINGS, split=replace(far, seed=2)))
    assert "encode images (batch)" not in found.evaluation.times


def test_work_on_other_bags_is_refused(tmp_path: Path) -> None:
    evaluated(tmp_path / "work")
    copy = tmp_path / "bag"
    copy.mkdir()
    for file in (DEMO / "bag").iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    with pytest.raises(InvalidInputError, match="work"):
        evaluate_bags([copy], DoubleEncoder(), SETTINGS, tmp_path / "work")


class InHalf(DoubleEncoder):
    """The test double, as if it computed in fp16."""

    precision = "fp16"


def test_work_of_another_arithmetic_is_refused_with_both_named(tmp_path: Path) -> None:
    """Half of the embeddings in one and half in another would be the hash of neither."""
    with pytest.raises(KeyboardInterrupt):
        evaluate_bags([DEMO / "bag"], Interrupted(1), SETTINGS, tmp_path / "work")
    with pytest.raises(InvalidInputError, match=r"in fp16 on cpu, got .*in fp32"):
        evaluate_bags([DEMO / "bag"], InHalf(), SETTINGS, tmp_path / "work")
    found = evaluated(tmp_path / "work").evaluation
    assert found.settings["encoded by"] == "double in fp32 on cpu"


def test_a_work_folder_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StorageError, match="file/work"):
        evaluated(tmp_path / "file" / "work")


def test_names_of_bags_do_not_change_the_hash(tmp_path: Path) -> None:
    hashes = []
    for names in (("monday", "tuesday"), ("first", "second")):
        folder = tmp_path / names[0]
        folder.mkdir()
        bags = [write_rosbags(folder / name, two_tasks()) for name in names]
        split = SplitOptions(gallery_bags=names[:1], query_bags=names[1:])
        settings = ExperimentSettings(split=split, depth=20)
        found = evaluate_bags(bags, DoubleEncoder(), settings, folder / "work")
        hashes.append(found.evaluation.hash)
    assert hashes[0] == hashes[1]


def test_what_is_asked_as_absent_changes_the_hash_too(tmp_path: Path) -> None:
    """It decides what is said about known and unknown, and nothing else."""
    settings = ExperimentSettings(split=SplitOptions(absent_fraction=1.0), depth=20)
    hashes = []
    for shade in (10, 250):
        recorded = two_tasks().say(50.0, "find the ball")
        recorded.see(50.5, data=np.full(6 * 10 * 3, shade, np.uint8))
        bag = write_rosbags(tmp_path / str(shade), recorded)
        found = evaluate_bags([bag], DoubleEncoder(), settings, tmp_path / f"work {shade}")
        assert found.evaluation.counts["absent frames"] == 1
        hashes.append(found.evaluation.hash)
    assert hashes[0] != hashes[1]


def test_a_qrels_file_that_is_none_is_refused_before_anything_is_encoded(tmp_path: Path) -> None:
    (tmp_path / "qrels").write_text("not a line of one\n")
    settings = replace(SETTINGS, relevance="qrels", relevance_file=tmp_path / "qrels")
    with pytest.raises(InvalidInputError, match="qrels:1"):
        evaluate_bags([DEMO / "bag"], Interrupted(0), settings, tmp_path / "work")


def test_what_a_qrels_file_calls_relevant_is_asked_for_in_whatever_words(tmp_path: Path) -> None:
    """Other words than the memory's are no absent query where the file knows an answer."""
    memory, asking = Recorded().say(0.0, "pick up the cup").see(1.0), Recorded()
    asking.say(0.0, "grab the mug").see(1.0).say(2.0, "find the ball").see(3.0)
    bags = [write_rosbags(tmp_path / "m", memory), write_rosbags(tmp_path / "a", asking)]
    (tmp_path / "qrels").write_text(f"a:/camera/image_raw@{ns(1.0)} 0 0 1\n")
    settings = ExperimentSettings(
        split=SplitOptions(gallery_bags=("m",), query_bags=("a",)), depth=20, relevance="qrels",
        relevance_file=tmp_path / "qrels",
    )  # fmt: skip
    found = evaluate_bags(bags, DoubleEncoder(), settings, tmp_path / "work").evaluation
    assert (found.counts["queries frames"], found.counts["absent frames"]) == (1, 1)
    assert found.directions["pair"].micro["hit@1"].value == 1.0


def test_no_episode_is_asked_and_remembered(outcome: Outcome) -> None:
    for direction, ranked in outcome.ranked.items():
        asking = {frame.episode_id for frame in ranked.frames}
        assert asking, direction
        counts = outcome.evaluation.counts
        assert counts["queries episodes"] + counts["gallery episodes"] == counts["episodes"]


def test_words_ask_once_however_many_frames_they_were_in_force_for(outcome: Outcome) -> None:
    frames = outcome.ranked["instruction to scenes"].frames
    assert len({frame.instruction for frame in frames}) == len(frames)


def test_a_split_that_nobody_can_answer_says_what_to_do_before_anything_is_encoded(
    tmp_path: Path,
) -> None:
    with pytest.raises(InvalidInputError, match="Record each instruction in two episodes"):
        evaluated(tmp_path / "work", ExperimentSettings(depth=20))
    assert not (tmp_path / "work").exists()


def test_a_page_that_cannot_be_made_is_told_before_anything_is_encoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(SystemExit) as ended:
        evaluate_tool([str(DEMO / "bag"), "--out", str(tmp_path / "out"), "--model", "double"])
    assert ended.value.code == 1
    assert "a page needs jinja2" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_split_whose_frames_are_all_too_near_says_so(tmp_path: Path) -> None:
    near = SplitOptions(seed=1, exclude_within_sec=20.0)
    with pytest.raises(InvalidInputError, match="86 that --exclude-within-sec leaves out"):
        evaluated(tmp_path / "work", replace(SETTINGS, split=near))


def test_the_rest_of_an_episode_is_relevant_where_episodes_are_to_be_found(tmp_path: Path) -> None:
    found = evaluated(tmp_path / "work", ExperimentSettings(relevance="episode", depth=20))
    assert (found.ranked["scene to scenes"].qrels.relevant > 0).all()
    counts = found.evaluation.counts
    assert counts["gallery episodes"] == counts["queries episodes"] == counts["episodes"]
    assert counts["gallery frames"] + counts["queries frames"] == counts["frames"]
    # Here each episode has words of its own.
    assert found.evaluation.directions["pair"].micro["hit@1"].value == 1.0


@pytest.mark.parametrize(
    ("field", "value"),
    [("alpha", 7.0), ("alpha", 0.6), ("alpha", 0.0), ("seed", -1), ("depth", 5), ("ks", ())],
)
def test_a_setting_out_of_its_range_is_refused_before_any_work(field: str, value: object) -> None:
    with pytest.raises(InvalidInputError, match=field):
        ExperimentSettings(**{field: value})


def test_what_is_written_is_read_back(outcome: Outcome, tmp_path: Path) -> None:
    write_folder(outcome, tmp_path / "report", "A title")
    for direction in DIRECTIONS:
        qrels, run = read_trec(tmp_path / "report", direction)
        ranked = outcome.ranked[direction]
        np.testing.assert_array_equal(run.aligned(qrels.query_ids).scores, ranked.run.scores)
        np.testing.assert_array_equal(qrels.entry_ids, ranked.qrels.entry_ids)
    assert outcome.evaluation.hash in (tmp_path / "report" / "index.html").read_text("utf-8")


@pytest.fixture
def reports(outcome: Outcome, tmp_path: Path) -> list[Path]:
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        write_folder(outcome, folder, "A title")
    return folders


def turn_round(file: Path) -> None:
    """Turn each ranking of a run file round."""
    lines = [line.split() for line in file.read_text("utf-8").splitlines()]
    turned = [f"{q} Q0 {d} {r} {-float(s)!r} {tag}\n" for q, _, d, r, s, tag in lines]
    file.write_text("".join(turned), encoding="utf-8")


def test_a_result_is_not_worse_than_itself(reports: list[Path]) -> None:
    tables, code = compare_folders(reports, ["hit@1"], ["ndcg@10:0.0"], None)
    assert code == 0
    assert list(tables) == list(DIRECTIONS)


def test_a_ranking_turned_round_fails_the_gate(reports: list[Path]) -> None:
    for file in reports[1].glob("*.run.txt"):
        turn_round(file)
    _, code = compare_folders(reports, ["hit@1"], ["ndcg@10:0.01"], None)
    assert code == 1


def test_the_tool_says_in_which_directions_a_gate_failed(
    reports: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["compare", *map(str, reports), "--fail-if-worse", "ndcg@10:0.01"]
    with pytest.raises(SystemExit) as passed:
        evaluate_tool(command)
    assert passed.value.code == 0
    assert "hold in every direction" in capsys.readouterr().out
    turn_round(reports[1] / "pair.run.txt")
    with pytest.raises(SystemExit) as failed:
        evaluate_tool(command)
    assert failed.value.code == 1
    assert capsys.readouterr().out.rstrip().endswith("FAILED: pair")


def test_p_values_are_corrected_over_all_directions(reports: list[Path]) -> None:
    """A gate has to hold in each of them, and fails by chance the more often the more there are."""
    turn_round(reports[1] / "pair.run.txt")
    tables, _ = compare_folders(reports, ["ndcg@10", "hit@1"], [], None)
    rows = [row for table, _ in tables.values() for row in table.rows]
    p, corrected = ([float(row[column]) for row in rows] for column in (6, 7))
    expected = holm({str(place): value for place, value in enumerate(p)})
    assert corrected == pytest.approx(list(expected.values()), abs=1e-3)
    assert min(p) < min(corrected) < 1.0


def test_a_direction_in_which_nothing_is_relevant_is_named(reports: list[Path]) -> None:
    for file in (folder / "pair.qrels.txt" for folder in reports):
        ids = dict.fromkeys(line.split()[0] for line in file.read_text("utf-8").splitlines())
        file.write_text("".join(f"{query_id} 0 -1 0\n" for query_id in ids), encoding="utf-8")
    with pytest.raises(InvalidInputError, match=r"relevant entry in each direction.*\(pair\)"):
        compare_folders(reports, ["hit@1"], [], None)


def test_results_of_different_splits_are_not_compared(
    outcome: Outcome, reports: list[Path], tmp_path: Path
) -> None:
    other = ExperimentSettings(
        reading=ReadOptions(), split=SplitOptions(seed=2), relevance="labels",
        relevance_file=DEMO / "tasks.yaml", depth=20,
    )  # fmt: skip
    write_folder(evaluated(tmp_path / "work", other), tmp_path / "third", "A title")
    with pytest.raises(InvalidInputError, match="the same queries and relevance"):
        compare_folders([reports[0], tmp_path / "third"], ["hit@1"], [], None)


def drop(folder: Path, query_ids: set[str]) -> None:
    """Take queries out of a result, as one that was evaluated live has dropped frames."""
    for file in folder.glob("*.txt"):
        lines = file.read_text("utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.split()[0] not in query_ids]
        file.write_text("".join(kept), encoding="utf-8")


def test_what_all_have_is_compared_on_request_where_frames_were_dropped(
    reports: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    qrels, run = read_trec(reports[0], "pair")
    first, second = set(qrels.query_ids[:3]), {qrels.query_ids[5]}
    drop(reports[0], first)
    drop(reports[1], second)
    turn_round(reports[1] / "pair.run.txt")
    with pytest.raises(InvalidInputError, match=r"the same queries.*--common"):
        compare_folders(reports, ["ndcg@10"], [], None)
    tables, _ = compare_folders(reports, ["ndcg@10"], ["ndcg@10:0.01"], None, common=True)
    kept = [q for q in qrels.query_ids if q not in first | second]
    _, drawn = tables["pair"]
    for words in (f"{len(kept)} queries", "1 of first left out", "3 of second left out"):
        assert words in str(drawn.title)
    of = read_instructions(reports[0], "pair")
    assert of is not None
    turned = read_trec(reports[1], "pair")[1]
    runs = {"first": run.aligned(kept), "second": turned.aligned(kept)}
    expected = tabulate(
        compare(qrels.only(kept), runs, ["ndcg@10"], instructions=[of[q] for q in kept]),
        [parse_gate("ndcg@10:0.01")],
    )
    uncorrected = slice(0, 7)
    assert [row[uncorrected] for row in tables["pair"][0].rows] == [
        row[uncorrected] for row in expected.rows
    ]
    with pytest.raises(SystemExit):
        evaluate_tool(["compare", *map(str, reports), "--common"])
    assert f"{len(kept)} queries" in capsys.readouterr().out


def test_results_that_have_no_query_in_common_are_refused(reports: list[Path]) -> None:
    query_ids = read_trec(reports[0], "pair")[0].query_ids
    drop(reports[0], set(query_ids[::2]))
    drop(reports[1], set(query_ids[1::2]))
    with pytest.raises(InvalidInputError, match="queries that all of them have"):
        compare_folders(reports, ["ndcg@10"], [], None, common=True)


def test_results_of_other_grades_are_not_compared(reports: list[Path]) -> None:
    """The first one's would be taken for both."""
    file = reports[1] / "pair.qrels.txt"
    graded = file.read_text("utf-8").replace(" 1\n", " 2\n", 1)
    file.write_text(graded, encoding="utf-8")
    with pytest.raises(InvalidInputError, match="the same queries and relevance"):
        compare_folders(reports, ["ndcg@10"], [], None)
    with pytest.raises(InvalidInputError, match="the same queries and relevance") as refused:
        compare_folders(reports, ["ndcg@10"], [], None, common=True)
    assert "--common" not in str(refused.value), "what was given already is no advice"


def test_frames_that_fail_together_count_as_one_in_a_comparison(reports: list[Path]) -> None:
    """Frames of two instructions got worse: one by one, too many of them for chance."""
    of = read_instructions(reports[0], "pair")
    assert of is not None
    hit = sorted(of.values(), key=list(of.values()).count)[-1]
    second = next(text for text in of.values() if text != hit)
    file = reports[1] / "pair.run.txt"
    lines = [line.split() for line in file.read_text("utf-8").splitlines()]
    turned = [
        f"{q} Q0 {d} {r} {-float(s) if of[q] in (hit, second) else float(s)!r} {tag}\n"
        for q, _, d, r, s, tag in lines
    ]
    file.write_text("".join(turned), encoding="utf-8")
    tables, code = compare_folders(reports, ["ndcg@10"], ["ndcg@10:0.01"], None)
    assert code == 0
    _, drawn = tables["pair"]
    assert f"means over {len(set(of.values()))} instructions" in str(drawn.title)
    for folder in reports:
        (folder / "pair.queries.csv").unlink()  # as an older release wrote it
    assert compare_folders(reports, ["ndcg@10"], ["ndcg@10:0.01"], None)[1] == 1
