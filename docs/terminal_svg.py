#!/usr/bin/env python3
"""Draws terminal output as an SVG picture: `terminal_svg.py TITLE <output.txt >picture.svg`.

Lines that start with `$ ` are commands. Colours follow simple rules (speedups, headings, notes); the text is not changed.
"""

import re
import sys
from xml.sax.saxutils import escape

CELL, LINE, SIZE, PAD, BAR = 8.4, 19, 14, 18, 34
COLOURS = {
    "text": "#d5dbe3", "dim": "#8a94a3", "prompt": "#7ee787", "command": "#ffffff",
    "number": "#79c0ff", "good": "#7ee787", "head": "#ffa657",
}
RULES = [  # The first rule that matches at a position wins.
    (re.compile(r"^\$ "), "prompt"),
    (re.compile(r"\b\d+\.\d+x"), "good"),
    (re.compile(r"\[\d+\.\d+, \d+\.\d+\]"), "number"),
    (re.compile(r"\byes\b"), "good"),
]


def runs(line):
    """Splits a line into (colour, text) pieces."""
    base = "text"
    if line.startswith("$ "):
        base = "command"
    elif re.match(r"\s+speedup\s+95 % interval", line) or re.match(r"^\w+: \d+ of \d+ steps", line):
        base = "head"
    elif re.match(r"^(backend|profile|models): ", line) or re.match(r"^\s+(times are|speedups are|confirmed:|too noisy:)", line):
        base = "dim"
    pieces, start = [], 0
    while start < len(line):
        hit = None
        for pattern, colour in RULES:
            found = pattern.search(line, start)
            if found and (hit is None or found.start() < hit[0].start()):
                hit = (found, colour)
        if hit is None:
            pieces.append((base, line[start:]))
            break
        found, colour = hit
        if found.start() > start:
            pieces.append((base, line[start:found.start()]))
        pieces.append((colour, found.group()))
        start = found.end()
    return pieces


def main():
    title = sys.argv[1] if len(sys.argv) > 1 else "kforge"
    lines = sys.stdin.read().rstrip("\n").split("\n")
    columns = max(len(line) for line in lines)
    width, height = columns * CELL + 2 * PAD, BAR + len(lines) * LINE + 2 * PAD - 6
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="100%" height="100%" rx="10" fill="#161b22"/>',
        f'<path d="M0 10a10 10 0 0 1 10-10h{width - 20:.0f}a10 10 0 0 1 10 10v{BAR - 10}h-{width:.0f}z" fill="#21262d"/>',
    ]
    for index, colour in enumerate(("#ff5f57", "#febc2e", "#28c840")):
        out.append(f'<circle cx="{20 + 20 * index}" cy="{BAR / 2:.0f}" r="6" fill="{colour}"/>')
    font = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', 'Liberation Mono', monospace"
    out.append(f'<text x="{width / 2:.0f}" y="{BAR / 2 + 5:.0f}" fill="#8a94a3" text-anchor="middle" font-family="{font}" font-size="13">{escape(title)}</text>')
    out.append(f'<g font-family="{font}" font-size="{SIZE}" xml:space="preserve">')
    for row, line in enumerate(lines):
        y, column = BAR + PAD + row * LINE + 10, 0
        for colour, piece in runs(line):
            text = piece.lstrip(" ")
            lead = len(piece) - len(text)
            text = text.rstrip(" ")
            if text:
                x = PAD + (column + lead) * CELL
                # textLength keeps columns aligned whatever font the reader has.
                out.append(f'<text x="{x:.1f}" y="{y}" fill="{COLOURS[colour]}" textLength="{len(text) * CELL:.1f}" lengthAdjust="spacingAndGlyphs">{escape(text)}</text>')
            column += len(piece)
    out += ["</g>", "</svg>", ""]
    sys.stdout.write("\n".join(out))


main()
