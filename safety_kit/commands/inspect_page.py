"""The page that `safety-kit inspect --html` writes: one file, no script, no request; every text in it is escaped."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

from safety_kit.analysis.pieces import visible

if TYPE_CHECKING:
    from safety_kit.analysis.inspection import Inspection, Part

BITS = 16.0
"""Surprisal at which a token's colour is fullest: the bits of one token in 65,536."""

_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>Inspection</title>
<style>
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 80rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: .5rem 0 2rem; display: block; overflow-x: auto; }
th, td { padding: .15rem .6rem; text-align: left; border-bottom: 1px solid color-mix(in srgb, currentColor 15%, transparent); }
.n { text-align: right; font-variant-numeric: tabular-nums; }
.t, .text { font-family: ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate; }
.t, .text span, .n { background: color-mix(in srgb, #0072b2 calc(var(--v, 0) * 55%), transparent); }
.cross { font-weight: bold; outline: 2px solid #d55e00; }
.note { opacity: .75; }
</style>
</head>
<body>
"""  # noqa: E501


def page(made: Inspection) -> str:
    """The whole document."""
    gemma = made.gemma
    about = (
        f"{gemma.family} {gemma.name} · {gemma.digest[:12]} · {gemma.dtype}, {gemma.attention}"
        f" · policy {(made.policy_digest or 'none')[:12]}"
    )
    said = (
        "Colour is surprisal, from 0 to 16 bits, and in the classifiers' columns probability, from 0 to 1. A "
        "classifier's number at a token is what it would say if the text ended there; a frame marks the first one "
        "above a threshold."
    )
    parts = "".join(_part(made, part) for part in made.parts)
    return f'{_HEAD}<h1>Inspection</h1><p>{_text(about)}</p><p class="note">{said}</p>{parts}</body>\n</html>\n'


def _part(made: Inspection, part: Part) -> str:
    raw = made.probabilities.raw
    own = range(part.start, part.stop)
    text = "".join(
        f'<span style="--v:{_share(raw.surprisals[at])}">{_text(made.pieces[at].text)}</span>'
        for at in own
        if made.pieces[at].part <= 1
    )
    names = ["token", "id", "bits", "rank", "entropy", "likeliest", *(strip.category for strip in part.strips)]
    head = "".join(f'<th scope="col">{_text(name)}</th>' for name in names)
    rows = "".join(_row(made, part, at) for at in own)
    title = _text(f"{part.role}: {len(own)} tokens")
    return f'<h2>{title}</h2><p class="text">{text}</p><table><tr>{head}</tr>{rows}</table>'


def _row(made: Inspection, part: Part, at: int) -> str:
    raw, piece = made.probabilities.raw, made.pieces[at]
    split = f" ({piece.part} of {piece.parts})" if piece.parts else ""
    likeliest = " ".join(f"“{_text(other.text)}” {p:.2f}" for other, p in made.alternatives(raw, at))
    cells = [
        f'<td class="t" style="--v:{_share(raw.surprisals[at])}">{_text(piece.text)}{split}</td>',
        f'<td class="n">{piece.id}</td>',
        f'<td class="n">{raw.surprisals[at]:.2f}</td>',
        f'<td class="n">{raw.ranks[at]}</td>',
        f'<td class="n">{raw.entropies[at]:.2f}</td>',
        f'<td class="t">{likeliest}</td>',
    ]
    for strip in part.strips:
        probability = float(strip.probabilities[at - part.start])
        reached = [str(action) for action, token in strip.crossings.items() if token == at - part.start]
        mark = f' class="n cross" title="first above: {", ".join(reached)}"' if reached else ' class="n"'
        cells.append(f'<td{mark} style="--v:{probability:.3f}">{probability:.2f}</td>')
    return f"<tr>{''.join(cells)}</tr>"


def _share(bits: float) -> str:
    return f"{min(1.0, bits / BITS):.3f}" if math.isfinite(bits) else "0"


def _text(text: str) -> str:
    return escape(visible(text), quote=True)
