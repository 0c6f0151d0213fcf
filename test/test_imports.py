"""Directions of import: which room may know which, and where ROS, FAISS and torch live.

Read from the source, so that the rules hold on a machine that has none of those libraries.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "vla_retrieval"

# A room is a module or a folder of vla_retrieval/. Each may import the rooms of the rows above its
# own, never one of its own row.
ROWS: tuple[frozenset[str], ...] = (
    frozenset({"types", "errors"}),
    frozenset(
        {
            "ranking",
            "diversity",
            "deadline",
            "thumbnails",
            "shipped",
            "transport",
            "typeface",
            "publishing",
            "images",
            "calibration",
            "projection",
            "ros_arguments",
            "right_of_way",
        }
    ),
    frozenset({"encoders", "heads", "memory", "evaluation"}),
    frozenset(
        {
            "retriever",
            "training",
            "contact_sheet",
            "transfer",
            "reembedding",
            "self_calibration",
        }
    ),
    frozenset({"experiments"}),
    frozenset({"ros"}),
    frozenset({"cli"}),
)
ROOMS = frozenset().union(*ROWS)
# A type refuses wrong values when it is made, with an error.
SAME_ROW_ALLOWED = {("types", "errors")}

MESSAGES = frozenset(
    {
        "builtin_interfaces",
        "diagnostic_msgs",
        "geometry_msgs",
        "lifecycle_msgs",
        "rcl_interfaces",
        "rosgraph_msgs",
        "sensor_msgs",
        "std_msgs",
        "std_srvs",
        "visualization_msgs",
        "vla_retrieval_msgs",
    }
)
LIBRARY_ROOMS: dict[str, frozenset[str]] = {
    **dict.fromkeys(MESSAGES | {"rclpy", "cv_bridge", "ament_index_python"}, frozenset({"ros"})),
    "faiss": frozenset({"memory"}),
    "pyarrow": frozenset({"transfer"}),
    **dict.fromkeys(("openvino", "onnxruntime"), frozenset({"encoders"})),
    "torch": frozenset({"encoders", "training"}),
    **dict.fromkeys(("torchvision", "open_clip", "timm"), frozenset({"encoders"})),
}


def room_of(path: Path) -> str:
    """Returns the room a source file belongs to; the package's own `__init__` is room ''."""
    first = path.relative_to(ROOT / PACKAGE).parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yields line and full dotted name of everything a file imports, also inside functions."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            start = ".".join((*base, *filter(None, [node.module])))
            for alias in node.names:
                yield node.lineno, f"{start}.{alias.name}"


def row_of(room: str) -> int:
    """Returns the row of a room."""
    return next(number for number, row in enumerate(ROWS) if room in row)


def may_import(importer: str, imported: str) -> bool:
    """Tells whether a room may import another one."""
    if not importer or importer == imported:
        return True
    if (importer, imported) in SAME_ROW_ALLOWED:
        return True
    return row_of(imported) < row_of(importer)


SOURCES = sorted((ROOT / PACKAGE).rglob("*.py"))


def test_every_room_has_a_place_in_the_order() -> None:
    rooms = {room_of(path) for path in SOURCES} - {""}

    assert rooms <= ROOMS, "give the new room a row in ROWS"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_the_rooms_above_it(path: Path) -> None:
    wrong = []
    for line, name in imports_of(path):
        parts = name.split(".")
        if parts[0] != PACKAGE or len(parts) < 2:
            continue
        imported = parts[1]
        if {imported, room_of(path)} <= ROOMS and not may_import(room_of(path), imported):
            wrong.append(f"line {line}: {name}")

    assert not wrong, f"{path.relative_to(ROOT)} imports against the order in ROWS: {wrong}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_library_is_imported_only_in_its_rooms(path: Path) -> None:
    wrong = []
    for line, name in imports_of(path):
        rooms = LIBRARY_ROOMS.get(name.split(".")[0])
        if rooms is not None and room_of(path) not in rooms:
            wrong.append(f"line {line}: {name} belongs to {sorted(rooms)}")

    assert not wrong, f"{path.relative_to(ROOT)}: {wrong}"


@pytest.mark.parametrize(
    ("importer", "imported", "allowed"),
    [
        ("ranking", "types", True),
        ("memory", "ranking", True),
        ("retriever", "memory", True),
        ("ros", "retriever", True),
        ("cli", "ros", True),
        ("types", "ranking", False),
        ("memory", "encoders", False),
        ("training", "retriever", False),
        ("retriever", "ros", False),
        ("ros", "cli", False),
    ],
)
def test_the_order_is_the_one_that_was_agreed(importer: str, imported: str, allowed: bool) -> None:
    assert may_import(importer, imported) is allowed
