"""Keeps OpenVINO from calling home; importing this before OpenVINO is enough.

``openvino.convert_model`` tells its maker of each conversion over the network, unless a file in
the home says no. A robot does not talk behind its owner's back: where the package that sends is
missing, OpenVINO takes a stub.
"""

from __future__ import annotations

import sys

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
