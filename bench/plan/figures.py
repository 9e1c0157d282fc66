"""Draws docs/explanation/planner-*.svg: what `hearth plan --what-if` predicts for plain homes.

    ./dev shell python3 bench/plan/figures.py     after ./dev build
"""

import json
import os
import subprocess
import tempfile

ROOT = os.path.realpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
HEARTH = os.path.join(os.environ.get("HEARTH_BUILD", os.path.join(ROOT, "build", "release")), "bin", "hearth")
FOLDER = os.path.join(ROOT, "docs", "explanation")

# 80 layers of 0.5 GB, as of a 70B model at 4.5 bits: 15 ms of computing, 170 ms of disk, 3 ms a hop, as in the page's table.
MODEL = {"name": "80 layers", "layers": 80, "width": 8192, "feed_forward": 28672, "heads": 64, "kv_heads": 8, "head_width": 128,
         "vocabulary": 32000, "bits_per_weight": 4.5}
LAYER = (8192 * 2 * (64 + 8) * 128 + 3 * 8192 * 28672) * 4.5 / 8
WEIGHTS = 80 * LAYER + 8192 * 32000 * 4.5 / 8
EXIT_MEMORY = 4
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 680, 380, 60, 150, 24, 48
COLOURS = ["#1b6ca8", "#c0504d", "#4f8f3a", "#8064a2", "#d68a00"]


def device(name, share, disk_s=0.170):
    # 200 MB for buffers and the KV cache beside the weights.
    return {"name": name, "memory": share * WEIGHTS + 200e6, "cpu": LAYER / 0.015, "disk": LAYER / disk_s}


def tpot(devices, *flags):
    """Seconds a token, None where nothing fits."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({"devices": devices, "models": [MODEL], "link": {"latency": 0.003, "rate": 1e12}}, file)
        file.flush()
        done = subprocess.run([HEARTH, "plan", "--what-if", file.name, "--json", "-c", "256", *flags], capture_output=True,
                              text=True, check=False)
    if done.returncode == EXIT_MEMORY:
        return None
    done.check_returncode()
    return json.loads(done.stdout)["tpot_s"]


def chart(path, title, x_title, lines, x_ticks, y_ticks, y_most):
    """lines: {label: [(x, seconds or None)]}."""
    x_least, x_most = x_ticks[0], x_ticks[-1]

    def at(x, y):
        return (LEFT + (x - x_least) / (x_most - x_least) * (WIDTH - LEFT - RIGHT),
                HEIGHT - BOTTOM - min(y, y_most) / y_most * (HEIGHT - TOP - BOTTOM))

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>', f'<text x="{LEFT}" y="15" font-size="13">{title}</text>']
    for y in y_ticks:
        _, v = at(x_least, y)
        out.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{v:.1f}" y2="{v:.1f}" stroke="#ddd"/>'
                   f'<text x="{LEFT - 6}" y="{v + 4:.1f}" text-anchor="end">{y:g}</text>')
    for x in x_ticks:
        u, _ = at(x, 0)
        out.append(f'<text x="{u:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{x:g}</text>')
    out.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 10}" text-anchor="middle">{x_title}</text>')
    out.append(f'<text x="14" y="{HEIGHT / 2:.0f}" text-anchor="middle" transform="rotate(-90 14 {HEIGHT / 2:.0f})">seconds a token</text>')
    for i, (label, points) in enumerate(lines.items()):
        known = [at(x, y) for x, y in points if y is not None and y <= y_most]
        colour = COLOURS[i % len(COLOURS)]
        out.append(f'<polyline points="{" ".join(f"{u:.1f},{v:.1f}" for u, v in known)}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out += [f'<circle cx="{u:.1f}" cy="{v:.1f}" r="2.5" fill="{colour}"/>' for u, v in known]
        out.append(f'<text x="{WIDTH - RIGHT + 10}" y="{TOP + 16 + 18 * i}" fill="{colour}">{label}</text>')
    out.append("</svg>")
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(out) + "\n")
    print(os.path.relpath(path, ROOT))


def rounds():
    ks = list(range(1, 17))
    lines = {f"{share} % memory": [(k, tpot([device(name, share / 400) for name in "abcd"], "--rounds", str(k))) for k in ks]
             for share in (90, 60, 40, 25)}
    chart(os.path.join(FOLDER, "planner-rounds.svg"), "Four equal devices: rounds", "rounds", lines, [1, 2, 4, 6, 8, 10, 12, 14, 16],
          range(0, 13, 2), 12)


def memory():
    shares = list(range(20, 115, 5))
    lines = {f"{n} device{'s' if n > 1 else ''}": [(share, tpot([device(f"d{i}", share / 100 / n) for i in range(n)])) for share in shares]
             for n in (1, 2, 4)}
    chart(os.path.join(FOLDER, "planner-memory.svg"), "The same memory and the same disks, in one, two, four devices; best rounds",
          "memory of all, % of the weights", lines, [20, 40, 60, 80, 100, 110], range(0, 13, 2), 12)


def weak():
    """A fast device with a disk, and another of its memory with a part of its speed: when it is worth a hop."""
    speeds = [0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1]
    lines = {}
    for share in (100, 80, 60, 40):
        points = []
        for speed in speeds:
            second = device("second", share / 100)
            second["cpu"] *= speed
            second["disk"] *= speed
            points.append((speed * 100, tpot([device("first", share / 100), second])))
        lines[f"{share} % memory each"] = points
    chart(os.path.join(FOLDER, "planner-second.svg"), "A second device, by its speed: left out while it would cost more than it brings",
          "speed of the second device and its disk, % of the first", lines, [0, 20, 40, 60, 80, 100], range(0, 10, 2), 9)


if __name__ == "__main__":
    rounds()
    memory()
    weak()
