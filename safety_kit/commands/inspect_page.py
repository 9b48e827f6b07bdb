"""The page that `safety-kit inspect --html` writes: one file, no script, no request; every text in it is escaped."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from safety_kit.analysis.pieces import visible

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
.failed { color: #d55e00; font-weight: bold; }
</style>
</head>
<body>
"""  # noqa: E501


def page(document: Mapping[str, Any]) -> str:
    """The whole page of a document, as `Inspection.to_json` makes it."""
    model = document["model"]
    about = (
        f"{model['family']} {model['name']} · {model['digest'][:12]} · {model['dtype']}, {model['attention']}"
        f" · policy {(document['policy_digest'] or 'none')[:12]} · safety kit {document['kit_version']}"
    )
    said = (
        "Colour is surprisal, from 0 to 16 bits, and in the classifiers' columns probability, from 0 to 1. A "
        "classifier's number at a token is what it would say if the text ended there; a frame marks where the guard, "
        "which reads at some tokens only, first finds it above a threshold."
    )
    parts = "".join(_part(document["tokens"], part) for part in document["messages"])
    trust = _trust(document["trust"]) if document.get("trust") else ""
    warned = "" if not trust else _warning(document["trust"], ("probabilities", "classifiers"))
    body = f'<p>{_text(about)}</p><p class="note">{said}</p>{warned}{parts}{trust}'
    return f"{_HEAD}<h1>Inspection</h1>{body}</body>\n</html>\n"


def _warning(trust: Mapping[str, Any], charts: Sequence[str]) -> str:
    """A line above what must not be believed, where a check that it rests on failed."""
    failed = [c["name"] for c in trust["checks"] if not c["passed"] and set(charts) & set(c["charts"])]
    if not failed:
        return ""
    return f'<p class="failed">Do not rely on these numbers. Failed: {_text(", ".join(failed))}; see Trust below.</p>'


def _trust(trust: Mapping[str, Any]) -> str:
    """A row a check."""
    names = ["check", "", "difference", "at most", "compared", "matters to"]
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    rows = "".join(_check(check) for check in trust["checks"])
    passed = sum(check["passed"] for check in trust["checks"])
    said = f"{passed} of {len(trust['checks'])} checks passed, on the first {trust['tokens']} of {trust['of']} tokens."
    notes = " ".join(trust["notes"])
    return f"<h2>Trust</h2><p>{_text(said)} {_text(notes)}</p><table><tr>{head}</tr>{rows}</table>"


def _check(check: Mapping[str, Any]) -> str:
    told, mark = ("passed", "") if check["passed"] else ("failed", ' class="failed"')
    cells = [
        f"<td>{_text(check['name'])}</td><td>{told}</td>",
        f'<td class="n">{_number(check["value"], ".3g")}</td><td class="n">{check["tolerance"]:.3g}</td>',
        f"<td>{_text(check['compared'])}</td><td>{_text(', '.join(check['charts']))}</td>",
    ]
    return f"<tr{mark}>{''.join(cells)}</tr>"


def _part(tokens: Sequence[Mapping[str, Any]], part: Mapping[str, Any]) -> str:
    own = tokens[part["start"] : part["stop"]]
    text = "".join(
        f'<span style="--v:{_share(token["surprisal"])}">{_text(token["text"])}</span>'
        for token in own
        if token.get("part", 0) <= 1
    )
    categories = [strip["category"] for strip in part["strips"]]
    names = ["token", "id", "bits", "rank", "entropy", "likeliest", *categories]
    head = "".join(f'<th scope="col">{_text(name)}</th>' for name in names)
    rows = "".join(_row(token, part["strips"], offset) for offset, token in enumerate(own))
    title = _text(f"{part['role']}: {len(own)} tokens")
    wholes = "".join(
        f"<p>{_text(whole['category'])}, of the whole message: {_number(whole['probability'], '.2f')}</p>"
        for whole in part["wholes"]
    )
    return f'<h2>{title}</h2><p class="text">{text}</p>{wholes}<table><tr>{head}</tr>{rows}</table>'


def _row(token: Mapping[str, Any], strips: Sequence[Mapping[str, Any]], offset: int) -> str:
    split = f" ({token['part']} of {token['parts']})" if token.get("parts") else ""
    likeliest = " ".join(f"“{_text(other['text'])}” {other['probability']:.2f}" for other in token["top"])
    cells = [
        f'<td class="t" style="--v:{_share(token["surprisal"])}">{_text(token["text"])}{split}</td>',
        f'<td class="n">{token["id"]}</td>',
        f'<td class="n">{_number(token["surprisal"], ".2f")}</td>',
        f'<td class="n">{_number(token["rank"], "d")}</td>',
        f'<td class="n">{_number(token["entropy"], ".2f")}</td>',
        f'<td class="t">{likeliest}</td>',
    ]
    for strip in strips:
        probability = strip["probabilities"][offset]
        reached = [_text(action) for action, at in strip["acts"].items() if at == offset]
        mark = f' class="n cross" title="the guard: {", ".join(reached)}"' if reached else ' class="n"'
        cells.append(f'<td{mark} style="--v:{probability:.3f}">{probability:.2f}</td>')
    return f"<tr>{''.join(cells)}</tr>"


def _share(bits: float | None) -> str:
    return "0" if bits is None else f"{min(1.0, bits / BITS):.3f}"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _text(text: str) -> str:
    return escape(visible(text), quote=True)
