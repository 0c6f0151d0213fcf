"""The node's state for ``/diagnostics``: one status for retrieval, one for the memory."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from vla_retrieval.ros.allocation import footprint
from vla_retrieval.ros.disk import PATIENCE_SEC, DiskUsage, Look
from vla_retrieval.ros.parameters import BYTES_PER_MB
from vla_retrieval.ros.session import COUNTS

if TYPE_CHECKING:
    from vla_retrieval.memory import MemoryStats
    from vla_retrieval.ros.node import RetrievalNode
    from vla_retrieval.ros.session import Session

_ON_THE_CPU = (
    "device auto chose the CPU, where encoding takes several times as long as on a GPU: set device "
    "to cpu if that is meant, else look at the log of the start for the reason."
)
_LEAST_FREE_SHARE = 0.05
_LEAST_FREE_MB = 200


def make_diagnostics(node: RetrievalNode, warnings: list[str]) -> DiagnosticArray:
    """Return the node's state as a message.

    Args:
        node: The node.
        warnings: What is wrong with its camera.
    """
    name = node.get_fully_qualified_name()
    array = DiagnosticArray(status=[_retrieval_status(node, warnings)])
    session = node.session
    if session is not None:
        waiting_sec = max(session.disk.waiting_sec, session.gate.stuck_sec)
        array.status.append(
            memory_status(session.disk.latest, node.health.write_error, waiting_sec)
        )
    for status, part in zip(array.status, ("retrieval", "memory"), strict=False):
        status.name = f"{name}: {part}"
    array.header.stamp = node.get_clock().now().to_msg()
    return array


def judge_memory(
    stats: MemoryStats, disk: DiskUsage, write_error: str = "", *, writable: bool = True
) -> list[str]:
    """Return what a person should know about a memory, with the next step; mostly nothing.

    Args:
        stats: Of the memory.
        disk: Of the file system that it is on.
        write_error: Why it could not be written the last time, or nothing.
        writable: Whether this process may write there.
    """
    warnings = []
    if not writable:
        warnings.append(
            f"{stats.directory} cannot be written: a file system that is mounted read-only, or "
            "permissions. Pairs may be refused; make it writable for this user."
        )
    if write_error:
        warnings.append(
            f"nothing is remembered, because the memory could not be written: {write_error} "
            "Queries are answered with what it holds, and the next pair tries again."
        )
    if stats.index.last_error:
        warnings.append(
            f"the index could not be kept in order: {stats.index.last_error} Queries are answered "
            "with what it holds, and the next change tries again."
        )
    if disk.free < max(_LEAST_FREE_SHARE * disk.total, _LEAST_FREE_MB * BYTES_PER_MB):
        warnings.append(
            f"{disk.free // BYTES_PER_MB} MB of {disk.total // BYTES_PER_MB} MB are free on the "
            f"disk of {stats.directory}: make room there, or set max_memory_mb or max_entries."
        )
    return warnings


def memory_status(look: Look, write_error: str = "", waiting_sec: float = 0.0) -> DiagnosticStatus:
    """Return what a memory holds and how it is; one that cannot be read is an ERROR.

    Args:
        look: The last one at it.
        write_error: Why it could not be written the last time, or nothing.
        waiting_sec: How long somebody has been waiting for its disk.
    """
    errors = [look.error] if look.error else []
    if waiting_sec >= PATIENCE_SEC:
        errors.append(
            f"the disk of {look.directory} has not answered for {waiting_sec:.0f} s: look at it, "
            "and at what it hangs on. What is shown of the memory is from before."
        )
    status = DiagnosticStatus(level=DiagnosticStatus.ERROR, message=" ".join(errors))
    stats, disk = look.stats, look.usage
    if stats is None or disk is None:
        return status
    warnings = judge_memory(stats, disk, write_error, writable=look.writable)
    if not errors:
        status.level = DiagnosticStatus.WARN if warnings else DiagnosticStatus.OK
    status.message = " ".join([*errors, *warnings]) or (
        f"{stats.entries} entries, {stats.index.kind} index"
    )
    status.values = _key_values(
        _memory_facts(stats, disk)
        | {"disk_writable": look.writable, "snapshot_age_sec": _whole(look.snapshot_age_sec)}
    )
    return status


def _whole(seconds: float | None) -> str:
    return "there is none" if seconds is None else f"{seconds:.0f}"


def _memory_facts(stats: MemoryStats, disk: DiskUsage) -> dict[str, object]:
    index = stats.index
    return {
        "memory_dir": stats.directory,
        "memory_size": stats.entries,
        "size_bytes": stats.size_bytes,
        "disk_free_bytes": disk.free,
        "merged": stats.merged,
        "evicted": stats.evicted,
        "evicted_over_max_entries": stats.evicted_over_entries,
        "evicted_over_max_memory_mb": stats.evicted_over_bytes,
        "index_kind": index.kind,
        "index_ram_bytes": index.ram_bytes,
        "index_rows": index.rows,
        "index_dead_rows": index.dead_rows,
        "index_opened_from": index.opened_from,
        "index_behind_snapshot": index.snapshot_behind,
        "index_error": index.last_error,
        "head": index.head or "none",
        "head_wanted": index.wanted_head or "none",
        "head_switching": index.switching,
    }


def _retrieval_status(node: RetrievalNode, warnings: list[str]) -> DiagnosticStatus:
    status = DiagnosticStatus(level=DiagnosticStatus.WARN)
    session = node.session
    errors = [node.fault] if node.fault else []
    if session is not None:
        errors += session.lanes.judge(time.monotonic())
        warnings = [*warnings, *_judge_encoder(session)]
    if session is None:
        status.message = "not configured"
    elif not node.is_active:
        status.message = "not active"
    elif not warnings:
        status.level, status.message = DiagnosticStatus.OK, "active"
    if errors:
        status.level = DiagnosticStatus.ERROR
    if errors or (warnings and node.is_active):
        status.message = " ".join(filter(None, [status.message, *errors, *warnings]))
    facts: dict[str, object] = {name: node.counters.get(name) for name in COUNTS}
    if session is not None:
        facts |= {
            "model": session.encoder.fingerprint.model,
            "device": session.encoder.device,
            "engine": session.encoder.engine,
            "engine_reason": session.encoder.engine_reason,
            "precision": session.encoder.precision,
            "requests_waiting": session.lanes.waiting,
            "worker_replaced": session.lanes.replaced,
            "worker_replaced_because": session.lanes.reasons,
            "worker_threads_stuck": session.lanes.stuck,
        }
    status.values = _key_values(
        facts | _process_facts() | node.health.facts() | _camera_facts(node)
    )
    return status


def _process_facts() -> dict[str, object]:
    taken = footprint()
    return {
        "process_resident_bytes": taken.resident_bytes,
        "process_allocated_bytes": (
            "cannot be told" if taken.allocated_bytes is None else taken.allocated_bytes
        ),
        "process_python_blocks": taken.python_blocks,
    }


def _judge_encoder(session: Session) -> list[str]:
    """Return what a person should know about how the encoder runs; mostly nothing."""
    found = [session.encoder.warning] if session.encoder.warning else []
    if _fell_back(session.settings.device, session.encoder.device):
        found.append(_ON_THE_CPU)
    return found


def _fell_back(wanted: str, device: str) -> bool:
    return wanted == "auto" and device == "cpu"


def _camera_facts(node: RetrievalNode) -> dict[str, object]:
    """Return what comes in and how quickly it is answered; ages and times in seconds."""
    half, most = node.pace.percentiles(50, 99)
    facts: dict[str, object] = {
        "image_topic": node.image_topic,
        "answer_p50_sec": f"{half:.4f}",
        "answer_p99_sec": f"{most:.4f}",
    }
    if node.camera is not None:
        facts |= {"image_publishers": node.camera.publishers, "frames_lost": node.camera.lost}
    frame = node.newest_frame.get()
    if frame is not None:
        # On the steady clock: no frames are no frames, whatever a bag does to the time.
        facts["newest_frame_age_sec"] = f"{time.monotonic() - frame.received_sec:.3f}"
    return facts


def _key_values(facts: dict[str, object]) -> list[KeyValue]:
    return [KeyValue(key=key, value=str(value)) for key, value in facts.items()]
