"""A report as one HTML file: charts are inline SVG, nothing is loaded from anywhere, no script is needed.

Colours follow the reader's light or dark setting. Hours in which nobody looked are hatched, not empty: an
empty place in a chart would read as a zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import timedelta
from html import escape

import numpy as np
from numpy.typing import NDArray

from edge_centernet.history.audit import percent
from edge_centernet.history.report import COUNTED, REASONS, Part, Report, dwell_figures, held_text

_WIDTH, _HEIGHT = 960, 180  # of a chart, in its own units
_LEFT, _BOTTOM, _TOP = 44, 26, 8  # for the labels of the axes
_ALERTS_SHOWN = 100
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --dim: #59636e; --rule: #d1d9e0; --bar: #0969da;
  --other: #bf5b00; --paper: #ffffff; --gap: #afb8c1; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --dim: #9198a1; --rule: #3d444d;
  --bar: #4493f8; --other: #e09b4a; --paper: #0d1117; --gap: #656c76; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto;
  max-width: 62rem; padding: 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
p.about { color: var(--dim); margin-top: .25rem; }
.tiles { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1rem 0; }
.tile { border: 1px solid var(--rule); border-radius: .5rem; padding: .5rem 1rem; min-width: 8rem; }
.tile b { display: block; font-size: 1.7rem; line-height: 1.2; } .tile span { color: var(--dim); }
svg { width: 100%; height: auto; display: block; } svg.chart { min-width: 36rem; }
svg text { fill: var(--dim); font-size: 12px; }
.bar { fill: var(--bar); background: var(--bar); }
.other { fill: var(--other); background: var(--other); } .rule { stroke: var(--rule); }
.gap { fill: url(#gap); }
i.away { background: repeating-linear-gradient(45deg, var(--gap) 0 2px, transparent 2px 4px); }
.scroll { overflow-x: auto; }
td.share { min-width: 16rem; } td.share svg { height: .8rem; }
table { border-collapse: collapse; } th, td { padding: .2rem .6rem; text-align: right;
  border-bottom: 1px solid var(--rule); } th:first-child, td:first-child { text-align: left; }
.legend { color: var(--dim); font-size: .9rem; } .legend i { display: inline-block; width: .8em; height: .8em;
  margin: 0 .3em 0 1em; border-radius: 2px; }
@media print { body { max-width: none; } details { display: block; } }
"""
_HATCH = (
    '<pattern id="gap" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<rect width="6" height="6" fill="none"/><line x1="0" y1="0" x2="0" y2="6" stroke="var(--gap)" '
    'stroke-width="2"/></pattern>'
)


