#!/usr/bin/env python3
"""Regenerates everything in README.md and docs/ that comes from real runs. Use it on a calm machine; it takes about ten minutes.

- README.md: the table of results, and its picture `docs/run.svg`, from one search on this machine;
- docs/*.md: the output of every `console` block that shows some (by the test `docs`);
- docs/configuration.md, docs/json-output.md and docs/schema, which come from the code (by the tests that compare them).

With `--from FILE` the output of an earlier `kforge evolve` is used for the first step, and nothing is run.
"""

import os
import pathlib
import re
import subprocess
import sys
import tempfile
from xml.sax.saxutils import escape

ROOT = pathlib.Path(__file__).resolve().parent.parent
COMMAND = "kforge evolve --config gdn_decode.yaml"
PICTURED, LISTED = 3, 1  # Kernels in the picture and in the README's table.

CELL, LINE, SIZE, PAD, BAR = 8.4, 19, 14, 18, 34
FONT = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', 'Liberation Mono', monospace"
COLOURS = {
    "text": "#d5dbe3", "dim": "#8a94a3", "prompt": "#7ee787", "command": "#ffffff",
    "number": "#79c0ff", "good": "#7ee787", "head": "#ffa657",
}
RULES = [  # The rule that matches first in a line wins.
    (re.compile(r"^\$ "), "prompt"),
    (re.compile(r"~\d+\.\d+x"), "dim"),
    (re.compile(r"\[\d+\.\d\d, \d+\.\d\d\]"), "dim"),
    (re.compile(r"\b\d+\.\d+x"), "good"),
    (re.compile(r"\[\d+\.\d+, \d+\.\d+\]"), "number"),
]


def pieces(line):
    """A line as (colour, text) pieces."""
    base = "text"
    if line.startswith("$ "):
        base = "command"
    elif re.match(r"\s+confirmed\s+95 % interval|^\w+: (best|no kernel confirmed) ", line):
        base = "head"
    elif re.match(r"^(backend|profile|models): |^\s+(times are|measured on|speedups are|order:|confirmed:|~:|too noisy:)", line):
        base = "dim"
    start = 0
    while start < len(line):
        hits = [(found, colour) for pattern, colour in RULES if (found := pattern.search(line, start))]
        if not hits:
            yield base, line[start:]
            return
        found, colour = min(hits, key=lambda hit: hit[0].start())
        if found.start() > start:
            yield base, line[start:found.start()]
        yield colour, found.group()
        start = found.end()


def picture(title, lines):
    """Terminal output as an SVG; the text is not changed."""
    width = max(map(len, lines)) * CELL + 2 * PAD
    height = BAR + len(lines) * LINE + 2 * PAD - 6
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}" role="img">',
        f"<title>{escape(title)}</title>",
        '<rect width="100%" height="100%" rx="10" fill="#161b22"/>',
        f'<path d="M0 10a10 10 0 0 1 10-10h{width - 20:.0f}a10 10 0 0 1 10 10v{BAR - 10}h-{width:.0f}z" fill="#21262d"/>',
    ]
    for index, colour in enumerate(("#ff5f57", "#febc2e", "#28c840")):
        out.append(f'<circle cx="{20 + 20 * index}" cy="{BAR // 2}" r="6" fill="{colour}"/>')
    out.append(f'<g font-family="{FONT}" font-size="{SIZE}">')
    for row, line in enumerate(lines):
        y, column = BAR + PAD + row * LINE + 10, 0
        for colour, piece in pieces(line):
            # SVG collapses spaces: each text between wide gaps is placed on its own. textLength keeps the columns aligned whatever
            # font the reader has.
            for found in re.finditer(r"\S+(?: \S+)*", piece):
                x, length = PAD + (column + found.start()) * CELL, len(found.group()) * CELL
                out.append(f'<text x="{x:.1f}" y="{y}" fill="{COLOURS[colour]}" textLength="{length:.1f}" lengthAdjust="spacingAndGlyphs">{escape(found.group())}</text>')
            column += len(piece)
    return "\n".join(out + ["</g>", "</svg>", ""])


def trimmed(output, listed):
    """The end of a run, with the first kernels of its table only."""
    lines = output.strip("\n").split("\n")
    start = next(index for index, line in enumerate(lines) if re.match(r"^\w+: (best|no kernel confirmed) ", line))
    kept, rank = [], 0
    for line in lines[start:]:
        if found := re.match(r"^ {2,3}(\d+)  ", line):
            rank = int(found.group(1))
        elif not line.startswith("      "):
            rank = 0
        is_detail = re.match(r"^      and \d+ more|^  (valid|inconclusive|stopped):", line)
        if rank <= listed and not is_detail:
            kept.append(line)
    end = next((index for index, line in enumerate(kept) if line.startswith("  speedups are")), len(kept))
    notes = [line for line in kept[end:] if not re.match(r"^  (its verdict|all steps|order:|too noisy:)", line)]
    return kept[:end] + notes


def opening(output):
    """The first lines of a run, and of its progress the first, middle and last line with a rate, then what was confirmed."""
    lines = output.split("\n")
    chosen = [line for line in lines if re.match(r"^(backend|profile): |^\w+: \d+ steps? ", line)]
    progress = [line for line in lines if re.match(r"^\w+: step \d+/\d+, .* candidates/min, best ", line)]
    if progress:
        shown = sorted({0, len(progress) // 2, len(progress) - 1})
        chosen += [part for index in shown for part in (progress[index], "…")]
    return chosen + [line for line in lines if re.match(r"^\w+: step \d+(: the search said| against) ", line)]


def search():
    """The output of a search in an empty folder, standard error included."""
    subprocess.run(["cargo", "build", "--release"], cwd=ROOT, check=True)
    path = f"{ROOT / 'target/release'}{os.pathsep}{os.environ['PATH']}"
    with tempfile.TemporaryDirectory() as folder:
        command = f"exec 2>&1; {COMMAND} --no-model --output outputs/gdn_decode"
        environment = {**os.environ, "PATH": path, "NO_COLOR": "1"}
        done = subprocess.run(["sh", "-c", command], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def main():
    from_file = len(sys.argv) == 3 and sys.argv[1] == "--from"
    output = pathlib.Path(sys.argv[2]).read_text() if from_file else search()
    readme = ROOT / "README.md"
    text = readme.read_text()
    block = "<!-- docs/update.py -->\n```text\n"
    start = text.index(block) + len(block)
    end = text.index("```", start)
    table = "\n".join(trimmed(output, LISTED)).split("\n\n  starting kernels")[0]
    readme.write_text(f"{text[:start]}{table}\n{text[end:]}")
    lines = [f"$ {COMMAND}", *opening(output), "", *trimmed(output, PICTURED)]
    (ROOT / "docs/run.svg").write_text(picture(COMMAND, lines))
    if not from_file:
        environment = {**os.environ, "KFORGE_UPDATE_DOCS": "1"}
        generated = ["--lib", "--", "configuration_page", "json_output", "committed_schemas"]
        for tests in (generated, ["--test", "machine", "docs::", "--", "--test-threads", "1"]):
            subprocess.run(["cargo", "test", *tests], cwd=ROOT, env=environment, check=True)


main()
