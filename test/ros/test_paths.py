"""Where paths that come over the graph may lead."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("rclpy", reason="parameters belong to the node")

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.ros.paths import Paths

ROOT = Path("/robot/memory")


def test_a_path_that_comes_over_the_graph_lies_below_the_directory() -> None:
    paths = Paths(ROOT, {"head": "/etc/heads/first.safetensors"})
    assert paths.resolve("head", "heads/kitchen.safetensors") == (
        "/robot/memory/heads/kitchen.safetensors"
    )
    assert paths.resolve("head", "") == ""


def test_what_the_node_was_started_with_stays_what_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be absolute, in the home, or relative to the working directory; also set again."""
    monkeypatch.setenv("HOME", "/home/robot")
    given_ = {"head": "~/first.safetensors", "checkpoint": "weights.safetensors",
              "memory_dir": "/data", "model": "local-dir:~/clip"}  # fmt: skip
    paths = Paths(ROOT, given_)
    assert paths.resolve("head", "~/first.safetensors") == "/home/robot/first.safetensors"
    assert paths.resolve("checkpoint", "weights.safetensors") == "weights.safetensors"
    assert paths.resolve("memory_dir", "/data") == "/data"
    assert paths.resolve("model", "local-dir:~/clip") == "local-dir:/home/robot/clip"
    # Each for itself.
    assert paths.resolve("head", "weights.safetensors") == "/robot/memory/weights.safetensors"


@pytest.mark.parametrize("name", ["head", "memory_dir", "checkpoint", "engine_cache_dir"])
@pytest.mark.parametrize(
    "value",
    ["/etc/passwd", "/robot/memory/head", "../x", "heads/../../x", "~/x", "~root/x", "a\0b", ".."],
)
def test_a_path_that_leads_out_is_refused_with_both_named(name: str, value: str) -> None:
    """And with what to do."""
    with pytest.raises(InvalidInputError) as caught:
        Paths(ROOT, {}).resolve(name, value)
    assert caught.value.field == name
    for words in (str(ROOT), "remote_paths_dir", repr(value), "start the node with"):
        assert words in str(caught.value)


def test_a_path_that_cannot_be_looked_at_is_refused_with_the_reason(tmp_path: Path) -> None:
    name = "a" * 300
    with pytest.raises(InvalidInputError, match="File name too long") as caught:
        Paths(tmp_path, {}).resolve("head", name)
    assert caught.value.field == "head"


def test_a_model_is_a_name_or_a_folder_inside() -> None:
    """Names of models have slashes, too."""
    paths = Paths(ROOT, {})
    assert paths.resolve("model", "ViT-B-32/laion2b_s34b_b79k") == "ViT-B-32/laion2b_s34b_b79k"
    assert paths.resolve("model", "hf-hub:owner/name") == "hf-hub:owner/name"
    assert paths.resolve("model", "local-dir:clip") == "local-dir:/robot/memory/clip"
    with pytest.raises(InvalidInputError, match="/opt/clip"):
        paths.resolve("model", "local-dir:/opt/clip")


@pytest.mark.parametrize("link", ["file", "folder"])
def test_a_link_inside_is_not_followed(tmp_path: Path, link: str) -> None:
    """Wherever it leads, and wherever on the way it is."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "head").write_text("secret")
    root = tmp_path / "root"
    root.mkdir()
    (root / "file").symlink_to(outside / "head")
    (root / "folder").symlink_to(outside)
    value = "file" if link == "file" else "folder/head"
    with pytest.raises(InvalidInputError, match=f"{root / link} is a link"):
        Paths(root, {}).resolve("head", value)


def test_a_name_that_no_disk_takes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"head: .*name too long"):
        Paths(tmp_path, {}).resolve("head", "h" * 300)


@given(st.text())
def test_no_text_leads_out(text: str) -> None:
    """Whatever is accepted lies below, by the operating system's own idea of a path."""
    try:
        found = Paths(ROOT, {}).resolve("head", text)
    except InvalidInputError:
        return
    assert not found or Path(found).resolve().is_relative_to(ROOT)


def test_a_home_that_nobody_knows_is_refused_with_the_parameters_name() -> None:
    """As of a service that was started without HOME."""
    value = "~no such user/memory"
    with pytest.raises(InvalidInputError) as caught:
        Paths(ROOT, {"memory_dir": value}).resolve("memory_dir", value)
    for words in ("memory_dir", repr(value), "set HOME"):
        assert words in str(caught.value)


@pytest.mark.parametrize("given_", [{}, {"memory_dir": ""}])
def test_a_memory_without_a_directory_is_not_made_in_the_working_directory(
    given_: dict[str, str],
) -> None:
    with pytest.raises(InvalidInputError, match="memory_dir: expected a directory, got ''"):
        Paths(ROOT, given_).resolve("memory_dir", "")
