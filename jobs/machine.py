"""Which machine this is, as far as a model's speed depends on it."""

from __future__ import annotations

import platform
import re
from functools import cache
from importlib import metadata
from pathlib import Path

from jobs.threads import available_cpus


@cache
def fingerprint() -> str:
    """Name the processor, how many of them may be used, and the version of ONNX Runtime, in one line."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    found = re.search(r"^(?:model name|Hardware|CPU part)\s*:\s*(.+)$", text, re.MULTILINE)
    processor = found.group(1).strip() if found else platform.processor() or platform.machine()
    return f"{processor}; {available_cpus()} to use; onnxruntime {_onnxruntime()}"


def _onnxruntime() -> str:
    for name in ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "unknown"
