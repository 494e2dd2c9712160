# SPDX-License-Identifier: Apache-2.0
"""A plot as SVG, by hand: lines over sizes, both axes logarithmic."""
import math

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 460, 70, 190, 40, 50
COLOURS = ("#0b6e99", "#c0392b", "#2e8b57", "#8e44ad", "#b8860b", "#555555")


def label(value, units):
    for limit, unit in units:
        if value >= limit:
            return f"{value / limit:g} {unit}"
    return f"{value:g}"


SIZES = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
TIMES = ((1000, "s"), (1, "ms"), (0.001, "us"))


def svg(title, lines):
    """`lines`: name -> [(bytes, milliseconds), ...]"""
    sizes = sorted({size for points in lines.values() for size, _ in points})
    times = [time for points in lines.values() for _, time in points if time > 0]
    low, high = 10 ** math.floor(math.log10(min(times))), 10 ** math.ceil(math.log10(max(times) * 1.01))
    span = math.log(sizes[-1] / sizes[0]) or 1

    def x(size):
        return LEFT + math.log(size / sizes[0]) / span * (WIDTH - LEFT - RIGHT)

    def y(time):
        return HEIGHT - BOTTOM - math.log(time / low) / math.log(high / low) * (HEIGHT - TOP - BOTTOM)

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
           f'<text x="{LEFT}" y="24" font-size="15">{title}</text>']
    for size in sizes:
        out.append(f'<line x1="{x(size):.1f}" y1="{TOP}" x2="{x(size):.1f}" y2="{HEIGHT - BOTTOM}" stroke="#dddddd"/>')
        out.append(f'<text x="{x(size):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{label(size, SIZES)}</text>')
    time = low
    while time <= high * 1.001:
        out.append(f'<line x1="{LEFT}" y1="{y(time):.1f}" x2="{WIDTH - RIGHT}" y2="{y(time):.1f}" stroke="#dddddd"/>')
        out.append(f'<text x="{LEFT - 8}" y="{y(time) + 4:.1f}" text-anchor="end">{label(time, TIMES)}</text>')
        time *= 10
    for i, (name, points) in enumerate(lines.items()):
        colour = COLOURS[i % len(COLOURS)]
        path = " ".join(f"{x(size):.1f},{y(time):.1f}" for size, time in sorted(points) if time > 0)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out += [f'<circle cx="{x(size):.1f}" cy="{y(time):.1f}" r="3" fill="{colour}"/>' for size, time in points if time > 0]
        out.append(f'<rect x="{WIDTH - RIGHT + 14}" y="{TOP + 22 * i}" width="14" height="4" fill="{colour}"/>')
        out.append(f'<text x="{WIDTH - RIGHT + 34}" y="{TOP + 22 * i + 7}">{name}</text>')
    return "\n".join([*out, "</svg>", ""])
