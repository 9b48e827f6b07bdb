"""`safety-kit inspect`: the library's own numbers, as a table, a document and a page on which no text acts."""

from __future__ import annotations

import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cli_helpers import app, runner, write_text_policy
from test_gemma_load import tiny

from classifiers import SafetyClassifier
from debugger_app.document import opened
from safety_kit.analysis.inspection import examine
from safety_kit.analysis.pieces import visible
from safety_kit.commands import models
from safety_kit.commands.inspect_page import page
from safety_kit.gemma import Sampling
from safety_kit.gemma.readout import Readout
from safety_kit.guard import Guard
from safety_kit.policy import Policy
from safety_kit.types import Message

if TYPE_CHECKING:
    from safety_kit.gemma import Gemma

HOSTILE = (
    "<img src=x onerror=alert(1)></script><style>*{}</style> \u202eevil\u202c a\u200bb \x1b[31mred\x07 \" onload='x' 😀"
)


@pytest.fixture
def text_policy(tmp_path: Path) -> str:
    return str(write_text_policy(tmp_path / "text.yaml"))


@pytest.fixture
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "load", lambda *_: tiny(chat=False))


class Page(HTMLParser):
    """The elements and attributes that a browser would see."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.usefixtures("_tiny")
def test_no_text_acts_on_the_page(text_policy: str, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    done = runner.invoke(app, ["inspect", HOSTILE, "--policy", text_policy, "--html", str(file), "--max-tokens", "3"])
    assert done.exit_code == 0, done.stderr
    html = file.read_text(encoding="utf-8")
    seen = Page(html)
    assert seen.tags == {
        *("html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "span", "table", "tr", "th", "td")
    }
    assert seen.attributes <= {"lang", "charset", "http-equiv", "content", "name", "class", "style", "scope", "title"}
    assert not any(char in html for char in "\u202e\u202c\u200b\x1b\x07")
    assert "http:" not in html
    assert "https:" not in html
    for shown in ("\\u202e", "\\u200b", "\\x1b", "\\x07", "onerror"):
        assert shown in seen.text


@pytest.mark.usefixtures("_tiny")
def test_no_text_acts_in_the_terminal(text_policy: str) -> None:
    done = runner.invoke(app, ["inspect", HOSTILE, "--policy", text_policy, "--max-tokens", "0"])
    assert done.exit_code == 0, done.stderr
    assert not any(char in done.stdout for char in "\u202e\u202c\u200b\x1b\x07")
    assert "(1 of 4)" in done.stdout


@pytest.mark.usefixtures("_tiny")
def test_the_document_holds_a_row_a_token(text_policy: str) -> None:
    asked = ["inspect", "the cat", "--policy", text_policy, "--json", "--max-tokens", "5", "--temperature", "0.8"]
    said = json.loads(runner.invoke(app, [*asked, "--top-k", "7", "--seed", "1", "--alternatives", "3"]).stdout)
    user, reply = said["messages"]
    assert (user["role"], reply["role"], reply["stop"]) == ("user", "assistant", len(said["tokens"]))
    assert said["tokens"][0]["logprob"] is None
    assert said["tokens"][0]["top"] == []
    assert said["sampling"] == {
        **{"max_tokens": 5, "temperature": 0.8, "top_k": 7},
        **{"top_p": 1.0, "min_p": 0.0, "seed": 1},
    }
    for row in said["tokens"][1:]:
        assert len(row["top"]) == 3
        assert abs(row["surprisal"] + row["logprob"] / math.log(2)) < 1e-5
    drawn = said["tokens"][reply["start"] : reply["stop"]]
    assert all(row["sampled"]["logprob"] is not None and row["rank"] < 7 for row in drawn)
    assert len(said["next"]["top"]) == 3


@pytest.mark.usefixtures("_tiny")
def test_a_classifier_that_reads_a_text_alone_says_one_number_a_message(text_policy: str, tmp_path: Path) -> None:
    texts = ["zzzz qxz", "abc dea", "zqzz zzx", "bcd fab"] * 4
    alone = SafetyClassifier(tiny(chat=False), reading="alone", categories="toy", folds=2, cache=False)
    alone.fit(texts, [1, 0] * 8).save(tmp_path / "toy")
    asked = ["inspect", "zzz zqx", "--reply", "abc", "--policy", text_policy, "--classifier", str(tmp_path / "toy")]
    raw = runner.invoke(app, [*asked, "--json"]).stdout
    said = [message["wholes"] for message in json.loads(raw)["messages"]]
    expected = alone.category_probabilities([(None, "zzz zqx"), ("zzz zqx", "abc")])[:, 0]
    assert [[whole["category"] for whole in wholes] for wholes in said] == [["toy"], ["toy"]]
    assert [wholes[0]["probability"] for wholes in said] == pytest.approx(expected, abs=1e-5)
    assert f"toy, of the whole message: {expected[0]:.2f}" in runner.invoke(app, asked).stdout
    assert f"toy, of the whole message: {expected[1]:.2f}" in page(json.loads(raw))
    assert opened(raw.encode()).messages[1].wholes[0].category == "toy"
    nowhere = runner.invoke(app, [*asked[:-1], str(tmp_path / "none")])
    assert nowhere.exit_code == 2
    assert "none" in nowhere.stderr


@pytest.mark.usefixtures("_tiny")
def test_trust_is_in_the_table_the_document_and_the_page(text_policy: str, tmp_path: Path) -> None:
    asked = ["inspect", "the cat in the hat", "--policy", text_policy, "--max-tokens", "3", "--trust"]
    table = runner.invoke(app, asked)
    assert table.exit_code == 0, table.stderr
    assert "trust: 13 of 13 checks passed" in table.stdout
    said = json.loads(runner.invoke(app, [*asked, "--json"]).stdout)
    assert {"logits", "lens", "attribution"} < {check["name"] for check in said["trust"]["checks"]}
    assert all(check["passed"] and check["value"] <= check["tolerance"] for check in said["trust"]["checks"])
    html = page(said)
    assert "13 of 13 checks passed" in html
    assert "Do not rely" not in html


@pytest.mark.usefixtures("_tiny")
def test_a_check_that_fails_is_told_everywhere(
    text_policy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Readout, "logits", lambda self, normed: self._trunk.output(normed) / 2)
    asked = ["inspect", "the cat in the hat", "--policy", text_policy, "--max-tokens", "3", "--trust"]
    table = runner.invoke(app, asked)
    assert table.exit_code == 1
    assert "FAILED" in table.stdout
    assert "Do not rely on probabilities" in " ".join(table.stdout.split())
    file = tmp_path / "page.html"
    assert runner.invoke(app, [*asked, "--html", str(file)]).exit_code == 1
    html = file.read_text(encoding="utf-8")
    assert 'class="failed">Do not rely on these numbers. Failed: logits' in html
    assert '<tr class="failed"><td>logits</td><td>failed</td>' in html


@pytest.mark.usefixtures("_tiny")
def test_bad_requests(text_policy: str, tmp_path: Path) -> None:
    both = runner.invoke(app, ["inspect", "a", "--json", "--html", str(tmp_path / "a.html")])
    assert (both.exit_code, "not both" in both.stderr) == (2, True)
    nowhere = str(tmp_path / "none" / "a.html")
    done = runner.invoke(app, ["inspect", "a", "--policy", text_policy, "--html", nowhere, "--max-tokens", "0"])
    assert (done.exit_code, "cannot be written" in done.stderr) == (2, True)
    long = runner.invoke(app, ["inspect", "ab" * 4000, "--policy", text_policy, "--max-tokens", "0"])
    assert (long.exit_code, "reads at most 4096" in long.stderr) == (2, True)
    empty = runner.invoke(app, ["inspect", "", "--policy", text_policy, "--max-tokens", "2"])
    assert empty.exit_code == 0, empty.stderr


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a b", "a b"), ("a\n\t", "a\\n\\t"), ("\u200d\ufeff", "\\u200d\\ufeff"), ("\ud800", "\\ud800"), ("é😀", "é😀")],
)
def test_what_would_act_is_written_out(text: str, shown: str) -> None:
    assert visible(text) == shown


@pytest.fixture
def _embedded(embedded: Gemma, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "load", lambda *_: embedded)
    return


@pytest.mark.usefixtures("_embedded")
def test_the_command_says_what_the_library_says(embedded: Gemma, tmp_path: Path) -> None:
    text = "You are a worthless fool and everybody hates you."
    messages = [Message("user", text)]
    made = examine(embedded, messages, Guard(Policy.load(), embedded), sampling=Sampling(max_tokens=4), top_k=2)
    asked = ["inspect", text, "--max-tokens", "4"]
    said: dict[str, Any] = json.loads(runner.invoke(app, [*asked, "--json", "--alternatives", "2"]).stdout)
    assert said == json.loads(json.dumps(made.to_json()))
    harassment = next(s for s in said["messages"][0]["strips"] if s["category"] == "harassment")
    assert harassment["crossings"]["block"] is not None
    assert {strip["stage"] for strip in said["messages"][1]["strips"]} == {"output"}
    table = runner.invoke(app, asked).stdout
    assert f"lies above {harassment['thresholds']['block']:.2f} (block)" in table
    assert 'class="n cross"' in page(made.to_json())
