"""A player runs as a child process, ends with its caller, and its failures are told."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vla_retrieval.errors import RetrievalError
from vla_retrieval.ros.bag_process import BagProcess, play_command, why_unreadable

BAG = Path("a bag")
WAIT_SEC = 60.0


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def program(folder: Path, code: str) -> str:
    file = folder / "ros2"
    file.write_text(f"#!{sys.executable}\n{code}\n")
    file.chmod(0o755)
    return str(file)


def options(command: list[str]) -> dict[str, list[str]]:
    """Return option to its values."""
    found: dict[str, list[str]] = {"": []}
    name = ""
    for word in command:
        if word.startswith("--"):
            name = word
            found[name] = []
        else:
            found[name].append(word)
    return found


def test_the_command_plays_the_bags_topics_into_the_nodes_at_the_rate_and_waits() -> None:
    targets = {"/eye": "/robot/image", "/instruction": "/instruction"}
    command = play_command(
        "/opt/ros2", BAG, targets, "/robot/clock", "/robot", Path("qos.yaml"), 2.5
    )
    found = options(command)
    assert found[""] == ["/opt/ros2", "bag", "play", "a bag"]
    assert found["--topics"] == ["/eye", "/instruction"]
    assert found["--remap"] == [
        "/eye:=/robot/image", "/clock:=/robot/clock", "__node:=replay_bag", "__ns:=/robot",
    ]  # fmt: skip
    assert found["--rate"] == ["2.5"]
    assert found["--qos-profile-overrides-path"] == ["qos.yaml"]
    assert {"--clock", "--start-paused", "--disable-keyboard-controls"} <= set(found)


def test_a_bag_that_ros2_bag_can_read_has_no_reason_against_it(tmp_path: Path) -> None:
    ros2 = program(tmp_path, "import sys; sys.exit(sys.argv[1:] != ['bag', 'info', 'a bag'])")
    assert why_unreadable(ros2, BAG) == ""


def test_the_last_that_ros2_bag_says_is_why_a_bag_cannot_be_read(tmp_path: Path) -> None:
    ros2 = program(tmp_path, "import sys; sys.exit('Traceback\\nno storage could be initialized')")
    assert why_unreadable(ros2, BAG).endswith("failed: no storage could be initialized")


def test_a_player_that_fails_is_told_with_its_exit_code_and_its_last_words(tmp_path: Path) -> None:
    command = python("import sys; print('bad sector'); sys.exit(3)")
    with BagProcess(command, BAG, tmp_path / "output") as process:
        assert process.has_ended(WAIT_SEC)
        with pytest.raises(RetrievalError, match=r"(?s)bag: exit code 3.*bad sector.*--player own"):
            process.check()


def test_last_words_are_found_behind_the_bar_that_the_player_draws(tmp_path: Path) -> None:
    bar = "\\033[2K\\n\\033[2K====== Playback Progress ======\\n\\033[2K"
    bar += "[1767225609.200000048] Duration 9.18/48.98 [R]\\n\\033[4A"
    command = python(
        f"import sys; b = '{bar}'; print(b * 9 + '\\033[4B[ERROR] bad sector' + b * 9); sys.exit(3)"
    )
    with BagProcess(command, BAG, tmp_path / "output") as process:
        assert process.has_ended(WAIT_SEC)
        with pytest.raises(RetrievalError) as raised:
            process.check()
    lines = str(raised.value).splitlines()
    assert lines[1:-1] == ["  [ERROR] bad sector"]


def test_a_player_that_ended_before_it_began_has_failed_whatever_its_exit_code(
    tmp_path: Path,
) -> None:
    with BagProcess(python("print('no such topic')"), BAG, tmp_path / "output") as process:
        assert process.has_ended(WAIT_SEC)
        process.check()
        with pytest.raises(
            RetrievalError, match=r"(?s)before it began.*exit code 0.*no such topic"
        ):
            process.check_running()


def test_a_player_that_was_killed_is_told_with_the_signal(tmp_path: Path) -> None:
    command = python("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with BagProcess(command, BAG, tmp_path / "output") as process:
        assert process.has_ended(WAIT_SEC)
        with pytest.raises(RetrievalError, match="signal 9 ended it"):
            process.check()


def test_a_player_that_ended_well_has_not_failed(tmp_path: Path) -> None:
    with BagProcess(python(""), BAG, tmp_path / "output") as process:
        assert process.has_ended(WAIT_SEC)
        process.check()


def test_a_program_that_cannot_be_run_is_told(tmp_path: Path) -> None:
    with (
        pytest.raises(RetrievalError, match="cannot run /no/such/program"),
        BagProcess(["/no/such/program"], BAG, tmp_path / "output"),
    ):
        pass


@pytest.mark.parametrize("heeds", [True, False], ids=["heeds SIGINT", "does not"])
def test_a_player_and_its_children_end_with_the_block(heeds: bool, tmp_path: Path) -> None:
    pids, output = tmp_path / "pids", tmp_path / "output"
    handling = "" if heeds else "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    os.mkfifo(pids)
    code = (
        f"import os, signal, time\n{handling}"
        "child = os.fork()\n"
        f"if child: open({str(pids)!r}, 'w').write(f'{{os.getpid()}} {{child}}')\n"
        "time.sleep(600)\n"
    )
    with BagProcess(python(code), BAG, output) as process:
        started = [int(pid) for pid in pids.read_text().split()]
        assert not process.has_ended(0)
    assert process.has_ended(0)
    expected = signal.SIGINT if heeds else signal.SIGKILL
    with pytest.raises(RetrievalError, match=f"signal {expected:d} ended it|exit code"):
        process.check()
    end = time.monotonic() + WAIT_SEC
    while any(map(is_alive, started)):  # nothing announces the end of a grandchild
        assert time.monotonic() < end, started
        time.sleep(0.01)


class InterruptedAgain(BagProcess):
    """One for whose end nobody waits: Ctrl-C comes again."""

    def has_ended(self, within_sec: float) -> bool:
        if within_sec:
            raise KeyboardInterrupt
        return super().has_ended(within_sec)


def test_a_second_interrupt_leaves_no_player_behind_either(tmp_path: Path) -> None:
    code = (
        "import os, signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "print(os.getpid(), flush=True)\ntime.sleep(600)\n"
    )
    output = tmp_path / "output"

    def play() -> None:
        with InterruptedAgain(python(code), BAG, output):
            end = time.monotonic() + WAIT_SEC
            while not output.read_text().endswith("\n"):  # it may heed SIGINT until then
                assert time.monotonic() < end
                time.sleep(0.01)

    with pytest.raises(KeyboardInterrupt):
        play()
    pid = int(output.read_text())
    try:
        assert not is_alive(pid)
    finally:
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is part of util-linux")
def test_a_player_goes_with_a_caller_that_is_killed(tmp_path: Path) -> None:
    """Nobody would end a paused one."""
    output = tmp_path / "output"
    player = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    caller = (
        "import sys, time\nfrom pathlib import Path\n"
        "from vla_retrieval.ros.bag_process import BagProcess\n"
        f"command = [sys.executable, '-c', {player!r}]\n"
        f"with BagProcess(command, Path('bag'), Path({str(output)!r})):\n    time.sleep(600)\n"
    )
    with subprocess.Popen(python(caller), cwd=Path(__file__).parents[2]) as process:
        end = time.monotonic() + WAIT_SEC
        while not (output.exists() and output.read_text().endswith("\n")):
            assert time.monotonic() < end
            time.sleep(0.01)
        pid = int(output.read_text())
        assert is_alive(pid)
        process.kill()
    while is_alive(pid):  # the kernel tells nobody but init
        assert time.monotonic() < end
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
