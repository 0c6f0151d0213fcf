"""The node's state for ``/diagnostics``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from vla_retrieval.ros.session import COUNTS

if TYPE_CHECKING:
    from vla_retrieval.ros.node import RetrievalNode
    from vla_retrieval.ros.watch import Silence


def make_diagnostics(node: RetrievalNode, silence: Silence | None) -> DiagnosticArray:
    """Return the node's state as a message.

    Args:
        node: The node.
        silence: Why no frames come, or None.
    """
    status = DiagnosticStatus(name=f"{node.get_fully_qualified_name()}: retrieval")
    session = node.session
    if session is None:
        status.level, status.message = DiagnosticStatus.WARN, "not configured"
    elif not node.is_active:
        status.level, status.message = DiagnosticStatus.WARN, "not active"
    elif silence is not None:
        status.level, status.message = DiagnosticStatus.WARN, silence.text
    else:
        status.level, status.message = DiagnosticStatus.OK, "active"
    facts: dict[str, str] = {name: str(node.counters.get(name)) for name in COUNTS}
    if session is not None:
        stats = session.memory.stats()
        facts |= {
            "model": session.encoder.fingerprint.model,
            "device": session.encoder.device,
            "precision": session.encoder.precision,
            "memory_dir": str(stats.directory),
            "memory_size": str(stats.entries),
            "size_bytes": str(stats.size_bytes),
        }
    status.values = [KeyValue(key=key, value=value) for key, value in facts.items()]
    array = DiagnosticArray(status=[status])
    array.header.stamp = node.get_clock().now().to_msg()
    return array
