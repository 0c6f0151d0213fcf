"""What two files say about one thing is the same thing."""

from __future__ import annotations

import ast
import re
import stat
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

import vla_retrieval

ROOT = Path(__file__).parents[1]
MESSAGES = ROOT / "vla_retrieval_msgs"
MANIFESTS = {folder.name: folder / "package.xml" for folder in (ROOT, MESSAGES)}
COMMANDS = [
    *(path for path in sorted((ROOT / "scripts").iterdir()) if path.is_file() and not path.suffix),
    ROOT / ".ci" / "run",
]
REQUIREMENTS = sorted((ROOT / "requirements").glob("*.txt"))

# How a module is called in Python and in package.xml, where the two differ. None: rosdep has no
# key, so requirements/ names the distribution instead.
ROSDEP_KEYS: dict[str, str | None] = {
    "cv2": "python3-opencv",
    "numpy": "python3-numpy",
    "yaml": "python3-yaml",
    "PIL": None,
    "backports": None,
    "faiss": None,
    "jinja2": None,
    "lz4": None,
    "onnx": None,
    "onnxruntime": None,
    "onnxscript": None,
    "open_clip": None,
    "openvino": None,
    "pyarrow": None,
    "pytorch_metric_learning": None,
    "rich": None,
    "rosbags": None,
    "safetensors": None,
    "timm": None,
    "torch": None,
    "torchvision": None,
}
DISTRIBUTIONS = {
    "PIL": "pillow",
    "backports": "backports.zstd",
    "faiss": "faiss-cpu",
    "jinja2": "Jinja2",
    "open_clip": "open_clip_torch",
    "pytorch_metric_learning": "pytorch-metric-learning",
}
STAND_INS = {"rosbag2_interfaces"}  # a test writes its own
NEWER_PYTHON = {"compression"}  # a part of Python from 3.14 on


def manifest(path: Path) -> ElementTree.Element:
    """Returns the root element of a package.xml."""
    return ElementTree.parse(path).getroot()


def dependencies(path: Path) -> set[str]:
    """Returns every name that a package.xml depends on, tests left out."""
    tags = ("depend", "exec_depend", "build_depend")
    return {str(element.text) for tag in tags for element in manifest(path).iter(tag)}


