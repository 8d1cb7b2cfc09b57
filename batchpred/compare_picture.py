"""A picture of a comparison, as SVG: which deciles rows moved between, and how each model's scores are spread."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jobs.comparison import Comparison

_CELL, _LEFT, _TOP = 36, 70, 70
_SPREAD_TOP, _SPREAD = 60, 110  # the room above the two distributions, and their height
# Told apart in black and white too: one is filled, the other a line.
_OLD, _NEW = "#b9c4cf", "#c2410c"


def picture(comparison: Comparison) -> str:
    """Draw each numeric output: a square of ten by ten deciles, and how the scores are spread.

    The darker a cell, the more of its row it has.
    """
    parts, top = [], 0
    for name, figures in comparison.outputs.items():
        if "deciles" in figures:
            parts.append(_square(comparison, name, figures, top))
            top += _TOP + 10 * _CELL + 50
            parts.append(_spreads(comparison, figures["spread"], top))
            top += _SPREAD_TOP + _SPREAD + 40
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


def _spreads(comparison: Comparison, spread: dict[str, list[Any]], top: int) -> str:
    """Draw how many rows have which score, of the one model as an area and of the other as a line over it."""
    old, new = map(escape, comparison.models)
    most = max(*spread["old"], *spread["new"], 1)
    lines = [
        f'<g transform="translate(0 {top})">',
        f'<path d="M{_LEFT} 8h12v12h-12z" fill="{_OLD}"/>',
        f'<text x="{_LEFT + 18}" y="18">scores of {old}</text>',
        f'<path d="M{_LEFT} 34h12" stroke="{_NEW}" stroke-width="2"/>',
        f'<text x="{_LEFT + 18}" y="38">scores of {new}</text>',
    ]
    floor, wide = _SPREAD_TOP + _SPREAD, 10 * _CELL
    for counts, look in (
        (spread["old"], f'fill="{_OLD}"'),
        (spread["new"], f'fill="none" stroke="{_NEW}" stroke-width="2" stroke-linejoin="round"'),
    ):
        steps = [f"M{_LEFT} {floor}"]
        for place, count in enumerate(counts):
            steps.append(
                f"V{floor - _SPREAD * count / most:.1f}H{_LEFT + wide * (place + 1) / len(counts):.1f}"
            )
        lines.append(f'<path d="{"".join(steps)}V{floor}" {look}/>')
    edges = spread["edges"]
    lines.append(f'<path d="M{_LEFT} {floor}h{wide}" stroke="#222222"/>')
    for share, anchor in ((0, "start"), (0.5, "middle"), (1, "end")):
        value = edges[0] + share * (edges[-1] - edges[0])
        x = _LEFT + share * wide
        lines.append(f'<text x="{x:.0f}" y="{floor + 16}" text-anchor="{anchor}">{value:.3g}</text>')
    lines.append(f'<text x="{_LEFT - 6}" y="{_SPREAD_TOP + 9}" text-anchor="end">{most:,}</text>')
    lines.append(f'<text x="{_LEFT - 6}" y="{floor}" text-anchor="end">0 rows</text>')
    return "".join([*lines, "</g>"])