def as_html(report: Report) -> str:
    """The whole page."""
    title = f"{report.camera}, {report.began:%Y-%m-%d} to {_last_day(report)}"
    body = [
        f"<h1>{escape(report.camera)}</h1>",
        f'<p class="about">{report.began:%d %B %Y, %H:%M} to {report.ended:%d %B %Y, %H:%M} '
        f"({escape(report.zone)}); watched {report.watched:.1%} of that time</p>",
        _tiles(report),
        *_classes(report),
        *_counts(report),
        *_occupancy(report),
        *_dwell(report),
        *_moves(report),
        *_alerts(report),
        *_week(report),
        *_presence(report),
        *_audit(report),
        *_gaps(report),
        *_cameras(report),
        *_table(report),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>\n"
        f'<svg width="0" height="0" style="position:absolute" aria-hidden="true"><defs>{_HATCH}</defs>'
        "</svg>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def as_fragment(report: Report) -> str:
    """The totals and the charts over time alone, for another page: without a style, and with headings h3."""
    charts = "".join([_tiles(report), *_counts(report), *_occupancy(report), *_dwell(report)])
    defs = f'<svg width="0" height="0" aria-hidden="true" class="defs"><defs>{_HATCH}</defs></svg>'
    # Counts that are shown beside it may be newer: two numbers for one line are of two times.
    until = f'<p class="small">counted up to {report.ended:%Y-%m-%d %H:%M:%S}</p>'
    return defs + until + charts.replace("<h2>", "<h3>").replace("</h2>", "</h3>")


def _last_day(report: Report) -> str:
    return f"{report.ended - timedelta(seconds=1):%Y-%m-%d}"


def _label(place: str, direction: str) -> str:
    return f"{place}: {direction}" if direction else f"{place}: entered"


def _tiles(report: Report) -> str:
    """The totals, large."""
    tiles = [
        f'<div class="tile"><b>{report.total(place, direction)}</b>'
        f"<span>{escape(_label(place, direction))}</span></div>"
        for place, direction in report.places
    ]
    names = sorted({name for kind, _, _, name in report.totals if kind in COUNTED})
    if len(names) > 1:
        for name in names:
            number = sum(n for (kind, _, _, c), n in report.totals.items() if c == name and kind in COUNTED)
            tiles.append(f'<div class="tile"><b>{number}</b><span>{escape(name)}, all places</span></div>')
    nothing = "<p>Nothing was counted: what crosses a line or enters a zone is counted.</p>"
    return f'<div class="tiles">{"".join(tiles) or nothing}</div>'


def _classes(report: Report) -> list[str]:
    """A table of the totals by class, where there are several."""
    names = sorted({name for kind, _, _, name in report.totals if kind in COUNTED})
    if len(names) < 2:
        return []
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    rows = []
    for place, direction in report.places:
        found = report.by_class(place, direction)
        cells = "".join(f"<td>{found.get(name, 0)}</td>" for name in names)
        rows.append(f"<tr><td>{escape(_label(place, direction))}</td>{cells}</tr>")
    return [
        "<h2>By class</h2>",
        f'<div class="scroll"><table><tr><th></th>{head}</tr>{"".join(rows)}</table></div>',
    ]


def _counts(report: Report) -> list[str]:
    """A bar chart for each line and zone; a line has two bars for each part, in and out."""
    charts = []
    for place in dict.fromkeys(place for place, _ in report.places):
        directions = [direction for p, direction in report.places if p == place]
        series = [[part.count(place, direction) for part in report.parts] for direction in directions]
        what = "crossings" if directions != [""] else "entries"
        legend = "".join(
            f'<i class="{color}"></i>{direction}'
            for direction, color in zip(directions, ("bar", "other"), strict=False)
            if direction
        )
        charts += [
            f"<h2>{escape(place)}: {what} by {report.step}</h2>",
            f'<p class="legend">{legend}<i class="away"></i>not watched</p>',
            _bars(report.parts, series, report.step, f"{place}: {what} by {report.step}"),
        ]
    return charts


def _occupancy(report: Report) -> list[str]:
    charts = []
    for place in sorted({place for part in report.parts for place in part.inside}):
        for what, mean, most in (
            ("persons inside", [part.inside.get(place) for part in report.parts],
             max(part.most.get(place, 0) for part in report.parts)),
            ("persons in the queue", [part.queue.get(place) for part in report.parts],
             max(part.queue_most.get(place, 0) for part in report.parts)),
        ):  # fmt: skip
            if all(value is None for value in mean):
                continue
            looked = [
                value if part.watched > 0 else None for part, value in zip(report.parts, mean, strict=True)
            ]
            charts += [
                f"<h2>{escape(place)}: {what}, on average</h2>",
                f'<p class="legend">at most {most} at once</p>',
                _bars(report.parts, [looked], report.step, f"{place}: {what}"),
            ]
    return charts


def _bars(parts: Sequence[Part], series: Sequence[Sequence[float | None]], step: str, title: str) -> str:
    """Bars over time, as wide as their part of it; hatched where nobody looked."""
    start = parts[0].began.timestamp()
    span = parts[-1].ended.timestamp() - start
    top = _nice(max((value for values in series for value in values if value is not None), default=0))
    inner = _HEIGHT - _BOTTOM - _TOP

    def x(moment: float) -> float:
        return _LEFT + (moment - start) / span * (_WIDTH - _LEFT)

    def y(value: float) -> float:
        return _TOP + inner * (1 - value / top)

    shapes = []
    for mark in (0.0, top / 2, top):
        shapes.append(
            f'<line class="rule" x1="{_LEFT}" x2="{_WIDTH}" y1="{y(mark):.1f}" y2="{y(mark):.1f}"/>'
        )
        shapes.append(f'<text x="{_LEFT - 6}" y="{y(mark) + 4:.1f}" text-anchor="end">{mark:g}</text>')
    for index, part in enumerate(parts):
        left, right = x(part.began.timestamp()), x(part.ended.timestamp())
        if part.watched < 1:
            # As much of the width as was missed: a part that was half watched is half hatched.
            wide = (right - left) * (1 - max(part.watched, 0))
            shapes.append(
                f'<rect class="gap" x="{right - wide:.1f}" y="{_TOP}" width="{wide:.1f}" height="{inner}">'
                f"<title>{_when(part, step)}: watched {part.watched:.0%}</title></rect>"
            )
        each = (right - left) * 0.86 / len(series)
        for number, values in enumerate(series):
            value = values[index]
            if not value:
                continue
            shapes.append(
                f'<rect class="{("bar", "other")[number % 2]}" '
                f'x="{left + number * each + (right - left) * 0.07:.1f}" '
                f'y="{y(value):.1f}" width="{max(each, 0.5):.1f}" height="{inner + _TOP - y(value):.1f}">'
                f"<title>{_when(part, step)}: {value:.3g}</title></rect>"
            )
    shapes += _times(parts, x)
    return (
        f'<div class="scroll"><svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(title, quote=True)}">{"".join(shapes)}</svg></div>'
    )


def _times(parts: Sequence[Part], x: object) -> list[str]:
    """At most eight labels below a chart, at the beginnings of parts."""
    assert callable(x)
    every = math.ceil(len(parts) / 8)
    days = (parts[-1].ended - parts[0].began).days
    shape = "%H:%M" if days < 1 else "%a %H:%M" if days < 4 and len(parts) > 8 else "%d %b"
    return [
        f'<text x="{x(part.began.timestamp()):.1f}" y="{_HEIGHT - 8}">{part.began:{shape}}</text>'
        for part in parts[::every]
    ]


def _when(part: Part, step: str) -> str:
    return f"{part.began:%a %d %b, %H:%M}" if step == "hour" else f"{part.began:%a %d %b %Y}"


def _nice(value: float) -> float:
    """The next of 2, 4, 6, 8, 10, 20, 40, ... from a value on, so that half of it is a whole number."""
    if value <= 2:
        return 2
    power = 10 ** math.floor(math.log10(value))
    return float(next(step * power for step in (1, 2, 4, 6, 8, 10) if step * power >= value))


def _dwell(report: Report) -> list[str]:
    """How long visits lasted, and waits in queues: figures, and a histogram in steps that grow."""
    found = []
    lengths = [(place, "visits", durations) for place, durations in report.dwell.items()]
    lengths += [(place, "waits", durations) for place, durations in report.waits.items()]
    for place, what, durations in lengths:
        figures = dwell_figures(durations)
        edges = [0, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, math.inf]
        numbers, _ = np.histogram(durations.seconds, edges, weights=durations.visits)
        last = max(i for i, number in enumerate(numbers) if number) + 1
        names = (
            *("0–5 s", "5–10 s", "10–20 s", "20–30 s", "30–60 s", "1–2 min", "2–5 min", "5–10 min"),
            *("10–30 min", "30–60 min", "over 1 h"),
        )
        rows = "".join(
            f"<tr><td>{name}</td><td>{number}</td>"
            f'<td class="share"><svg viewBox="0 0 100 6" preserveAspectRatio="none">'
            f'<rect class="bar" width="{100 * number / numbers.max():.1f}" height="6"/></svg></td></tr>'
            for name, number in zip(names[:last], numbers[:last], strict=True)
        )
        found += [
            f"<h2>{escape(place)}: how long {what} last</h2>",
            f"<p>{figures['visits']} {what}; half of them last {figures['median_s']:g} s or more, a quarter "
            f"{figures['three_quarters_s']:g} s or more, a tenth {figures['p90_s']:g} s or more; "
            f"{figures['mean_s']:g} s on average.</p>",
            f'<div class="scroll"><table><tr><th>length</th><th>{what}</th></tr>{rows}</table></div>',
        ]
    return found


def _alerts(report: Report) -> list[str]:
    """The newest alerts of rules."""
    if not report.alerts:
        return []
    camera = "<th>camera</th>" if report.cameras else ""
    rows = "".join(
        f"<tr>{f'<td>{escape(alert.camera)}</td>' if camera else ''}<td>{escape(alert.rule)}</td>"
        f"<td>{escape(alert.place)}</td>"
        f"<td>{alert.began:%Y-%m-%d %H:%M:%S}</td>"
        f"<td>{'not known' if alert.ended is None else f'{alert.ended:%Y-%m-%d %H:%M:%S}'}</td>"
        f"<td>{alert.value:.4g}</td></tr>"
        for alert in report.alerts[: -_ALERTS_SHOWN - 1 : -1]
    )
    number, more = len(report.alerts), len(report.alerts) - _ALERTS_SHOWN
    return [
        "<h2>Alerts</h2>",
        f'<p class="legend">{number} in all{f"; the newest {_ALERTS_SHOWN}" if more > 0 else ""}</p>',
        f'<div class="scroll"><table><tr>{camera}<th>rule</th><th>place</th><th>from</th><th>to</th>'
        f"<th>at most</th></tr>{rows}</table></div>",
    ]


def _week(report: Report) -> list[str]:
    """Average count by weekday and hour, over the hours that were watched, once there is more than a day."""
    if report.step != "hour" or len(report.parts) < 48 or not report.places:
        return []
    total, looked = np.zeros((7, 24)), np.zeros((7, 24))
    # Those who come in by a line; where there is none, those who enter a zone.
    wanted = ("crossed", "in") if any(direction for _, direction in report.places) else ("entered", "")
    for part in report.parts:
        at = part.began.weekday(), part.began.hour
        looked[at] += max(part.watched, 0)
        total[at] += sum(
            n for (kind, _, direction, _), n in part.events.items() if (kind, direction) == wanted
        )
    mean = np.divide(total, looked, out=np.full((7, 24), np.nan), where=looked > 0.1)
    most = np.nanmax(mean, initial=0) or 1
    rows = []
    for day, name in enumerate(_DAYS):
        cells = "".join(
            f'<td style="background:color-mix(in srgb, var(--bar) {100 * value / most:.0f}%, transparent)" '
            f'title="{name} {hour}:00: {value:.1f}">{value:.0f}</td>'
            if not math.isnan(value)
            else '<td title="not watched">–</td>'
            for hour, value in enumerate(mean[day])
        )
        rows.append(f"<tr><td>{name}</td>{cells}</tr>")
    head = "".join(f"<th>{hour}</th>" for hour in range(24))
    return [
        "<h2>An average week</h2>",
        f'<p class="legend">{"inward crossings" if wanted[1] else "entries"} an hour, averaged over hours '
        "that were watched</p>",
        f'<div class="scroll"><table><tr><th></th>{head}</tr>{"".join(rows)}</table></div>',
    ]


def _presence(report: Report) -> list[str]:
    """Where people spent their time: one large map, and one for each hour of the day that has any."""
    whole = report.presence.sum(0)
    if not whole.any():
        return []
    hours = [hour for hour in range(24) if report.presence[hour].any()]
    small = "".join(
        f'<figure style="margin:0"><figcaption class="legend">{hour}:00</figcaption>'
        f"{_map(report.presence[hour], f'{hour}:00')}</figure>"
        for hour in hours
    )
    grid = "display:grid;grid-template-columns:repeat(auto-fill,minmax(9rem,1fr));gap:.75rem"
    return [
        "<h2>Where people spend their time</h2>",
        f'<p class="legend">foot points in the camera\'s picture, {_spent(whole.sum())} in all</p>',
        f'<div style="max-width:40rem">{_map(whole, "presence")}</div>',
        f'<details><summary>by hour of the day</summary><div style="{grid}">{small}</div></details>'
        if len(hours) > 1
        else "",
    ]


def _spent(seconds: float) -> str:
    """How long people were there together, in words."""
    if seconds < 60:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 3600 else f"{seconds / 3600:.1f} hours"


def _map(seconds: NDArray[np.float64], title: str) -> str:
    rows, columns = seconds.shape
    # A root, or a bench outshines every path.
    share = np.sqrt(seconds / (seconds.max() or 1))
    cells = "".join(
        f'<rect x="{x}" y="{y}" width="1.02" height="1.02" fill-opacity="{share[y, x]:.2f}"/>'
        for y, x in np.argwhere(share > 0.02)
    )
    return (
        f'<svg viewBox="0 0 {columns} {rows}" role="img" aria-label="{escape(title, quote=True)}">'
        f'<rect width="{columns}" height="{rows}" fill="none" stroke="var(--rule)" stroke-width=".2"/>'
        f'<g class="other">{cells}</g></svg>'
    )


def _moves(report: Report) -> list[str]:
    """How many went from which zone to which next."""
    if not report.moves:
        return []
    zones = sorted({zone for move in report.moves for zone in move})
    head = "".join(f"<th>to {escape(zone)}</th>" for zone in zones)
    rows = "".join(
        f"<tr><td>from {escape(first)}</td>"
        + "".join(f"<td>{report.moves.get((first, second), '–')}</td>" for second in zones)
        + "</tr>"
        for first in zones
    )
    return [
        "<h2>From zone to zone</h2>",
        f'<div class="scroll"><table><tr><td></td>{head}</tr>{rows}</table></div>',
    ]


def _audit(report: Report) -> list[str]:
    """How right the counts were when somebody last looked, and the figures of all such audits."""
    if not report.audits:
        return []
    newest, zone = report.audits[-1], report.began.tzinfo
    rows = "".join(
        f"<tr><td>{audit.day(zone):%Y-%m-%d}</td><td>{escape(score.line)}, {score.direction}</td>"
        f"<td>{score.true}</td><td>{score.matched}</td><td>{score.missed}</td><td>{score.extra}</td>"
        f"<td>{percent(score.error)}</td></tr>"
        for audit in reversed(report.audits)
        for score in audit.scores()
    )
    head = "".join(
        f"<th>{name}</th>"
        for name in ("line", "crossed", "counted", "missed", "extra", "net error, with 95 %")
    )
    return [
        "<h2>How right the counts are</h2>",
        f"<p>{escape(newest.heading(zone))}</p>",
        f"<ul>{''.join(f'<li>{escape(one)}</li>' for one in newest.sentences())}</ul>",
        f'<div class="scroll"><table><tr><th>audited</th>{head}</tr>{rows}</table></div>',
    ]


def _gaps(report: Report) -> list[str]:
    """What is not known."""
    shown = [gap for gap in report.gaps if gap[1] - gap[0] >= timedelta(minutes=1)]
    if not shown:
        return []
    rows = "".join(
        f"<tr><td>{began:%Y-%m-%d %H:%M}</td><td>{ended:%Y-%m-%d %H:%M}</td><td>{REASONS[reason]}</td></tr>"
        for began, ended, reason in shown
    )
    return [
        "<h2>Times of which nothing is known</h2>",
        f'<p class="legend">{held}</p>' if (held := held_text(report)) else "",
        f'<div class="scroll"><table><tr><th>from</th><th>to</th><th>why</th></tr>{rows}</table></div>',
    ]


def _cameras(report: Report) -> list[str]:
    """What each of several cameras counted, and for how long it was away."""
    if not report.cameras:
        return []
    head = "".join(f"<th>{escape(_label(place, direction))}</th>" for place, direction in report.places)
    rows = "".join(
        f"<tr><td>{escape(one.name)}</td><td>{one.watched:.1%}</td>"
        + "".join(f"<td>{one.total(place, direction)}</td>" for place, direction in report.places)
        + "</tr>"
        for one in report.cameras
    )
    return [
        "<h2>Each camera</h2>",
        f'<div class="scroll"><table><tr><th>camera</th><th>watched</th>{head}</tr>{rows}</table></div>',
    ]


def _table(report: Report) -> list[str]:
    """All counts as a table, for those who read figures or cannot see charts."""
    if not report.places:
        return []
    head = "".join(f"<th>{escape(_label(place, direction))}</th>" for place, direction in report.places)
    rows = []
    for part in report.parts:
        values = [part.count(place, direction) for place, direction in report.places]
        cells = "".join(f"<td>{'–' if value is None else value}</td>" for value in values)
        rows.append(f"<tr><td>{_when(part, report.step)}</td>{cells}<td>{part.watched:.0%}</td></tr>")
    return [
        f"<details><summary>All figures by {report.step}</summary>"
        f'<div class="scroll"><table><tr><th>{report.step}</th>{head}<th>watched</th></tr>'
        f"{''.join(rows)}</table></div></details>"
    ]
