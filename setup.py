"""Build of the ament_python package vla_retrieval (colcon calls it, nobody else has to)."""

from pathlib import Path
from xml.etree import ElementTree

from setuptools import find_packages, setup

PACKAGE = "vla_retrieval"
SHARE = Path("share") / PACKAGE
MANIFEST = ElementTree.parse("package.xml").getroot()


def files_below(*folders: str, pattern: str = "*") -> list[tuple[str, list[str]]]:
    """Lists data files, to be installed below share/vla_retrieval at their paths in the source.

    Args:
        *folders: Folders relative to this file. One that does not exist adds nothing.
        pattern: Glob that the names of the files match.

    Returns:
        `(destination folder, [source files])` pairs, the form of setuptools' `data_files`.
    """
    found: dict[Path, list[str]] = {}
    for folder in folders:
        for path in sorted(Path(folder).rglob(pattern)):
            if path.is_file() and "__pycache__" not in path.parts:
                found.setdefault(path.parent, []).append(str(path))
    return [(str(SHARE / parent), files) for parent, files in found.items()]


setup(
    name=PACKAGE,
    version=MANIFEST.findtext("version"),
    description=MANIFEST.findtext("description"),
    maintainer=MANIFEST.findtext("maintainer"),
    maintainer_email=MANIFEST.find("maintainer").get("email"),
    license=MANIFEST.findtext("license"),
    packages=find_packages(include=[PACKAGE, f"{PACKAGE}.*"]),
    # Read through __file__, so they lie beside the code: fonts of the contact sheet, and what the
    # pages of an evaluation are made of.
    package_data={PACKAGE: ["fonts/*", "evaluation/report/templates/*"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (str(SHARE), ["package.xml"]),
        *files_below("launch", pattern="*.py"),
        *files_below("config"),
        *files_below("demo/model", "demo/bag"),
        (str(SHARE / "demo"), ["demo/tasks.yaml"]),
    ],
    # setuptools has to be there when it builds, but what it must install is package.xml's and
    # requirements/runtime.txt's to say, in one place each.
    install_requires=[],
    # By this word `colcon test` chooses pytest; without it, it runs unittest, which finds nothing.
    extras_require={"test": ["pytest"]},
    # Files inside an archive cannot be mapped into memory or handed to a process.
    zip_safe=False,
    entry_points={
        "console_scripts": [
            "retrieval_node = vla_retrieval.cli.executables:retrieval_node",
            "memory = vla_retrieval.cli.executables:memory",
            "demo = vla_retrieval.cli.executables:demo",
            "evaluate = vla_retrieval.cli.executables:evaluate",
            "train = vla_retrieval.cli.executables:train",
            "replay_evaluation = vla_retrieval.cli.executables:replay_evaluation",
            "play_bag = vla_retrieval.cli.executables:play_bag",
        ],
    },
)