def third_party_imports(folder: Path) -> set[str]:
    """Returns the top-level modules imported below a folder that are not ours or Python's."""
    found: set[str] = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found.update(alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - NEWER_PYTHON - {"vla_retrieval"}


def pins(path: Path) -> list[str]:
    """Returns the requirement lines of a file, without comments, blank lines and includes."""
    lines = (line.split(" #")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith(("#", "-r "))]


def test_every_interface_file_is_generated() -> None:
    cmake = (MESSAGES / "CMakeLists.txt").read_text(encoding="utf-8")
    listed = set(re.findall(r'"((?:msg|srv|action)/\w+\.(?:msg|srv|action))"', cmake))
    present = {
        str(path.relative_to(MESSAGES))
        for folder in ("msg", "srv", "action")
        for path in (MESSAGES / folder).glob("*.*")
    }

    assert listed == present


def test_interfaces_declare_the_packages_whose_types_they_use() -> None:
    used = {
        package
        for path in MESSAGES.glob("*/*.*")
        if path.suffix in {".msg", ".srv", ".action"}
        for package in re.findall(r"^\s*(\w+)/\w+", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    cmake = (MESSAGES / "CMakeLists.txt").read_text(encoding="utf-8")

    assert used - {"vla_retrieval_msgs"} <= dependencies(MANIFESTS["vla_retrieval_msgs"])
    assert all(f"find_package({package} REQUIRED)" in cmake for package in used - {MESSAGES.name})


def test_interfaces_that_tests_and_tools_use_are_declared() -> None:
    tags = ("depend", "test_depend")
    declared = {e.text for tag in tags for e in manifest(ROOT / "package.xml").iter(tag)}
    # Also in programs that are written into a string.
    pattern = re.compile(r"\bfrom (\w+)\.(?:msg|srv|action) import")
    used = {
        package
        for folder in ("test", "tools")
        for path in (ROOT / folder).rglob("*.py")
        for package in pattern.findall(path.read_text(encoding="utf-8"))
    }

    assert used - STAND_INS <= declared


@pytest.mark.parametrize("folder", ["vla_retrieval", "launch"])
def test_everything_imported_is_declared(folder: str) -> None:
    declared = dependencies(ROOT / "package.xml")
    names = ("runtime.txt", "evaluation.txt", "training.txt", "cpu_engines.txt")
    files = [ROOT / "requirements" / name for name in names]
    pinned = {re.split(r"[\[=]", pin)[0] for file in files for pin in pins(file)}
    missing = []
    for module in sorted(third_party_imports(ROOT / folder)):
        key = ROSDEP_KEYS.get(module, module)
        if key is None and DISTRIBUTIONS.get(module, module) not in pinned:
            missing.append(f"{module}: not in requirements/{', '.join(names)}")
        elif key is not None and key not in declared:
            missing.append(f"{module}: {key} is not in package.xml")

    assert not missing


def test_versions_agree() -> None:
    versions = {name: manifest(path).findtext("version") for name, path in MANIFESTS.items()}

    assert set(versions.values()) == {vla_retrieval.__version__}, versions
    # setup.py has no version of its own to go stale.
    assert 'MANIFEST.findtext("version")' in (ROOT / "setup.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", MANIFESTS.values(), ids=MANIFESTS)
def test_the_maintainer_has_a_valid_address(path: Path) -> None:
    # With an invalid one colcon says nothing and treats the package as plain Python, without ROS.
    address = manifest(path).find("maintainer").get("email")

    assert re.fullmatch(
        r"[-a-zA-Z0-9_%+]+(\.[-a-zA-Z0-9_%+]+)*@[-a-zA-Z0-9]+(\.[-a-zA-Z0-9]+)+", address
    )
    assert len(address.rsplit(".", 1)[1]) >= 2


@pytest.mark.parametrize("path", REQUIREMENTS, ids=lambda path: path.name)
def test_requirements_are_pinned_exactly_and_name_no_server(path: Path) -> None:
    loose = [
        pin
        for pin in pins(path)
        if not re.fullmatch(r"[\w.\-]+(\[[\w,\-]+\])?==[\w.]+(; .+)?", pin)
    ]

    assert pins(path)
    assert not loose


def test_one_package_has_one_pin_per_python() -> None:
    versions: dict[str, set[str]] = {}
    for path in REQUIREMENTS:
        for pin in pins(path):
            name, _, version = pin.partition("==")
            number, _, marker = version.partition(";")
            versions.setdefault(f"{name.lower()};{marker.strip()}", set()).add(number)

    assert {key: found for key, found in versions.items() if len(found) > 1} == {}


def test_colcon_runs_the_tests_with_pytest() -> None:
    # Without this word colcon runs unittest, which finds none of them.
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")

    assert 'extras_require={"test": ["pytest"]}' in setup


def test_pyproject_does_not_turn_the_package_into_another_kind() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")

    assert not re.search(r"^\[(project|build-system)\b", text, re.MULTILINE)


def test_every_data_file_inside_the_package_is_installed() -> None:
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    folders = {
        path.parent.relative_to(ROOT / "vla_retrieval").as_posix()
        for path in (ROOT / "vla_retrieval").rglob("*")
        if path.is_file() and path.suffix != ".py" and path.parent.name != "__pycache__"
    }

    assert all(f'"{folder}/*"' in setup for folder in folders), folders


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.name)
def test_commands_can_be_run_and_stop_at_the_first_failure(path: Path) -> None:
    assert path.stat().st_mode & stat.S_IXUSR
    assert "\nset -euo pipefail\n" in path.read_text(encoding="utf-8")


def test_launch_files_import_nothing_that_the_systems_python_lacks() -> None:
    """`ros2 launch` runs with that one, whatever Python the executables were built with."""
    ours = {"launch", "launch_ros", "ament_index_python"}
    waiting = sorted((ROOT / "launch").glob("*.py"))
    assert waiting
    seen: set[Path] = set()
    while waiting:
        path = waiting.pop()
        seen.add(path)
        for module in imported_modules(path):
            top = module.partition(".")[0]
            if top != "vla_retrieval":
                assert top in ours | set(sys.stdlib_module_names), f"{path.name}: {module}"
                continue
            file = ROOT / f"{module.replace('.', '/')}.py"
            file = file if file.is_file() else ROOT / module.replace(".", "/") / "__init__.py"
            waiting += {file} - seen


def imported_modules(path: Path) -> set[str]:
    """Returns the full names of what a file imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found
