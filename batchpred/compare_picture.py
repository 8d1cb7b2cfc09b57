"""A picture of a comparison, as SVG: from which decile of one model's scores rows went to which of the other's."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jobs.compare import Comparison

_CELL, _LEFT, _TOP = 36, 70, 70


def picture(comparison: Comparison) -> str:
    """Draw a square of ten by ten for each numeric output; the darker a cell, the more of its row it has."""
    parts, top = [], 0
    for name, figures in comparison.outputs.items():
        if "deciles" in figures:
            parts.append(_square(comparison, name, figures, top))
            top += _TOP + 10 * _CELL + 50
    width = _LEFT + 10 * _CELL + 30
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{top}" viewBox="0 0 {width} {top}" '
        'font-family="sans-serif" font-size="11" role="img">'
        f'<rect width="{width}" height="{top}" fill="#ffffff"/>{"".join(parts)}</svg>\n'
    )


def _square(comparison: Comparison, name: str, figures: dict[str, object], top: int) -> str:
    old, new = map(escape, comparison.models)
    deciles: list[list[int]] = figures["deciles"]  # type: ignore[assignment]
    correlation = figures["rank_correlation"]
    told = "constant" if correlation is None else f"rank correlation {correlation:.3f}"
    changed = f"{100 * float(figures['changed_decile']):.1f} % change their decile"  # type: ignore[arg-type]
    title = escape(f"{comparison.job}, {comparison.interval}: {name}")
    lines = [
        f'<g transform="translate(0 {top})">',
        f'<text x="{_LEFT}" y="20" font-size="14">{title}</text>',
        f'<text x="{_LEFT}" y="38">{told}, {changed}</text>',
        f'<text x="{_LEFT}" y="{_TOP - 14}">decile by {new} →</text>',
        f'<text transform="translate(18 {_TOP + 10 * _CELL}) rotate(-90)">decile by {old} →</text>',
    ]
    for row, counts in enumerate(deciles):
        y = _TOP + (9 - row) * _CELL
        lines.append(f'<text x="{_LEFT - 20}" y="{y + 22}">{row}</text>')
        total = sum(counts) or 1
        for column, count in enumerate(counts):
            x, share = _LEFT + column * _CELL, count / total
            shade = f"rgb({round(255 - 220 * share)},{round(255 - 150 * share)},{round(255 - 60 * share)})"
            lines.append(
                f'<rect x="{x}" y="{y}" width="{_CELL - 1}" height="{_CELL - 1}" fill="{shade}">'
                f"<title>{count} rows from decile {row} to {column}</title></rect>"
            )
            if share >= 0.005:
                ink = "#ffffff" if share > 0.5 else "#222222"
                lines.append(
                    f'<text x="{x + _CELL / 2 - 0.5}" y="{y + 22}" text-anchor="middle" fill="{ink}">'
                    f"{100 * share:.0f}</text>"
                )
    labels = "".join(
        f'<text x="{_LEFT + i * _CELL + _CELL / 2 - 3}" y="{_TOP + 10 * _CELL + 15}">{i}</text>'
        for i in range(10)
    )
    note = (
        f'<text x="{_LEFT}" y="{_TOP + 10 * _CELL + 34}" fill="#555555">numbers: per cent of the row</text>'
    )
    return "".join([*lines, labels, note, "</g>"])
