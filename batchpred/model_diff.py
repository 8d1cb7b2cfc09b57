"""What differs between two model versions, as lines to read."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from storage.registry import ModelVersion


def differences(left: ModelVersion, right: ModelVersion) -> list[dict[str, Any]]:
    """List what differs, each as {what, from, to}: file, tensors, opsets, metrics, tags, card."""
    rows: list[dict[str, Any]] = []

    def compare(what: str, old: Any, new: Any) -> None:
        if old != new:
            rows.append({"what": what, "from": old, "to": new})

    compare("sha256", left.sha256[:12], right.sha256[:12])
    compare("bytes", left.size, right.size)
    for side in ("inputs", "outputs"):
        old, new = ({each["name"]: _shape(each) for each in v.signature[side]} for v in (left, right))
        for name in dict.fromkeys([*old, *new]):
            compare(f"{side[:-1]} {name}", old.get(name), new.get(name))
        if old == new:
            compare(f"order of {side}", ", ".join(old), ", ".join(new))
    for what, one, other in (
        ("opset", left.opset, right.opset),
        ("metric", left.metrics, right.metrics),
        ("tag", left.tags, right.tags),
    ):
        for name in dict.fromkeys([*one, *other]):
            compare(f"{what} {name}", one.get(name), other.get(name))
    compare("notes", "; ".join(left.notes), "; ".join(right.notes))
    compare("pushed from", left.source, right.source)
    if left.card != right.card:
        lines = difflib.ndiff((left.card or "").splitlines(), (right.card or "").splitlines())
        changed = [line for line in lines if line[:1] in "+-"]
        old_lines = [line[2:] for line in changed if line.startswith("-")]
        compare("card", "\n".join(old_lines), "\n".join(line[2:] for line in changed if line.startswith("+")))
    return rows


def _shape(tensor: dict[str, Any]) -> str:
    shape = "[N]" if tensor["rank"] == 1 else f"[N, {tensor['width'] or '?'}]"
    return f"{tensor['dtype']} {shape}"
