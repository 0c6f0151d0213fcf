"""Shipped files are found in a source tree and in an installed prefix, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from vla_retrieval import shipped
from vla_retrieval.errors import ShippedFileError
from vla_retrieval.shipped import find_shipped


@pytest.fixture
def prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A prefix as colcon installs it, with a shipped file, seen from a package elsewhere."""
    file = tmp_path / "prefix" / "share" / "vla_retrieval" / "demo" / "model" / "a.json"
    file.parent.mkdir(parents=True)
    file.touch()
    monkeypatch.delenv("AMENT_PREFIX_PATH", raising=False)
    monkeypatch.setattr(shipped, "__file__", str(tmp_path / "away/vla_retrieval/shipped.py"))
    return tmp_path / "prefix"


def test_a_file_is_found_through_the_ament_prefix_path(
    prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{prefix.parent / 'other'}:{prefix}")
    assert find_shipped("model/a.json").is_relative_to(prefix)


@pytest.mark.parametrize("packages", ["lib/python3.12/site-packages", "local/lib/x/dist-packages"])
def test_a_file_is_found_beside_the_installed_package(
    prefix: Path, monkeypatch: pytest.MonkeyPatch, packages: str
) -> None:
    monkeypatch.setattr(shipped, "__file__", str(prefix / packages / "vla_retrieval/shipped.py"))
    assert find_shipped("model/a.json").is_relative_to(prefix)


def test_the_source_tree_behind_a_symlinked_install_comes_first(
    prefix: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    (tree / "demo" / "model").mkdir(parents=True)
    (tree / "demo" / "model" / "a.json").touch()
    (tree / "vla_retrieval").mkdir()
    (tree / "vla_retrieval" / "shipped.py").touch()
    link = prefix / "lib" / "vla_retrieval"
    link.parent.mkdir()
    link.symlink_to(tree / "vla_retrieval")  # as colcon build --symlink-install does
    monkeypatch.setattr(shipped, "__file__", str(link / "shipped.py"))
    assert find_shipped("model/a.json") == tree / "demo" / "model" / "a.json"


def test_a_file_that_is_nowhere_says_where_it_was_looked_for(
    prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMENT_PREFIX_PATH", "/opt/other")
    with pytest.raises(ShippedFileError) as caught:
        find_shipped("model/b.json")
    for part in ("demo/model/b.json", "/opt/other", "away", "setup file"):
        assert part in str(caught.value)
