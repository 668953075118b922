"""What do the figures look like? Bars that say their numbers, as SVG."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

WIDTH, LEFT, RIGHT, BAR, GAP = 860, 250, 130, 20, 8
_TOP, _HEAD = 34, 56
_COLOURS = ("#4269d0", "#efb118", "#6cc5b0", "#9498a0")
_INK, _FAINT = "#222", "#777"


class Bar(NamedTuple):
    """parts: lengths, one after the other. said: at its end."""

    name: str
    parts: tuple[float, ...]
    said: str


class Panel(NamedTuple):
    """legend: of the parts, in their order."""

    title: str
    legend: tuple[str, ...]
    bars: list[Bar]


def draw(measured: Mapping[str, Mapping[str, Any]]) -> str:
    """Everything that was measured, one panel below the other. measured: figures by measurement."""
    made = [panel(measured[name]) for name, panel in _PANELS.items() if name in measured]
    body, y = [], 10
    for panel in made:
        body += _panel(panel, y)
        y += _HEAD + len(panel.bars) * (BAR + GAP) + _TOP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}"'
        ' font-family="system-ui, sans-serif" font-size="13">'
        f'<rect width="{WIDTH}" height="{y}" fill="#fff"/>\n' + "\n".join(body) + "\n</svg>\n"
    )


def _panel(panel: Panel, y: int) -> list[str]:
    most = max((sum(bar.parts) for bar in panel.bars), default=0) or 1
    lines = [_text(10, y + 20, panel.title, weight="600", size=15)]
    x = 10
    for colour, name in zip(_COLOURS, panel.legend):
        lines.append(f'<rect x="{x}" y="{y + 30}" width="12" height="12" fill="{colour}"/>')
        lines.append(_text(x + 17, y + 41, name, colour=_FAINT))
        x += 40 + 8 * len(name)
    for number, bar in enumerate(panel.bars):
        top = y + _HEAD + number * (BAR + GAP)
        lines.append(_text(LEFT - 10, top + 15, bar.name, anchor="end"))
        at = float(LEFT)
        for colour, part in zip(_COLOURS, bar.parts):
            wide = part / most * (WIDTH - LEFT - RIGHT)
            lines.append(f'<rect x="{at:.1f}" y="{top}" width="{wide:.1f}" height="{BAR}" fill="{colour}"/>')
            at += wide
        lines.append(_text(at + 6, top + 15, bar.said))
    return lines


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    weight: str = "400",
    size: int = 13,
    colour: str = _INK,
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" font-size="{size}"'
        f' fill="{colour}">{escape(text)}</text>'
    )


def _cost(figures: Mapping[str, Any]) -> Panel:
    parts = ("app", "postgres", "broker")
    bars = []
    for loop in ("ours", "raw"):
        cpu = figures[loop]["cpu_ms_per_bt"]
        speed = figures[loop]["bt_per_s"]["median"]
        micro = tuple(cpu[part]["median"] * 1000 for part in parts)
        bars.append(Bar(loop, micro, f"{sum(micro):,.0f} µs, {speed:,.0f} BT/s"))
    title = f"CPU per business transaction (roofline fraction {figures['roofline_fraction']:.2f})"
    return Panel(title, parts, bars)


def _peers(figures: Mapping[str, Any]) -> Panel:
    parts = ("app", "postgres", "broker")
    bars = []
    for loop, it in figures.items():
        micro = tuple(it["cpu_ms_per_bt"][part]["median"] * 1000 for part in parts)
        bars.append(Bar(loop, micro, f"{sum(micro):,.0f} µs"))
    return Panel("CPU per business transaction, beside those who take one message at a time", parts, bars)


def _latency(figures: Mapping[str, Any]) -> Panel:
    bars = []
    for name, level in figures["levels"].items():
        ms = level["e2e_ms"]
        steps = (ms["p50"], ms["p99"] - ms["p50"], ms["p999"] - ms["p99"])
        load = f"{level['bt_per_s']:,.0f} BT/s" + (f", {name} of its maximum" if "%" in name else "")
        bars.append(Bar(load, steps, " / ".join(f"{ms[p]:,.0f}" for p in ("p50", "p99", "p999")) + " ms"))
    return Panel("From the application to the last notice, end to end", ("p50", "to p99", "to p99.9"), bars)


def _log(figures: Mapping[str, Any]) -> Panel:
    def bars(side: str, tables: Sequence[str]) -> list[Bar]:
        found = []
        for table in tables:
            both = tuple(each / figures["people"] for each in figures[side]["wal"].get(table, (0, 0)))
            found.append(Bar(f"{table}, {side}", both, f"{sum(both):,.0f} B"))
        return found

    sizes = figures["ours"]["wal"]
    most = sorted(sizes, key=lambda table: -sum(sizes[table]))[:8]
    pairs = zip(bars("ours", most), bars("raw", most))
    title = (
        f"Log bytes per business transaction, the 8 largest tables (all: {figures['wal_ratio']:.2f} of raw's)"
    )
    return Panel(title, ("table", "indexes"), [bar for pair in pairs for bar in pair])


_PANELS = {"pipeline": _cost, "peers": _peers, "latency": _latency, "exact": _log}
