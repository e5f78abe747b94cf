#!/usr/bin/env python3
"""Draws the plots of docs/plots as small SVG files, by hand.

    bench/plot.py                       # hit-rate-*.svg: hits over capacity for each policy
    bench/plot.py --sweep sweep.json    # speed-over-memory.svg, of bench/memory_sweep.py's numbers

The hit rates come from `hostler replay --json` on the recorded traces (warm start,
as docs/expert-cache.md defines a hit); the same binary draws the same files.
Standard library only.
"""

import argparse
import json
import subprocess
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TRACES = {
    "qwen": "Qwen3-30B-A3B, 48 x 128 experts, top 6",
    "gptoss": "gpt-oss-120b, 36 x 128 experts, top 2",
    "olmoe": "OLMoE-1B-7B, 16 x 64 experts, top 8",
}
CAPACITIES = [2, 3, 5, 7, 10, 15, 20, 25, 30, 40, 50]
POLICIES = {
    "belady": "Belady (knows the future)", "default": "learned (default)",
    "forward_distance": "forward_distance", "ema": "ema", "lfru": "lfru", "lru": "lru",
}
# Class of a line, its colour on white and on black, its dashes.
STYLES = [("a", "#555", "#bbb", "5 3"), ("b", "#c0392b", "#ff7961", ""), ("c", "#2471a3", "#64b5f6", ""),
          ("d", "#1e8449", "#81c784", "7 2"), ("e", "#b9770e", "#ffb74d", "2 2"),
          ("f", "#7d3c98", "#ce93d8", "9 3 2 3")]
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 360, 58, 12, 34, 46


def css():
    base = ["text{font:12px sans-serif;fill:#222}.t{font-weight:bold;font-size:13px}",
            ".bg{fill:#fff}.g{stroke:#ddd}.ax{stroke:#555}polyline{fill:none;stroke-width:2}"]
    dark = ["text{fill:#ddd}.bg{fill:#161b22}.g{stroke:#30363d}.ax{stroke:#999}"]
    for name, light, black, dashes in STYLES:
        dash = f";stroke-dasharray:{dashes}" if dashes else ""
        base.append(f"polyline.{name}{{stroke:{light}{dash}}}circle.{name}{{fill:{light}}}")
        dark.append(f"polyline.{name}{{stroke:{black}}}circle.{name}{{fill:{black}}}")
    return "".join(base) + "@media(prefers-color-scheme:dark){" + "".join(dark) + "}"


def number(value):
    return f"{value:.1f}".rstrip("0").rstrip(".")


def draw(title, x_label, y_label, x_ticks, y_ticks, series, legend_at):
    """One plot as SVG text. series: [(name, style index, [(x, y)])]; legend_at: its top left
    corner as shares of the plot's width and height."""
    x0, x1, y0, y1 = x_ticks[0], x_ticks[-1], y_ticks[0], y_ticks[-1]
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    px = lambda x: LEFT + width * (x - x0) / (x1 - x0)
    py = lambda y: TOP + height * (1 - (y - y0) / (y1 - y0))
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
           f'aria-label="{escape(title)}"><style>{css()}</style>',
           f'<rect class="bg" width="{WIDTH}" height="{HEIGHT}" rx="6"/>',
           f'<text class="t" x="{LEFT}" y="20">{escape(title)}</text>']
    for x in x_ticks:
        out.append(f'<path class="g" d="M{number(px(x))} {TOP}v{height}"/>'
                   f'<text x="{number(px(x))}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{number(x)}</text>')
    for y in y_ticks:
        out.append(f'<path class="g" d="M{LEFT} {number(py(y))}h{width}"/>'
                   f'<text x="{LEFT - 6}" y="{number(py(y) + 4)}" text-anchor="end">{number(y)}</text>')
    out.append(f'<path class="ax" fill="none" d="M{LEFT} {TOP}v{height}h{width}"/>')
    out.append(f'<text x="{LEFT + width / 2}" y="{HEIGHT - 10}" text-anchor="middle">{escape(x_label)}</text>')
    out.append(f'<text transform="translate(16 {TOP + height / 2})rotate(-90)" '
               f'text-anchor="middle">{escape(y_label)}</text>')
    legend_x, legend_y = LEFT + legend_at[0] * width, TOP + legend_at[1] * height
    for i, (name, style, points) in enumerate(series):
        look = STYLES[style][0]
        places = [(number(px(x)), number(py(y))) for x, y in points]
        out.append(f'<polyline class="{look}" points="{" ".join(f"{x},{y}" for x, y in places)}"/>')
        out += [f'<circle class="{look}" cx="{x}" cy="{y}" r="2.5"/>' for x, y in places]
        y = number(legend_y + 17 * i)
        out.append(f'<polyline class="{look}" points="{number(legend_x)},{y} {number(legend_x + 26)},{y}"/>'
                   f'<text x="{number(legend_x + 32)}" y="{number(float(y) + 4)}">{escape(name)}</text>')
    return "\n".join(out) + "\n</svg>\n"


def hit_rates(hostler, traces, out):
    command = [hostler, "replay", "--json", "--capacity", ",".join(f"{c}%" for c in CAPACITIES),
               "--policy", ",".join(POLICIES), *[str(traces / f"{t}.csv") for t in TRACES]]
    rows = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=600).stdout)
    for trace, title in TRACES.items():
        points = {(r["policy"], r["capacity"]): 100 * r["hits"] / r["lookups"]
                  for r in rows if Path(r["trace"]).stem == trace}
        series = [(name, i, [(c, points[policy, f"{c}%"]) for c in CAPACITIES])
                  for i, (policy, name) in enumerate(POLICIES.items())]
        write(out / f"hit-rate-{trace}.svg",
              draw(f"Hit rate by policy: {title}", "experts in memory, % of all", "hit rate, %",
                   list(range(0, 51, 10)), list(range(0, 101, 20)), series, (0.64, 0.60)))


def speed(sweep, out):
    series, top = [], 0
    for i, (form, rows) in enumerate(json.loads(sweep.read_text())["series"].items()):
        points = [(r["memory_mib"] / 1024, r["tokens_per_s"]) for r in rows]
        bound = [(r["memory_mib"] / 1024, r["bound_tokens_per_s"]) for r in rows]
        if i == 0:
            series.append(("bound", 0, bound))
        series.append((f"measured, {form}", i + 1, points))
        top = max([top] + [y for _, y in points + bound])
    step = 2 if top <= 12 else 5 if top <= 30 else 10
    ticks = [step * i for i in range(int(top / step) + 2)]
    write(out / "speed-over-memory.svg",
          draw("mix7b (3.6 GiB, uniform routing): decode of one sequence", "--memory, GiB", "tokens/s",
               [0, 1, 2, 3, 4, 5], ticks, series, (0.04, 0.08)))


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    print(f"{path}: {len(text)} bytes")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--hostler", default=str(ROOT / "build/release/hostler"))
    p.add_argument("--traces", type=Path, default=ROOT / "../shared/data/expert-traces")
    p.add_argument("--sweep", type=Path, metavar="FILE", help="JSON of memory_sweep.py: draw that instead")
    p.add_argument("--out", type=Path, default=ROOT / "docs/plots")
    args = p.parse_args()
    if args.sweep:
        speed(args.sweep, args.out)
    else:
        hit_rates(args.hostler, args.traces, args.out)


if __name__ == "__main__":
    main()
