"""Files and folders that appear when they are whole: what is refused, and what is left behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vla_retrieval.errors import InvalidInputError, StorageError
from vla_retrieval.publishing import check_absent, check_place, published


def test_a_file_appears_under_its_name_when_it_is_whole(tmp_path: Path) -> None:
    with published(tmp_path / "whole") as partial:
        partial.write_text("half")
        assert not (tmp_path / "whole").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_was_begun_is_taken_away_where_it_fails(kind: str, tmp_path: Path) -> None:
    def fail() -> None:
        with published(tmp_path / "whole") as partial:
            if kind == "folder":
                partial.mkdir()
            (partial / "part" if kind == "folder" else partial).write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not list(tmp_path.iterdir())


def test_a_name_that_was_taken_meanwhile_is_left_alone(tmp_path: Path) -> None:
    def write() -> None:
        with published(tmp_path / "whole") as partial:
            partial.write_text("new")
            (tmp_path / "whole").write_text("another's")

    with pytest.raises(InvalidInputError, match="does not exist yet"):
        write()
    assert (tmp_path / "whole").read_text() == "another's"


def test_a_link_that_leads_nowhere_has_the_name(tmp_path: Path) -> None:
    (tmp_path / "head").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InvalidInputError, match="does not exist yet"):
        check_absent(tmp_path / "head")


def test_a_folder_that_is_not_there_is_asked_for_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="Make its parent folder first") as caught:
        check_place(tmp_path / "missing" / "head")
    assert caught.value.field == "out"


@pytest.mark.parametrize("check", [check_absent, check_place])
@pytest.mark.parametrize("path", ["x" * 300, f"{'x' * 300}/head"], ids=["name", "folder"])
def test_a_path_that_cannot_be_looked_at_is_named_with_the_reason(
    check: Callable[[Path], None], path: str, tmp_path: Path
) -> None:
    with pytest.raises(StorageError, match=r"cannot look at .*name too long"):
        check(tmp_path / path)


def test_a_name_that_leaves_no_room_for_that_of_the_partial_file_is_refused(
    tmp_path: Path,
) -> None:
    with (
        pytest.raises(StorageError, match=r"cannot write .*name too long"),
        published(tmp_path / ("x" * 250)) as partial,
    ):
        partial.write_text("half")
