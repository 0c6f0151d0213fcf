"""The node's state for ``/diagnostics``: one status for retrieval, one for the memory."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Protocol

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from vla_retrieval.errors import StorageError
from vla_retrieval.ros.parameters import BYTES_PER_MB
from vla_retrieval.ros.session import COUNTS

if TYPE_CHECKING:
    from vla_retrieval.memory import Memory, MemoryStats
    from vla_retrieval.ros.node import RetrievalNode
    from vla_retrieval.ros.watch import Silence

_LEAST_FREE_SHARE = 0.05
_LEAST_FREE_MB = 200


class DiskUsage(Protocol):
    """What ``shutil.disk_usage`` returns: bytes of a file system."""

    @property
    def total(self) -> int:
        """Of the whole file system."""

    @property
    def free(self) -> int:
        """That may still be written."""


def make_diagnostics(node: RetrievalNode, silence: Silence | None) -> DiagnosticArray:
    """Return the node's state as a message.

    Args:
        node: The node.
        silence: Why no frames come, or None.
    """
    name = node.get_fully_qualified_name()
    array = DiagnosticArray(status=[_retrieval_status(node, silence)])
    if node.session is not None:
        array.status.append(memory_status(node.session.memory))
    for status, part in zip(array.status, ("retrieval", "memory"), strict=False):
        status.name = f"{name}: {part}"
    array.header.stamp = node.get_clock().now().to_msg()
    return array


def judge_memory(stats: MemoryStats, disk: DiskUsage) -> list[str]:
    """Return what a person should know about a memory, with the next step; mostly nothing.

    Args:
        stats: Of the memory.
        disk: Of the file system that it is on.
    """
    warnings = []
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


def memory_status(memory: Memory) -> DiagnosticStatus:
    """Return what a memory holds and how it is; a memory that cannot be read is an ERROR."""
    try:
        stats = memory.stats()
        disk = shutil.disk_usage(stats.directory)
    except (StorageError, OSError) as error:  # for example, somebody removed the directory
        return DiagnosticStatus(level=DiagnosticStatus.ERROR, message=str(error))
    warnings = judge_memory(stats, disk)
    index = stats.index
    facts = {
        "memory_dir": stats.directory,
        "memory_size": stats.entries,
        "size_bytes": stats.size_bytes,
        "disk_free_bytes": disk.free,
        "merged": stats.merged,
        "evicted": stats.evicted,
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
    return DiagnosticStatus(
        level=DiagnosticStatus.WARN if warnings else DiagnosticStatus.OK,
        message=" ".join(warnings) or f"{stats.entries} entries, {index.kind} index",
        values=_key_values(facts),
    )


def _retrieval_status(node: RetrievalNode, silence: Silence | None) -> DiagnosticStatus:
    status = DiagnosticStatus(level=DiagnosticStatus.WARN)
    session = node.session
    if session is None:
        status.message = "not configured"
    elif not node.is_active:
        status.message = "not active"
    elif silence is not None:
        status.message = silence.text
    else:
        status.level, status.message = DiagnosticStatus.OK, "active"
    facts: dict[str, object] = {name: node.counters.get(name) for name in COUNTS}
    if session is not None:
        facts |= {
            "model": session.encoder.fingerprint.model,
            "device": session.encoder.device,
            "precision": session.encoder.precision,
        }
    status.values = _key_values(facts)
    return status


def _key_values(facts: dict[str, object]) -> list[KeyValue]:
    return [KeyValue(key=key, value=str(value)) for key, value in facts.items()]
