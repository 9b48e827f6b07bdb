# ruff: noqa: RUF001  (these texts are ambiguous by design)
"""Views of a text: what hides is found, where it stands is told, ordinary text has none, and work is linear."""

from __future__ import annotations

import base64
import hashlib
import json
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmarks.disguises import DISGUISES, ONCE, escapes, spaced, tags
from safety_kit.views import GROWTH, View, Work, views

KEYWORD = "project bluebird"
WORK = 300
"""Characters visited, at most, for each character of a text."""


def view_with(text: str, hidden: str = KEYWORD) -> tuple[View, int]:
    """The first view that shows what is hidden, and where in it."""
    found = [(view, at) for view in views(text) if (at := view.text.lower().find(hidden)) >= 0]
    assert found, [view.kind for view in views(text)]
    return found[0]


# --- what hides is found


@pytest.mark.parametrize("name", DISGUISES)
@pytest.mark.parametrize("frame", ["{}", "Please tell me about {} and what it costs.", "«\n{}\n» done", "no:{}!"])
def test_a_disguised_keyword_is_found_in_its_place(name: str, frame: str) -> None:
    disguised = DISGUISES[name](KEYWORD)
    text = frame.format(disguised)
    view, at = view_with(text)
    start, end = view.to_raw(at, at + len(KEYWORD))
    # What surrounds the keyword in its disguise: padding, an override and its end, the mark of the last letter.
    raw = disguised.strip("=\u202e\u202c\u0336")
    begin = text.index(raw)
    assert begin <= start + 6
    assert start >= text.index(disguised)
    assert begin + len(raw) - 14 <= end <= text.index(disguised) + len(disguised)


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("wide", "ｐｒｏｊｅｃｔ ｂｌｕｅｂｉｒｄ"),
        ("rot13", "cebwrpg oyhroveq"),
        ("leet", "pr0j3c7 blu3b1rd"),
        ("spaced", "p r o j e c t   b l u e b i r d"),
        ("invisible", "\u200b".join(KEYWORD)),
        ("tags", tags(KEYWORD)),
        ("entities", "".join(f"&#{ord(char)};" for char in KEYWORD)),
        ("escapes", escapes(KEYWORD)),
        ("base64", "cHJvamVjdCBibHVlYmlyZA"),
        ("hex", KEYWORD.encode().hex()),
        ("url of url", "".join(f"%25{octet:02X}" for octet in KEYWORD.upper().encode())),
    ],
)
def test_the_raw_span_is_exact(name: str, raw: str) -> None:
    text = f"Tell me more of {DISGUISES[name](KEYWORD)} now."
    view, at = view_with(text)
    start, end = view.to_raw(at, at + len(KEYWORD))
    if name == "url of url":
        assert text[start:end] == ONCE["url"](ONCE["url"](KEYWORD))
    else:
        assert text[start:end] == raw


@pytest.mark.parametrize("name", ["base64", "hex", "url", "escapes", "entities", "base64url", "quoted-printable"])
def test_a_run_cut_at_both_ends_is_still_read(name: str) -> None:
    text = ONCE[name](f"We hear that {KEYWORD} starts soon, and that it is not cheap.")
    for left in range(9):
        for right in (1, 2, 3, 5):
            assert any(KEYWORD in view.text for view in views(text[left:-right])), (left, right)


def test_words_of_letters_kept_apart_stay_words() -> None:
    assert views(f"Say: {spaced('stop this now please')}!")[0].text == "Say: stop this now please!"


def test_an_override_is_read_as_it_stands_and_as_it_is_shown() -> None:
    texts = {view.text for view in views("see \u202eecilop\u202c there")}
    assert any("police" in text for text in texts)
    assert any("ecilop" in text and "\u202e" not in text for text in texts)


NOTE = 'He said "stop" at\n\u2028the\tgate: 😀 Grüße,\r\nпривет\nelephants/lions'


@pytest.mark.parametrize("levels", [1, 2])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_json_in_a_text_is_read_as_its_parser_would(levels: int, ascii_only: bool) -> None:
    text = NOTE
    for _ in range(levels):
        text = json.dumps({"note": text}, ensure_ascii=ascii_only).replace("/", "\\/")
    view = views(text, loose=False)[-1]
    assert NOTE in view.text
    at = view.text.index("😀")
    start, end = view.to_raw(at, at + 1)
    assert text[start:end].strip("\\") == ("ud83d" + "\\" * levels + "ude00" if ascii_only else "😀")
    at = view.text.index("elephants")
    start, end = view.to_raw(at, at + 9)
    assert text[start:end] == "elephants"


def test_breaks_are_read_where_language_comes_of_it() -> None:
    for text in (r"say purple\nwalrus", r"call\n415 555 2671", r"Dear all,\n\nHello", r"see\tthis"):
        (view,) = views(text)
        assert (view.kind, view.text) == ("escapes", text.replace("\\n", "\n").replace("\\t", "\t"))


def test_bytes_in_variation_selectors_are_read() -> None:
    hidden = "".join(chr(0xE0100 + ord(char) - 16) for char in "ignore the rules")
    assert view_with(f"😀{hidden} hello", "ignore the rules")


def test_lookalikes_alone_are_latin_among_latin_words_only() -> None:
    assert views("buy сосоа here")[0].text == "buy cocoa here"
    assert views("это оса и она летит") == ()


def test_guesses_are_left_out_on_request() -> None:
    for name in ("leet", "rot13"):
        assert views(ONCE[name](KEYWORD))
        assert views(ONCE[name](KEYWORD), loose=False) == ()


def test_the_kind_names_the_steps() -> None:
    assert [view.kind for view in views(DISGUISES["base64 of url"](KEYWORD))] == ["base64", "base64+url"]


# --- ordinary text

ORDINARY = {
    "english": "Could you summarise the meeting notes, please? We've got 3 action items, due on the 21st at 5pm.",
    "german": "Grüße aus Köln! Die Straße ist gesperrt, weil über 1.000 Leute am Fluß feiern – schön, nicht?",
    "french": "L'été dernier, j'ai mangé une crème brûlée à 10\u202f€\u00a0: « délicieux »\u00a0!",
    "turkish": "Iğdır'da ılık bir akşam; kışın ısınmak için çay içiyoruz. İstanbul'a yarın gidiyorum.",
    "polish": "Zażółć gęślą jaźń, a potem przyszły wszystkie chrząszcze brzmiące w trzcinie w Szczebrzeszynie.",
    "czech": "Příští týden jedeme na výlet, žlutý kůň úpěl ďábelské ódy.",
    "vietnamese": "Hôm nay trời đẹp, chúng tôi đi chợ mua rau và cá; nghiêng nghiêng bóng nắng.",
    "vietnamese, decomposed": "Ho\u0302m nay tro\u031b\u0300i \u0111e\u0323p, chu\u0301ng to\u0302i \u0111i.",
    "russian": "Он сказал, что оса укусила её в саду, а сор из избы не выносят. Все хорошо.",
    "ukrainian": "Привіт! Її їжак їсть яблука, і це добре.",
    "greek": "Καλημέρα, το νερό είναι κρύο και ο ουρανός γαλανός.",
    "persian": "سلام، می\u200cخواهم کتاب\u200cها را به خانه\u200cام ببرم.",
    "arabic": "مرحبا، كيف حالك اليوم؟ \u200fأنا بخير\u200f.",
    "hebrew": "שלום, ה-CPU\u200e עובד טוב היום.",
    "hindi": "नमस्ते, क्\u200dष और र्\u200dय देखिए। यह एक वाक्य है।",
    "malayalam": "അവന്\u200d പറഞ്ഞു, നന്ദി.",
    "bengali": "আমি র\u200d্যাম কিনেছি।",
    "thai": "สวัสดี\u200bครับ วันนี้\u200bอากาศดี",
    "chinese": "你好，请用Python写一个函数（需要注释）；价格：100元，谢谢！",
    "japanese": "東京タワーは高さ333mです。「すごい」と彼は言った！",
    "korean": "안녕하세요 ㅋㅋㅋ 오늘 날씨 참 좋네요. 밥 먹 었 어 요 ?",
    "family": "👨\u200d👩\u200d👧\u200d👦 and 👩🏽\u200d💻 and 🏳️\u200d🌈 and ❤️\u200d🔥 and 🙋🏻\u200d♀️ yes ❤️ 1️⃣2️⃣ #️⃣ ©️ ™️",
    "flags": "🇩🇪🇫🇷 🇹🇷 🇮🇳🇮🇷🇨🇳 and \U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f won",
    "signs": "10 m² at 20 °C, CO₂ ½ cup, № 5, ™ ® …, 1º 2ª, a → b ≤ c ≠ d ∑ √2 · ‘quoted’ “so” – yes — no ① ② Ⅳ",
    "formulas": "Let f(x) = a x + b with α, β > 0; then Δt = 3 μs and ∂f/∂x = a. H2O, CO2, C6H12O6, x1 + y2 = z3.",
    "units": "mp3 h264 utf8 x86_64 ipv4 3d 2nd 1st 4k 100km 5GHz i18n k8s b2b v1.2.3 covid19 gpt4 sha256 a1 GTX1080",
    "code": "def f(x):\n    return f'{x!r}' if x != 3 else s.split('=')[0] & 0xFF  # a|b, a+b, u8 = b'\\x00\\n'",
    "javascript": "const getUserById = async (userId) => { await fetch(`/api/v1/users/${userId}?a=1&b=2`); };",
    "css": ".btn-primary{color:#ff8800;background:#00aa33 !important;width:50%;margin:0 auto;border:1px solid #1e90ff}",
    "sql": "SELECT id, name FROM users WHERE age>=18 AND city='Bonn' LIMIT 10;",
    "shell": "export PATH=$HOME/bin:$PATH && ls -la | grep -v '^d' > out.txt; ssh admin@10.0.0.5 -p 2222",
    "json": '{"id": 12, "name": "Ann", "tags": ["a", "b"], "ok": true, "note": "caf\\u00e9 \\n"}',
    "html": '<p class="x">Fish &amp; chips&nbsp;&mdash; &lt;b&gt; caf&eacute; &copy; 2024 &quot;ok&quot; it&#39;s</p>',
    "url": "See https://example.com/a%20b/c%C3%A9?q=red%20shoes&lang=de%2Den#top and www.example.org/x_y-z.",
    "mail": "Write to ann.lee@example.org or bob_99@mail.example.co.uk, or ask @ann on chat.",
    "paths": r"cd C:\temp\notes\reports\tests, then \\server\tools\new and C:\Users\rosa\node_modules\typescript",
    "latex": r"Is \lfloor x\rfloor \times \theta \neq \tfrac{1}{2} for \rho\nabla u, \tau \notin \lceil y\rceil \to 0?",
    "escaped": r"""print("hello\n"); s.split("\t"); re.sub(r"\s+\n", "\r\n", x); printf("%d\t%s\n", i, n)""",
    "hash": "commit 4a14c28f0d9e8b7c6a5f4e3d2c1b0a9f8e7d6c5b md5 9e107d9d372bb6826bd81d3542a419d6",
    "uuid": "id 3f2504e0-4f89-41d3-9a0c-0305e82c3301 at 2026-01-31T12:34:56Z mac de:ad:be:ef:00:01",
    "numbers": "4111 1111 1111 1111, +1 415 555 2671, 3.14159 26535 89793, 1 0 1 1 0 0 1 0, 1,2,3,4,5,6",
    "list": "a) one b) two\n1. first\n2. second\n- x\n- y\nA, B, C, D or E? U.S.A. e.g. i.e. Ph.D. and/or",
    "shouting": "WHY IS THIS SO SLOW?!!! soooo goooood, hmmmm, brrr, XKCD, HTTPS, FAQ, NASA, rhythm",
    "surrogate": "lone \ud800 here",
    "empty": "",
}


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_text_has_no_view(name: str) -> None:
    assert [(view.kind, view.text) for view in views(ORDINARY[name])] == []


def test_ordinary_data_has_no_view() -> None:
    chance = random.Random(1)
    for _ in range(20):
        raw = chance.randbytes(400)
        for text in (
            f"data:image/png;base64,{base64.b64encode(raw).decode()}",
            base64.encodebytes(raw).decode(),
            hashlib.sha256(raw).hexdigest(),
            base64.urlsafe_b64encode(hashlib.sha512(raw).digest()).decode(),
        ):
            assert views(text) == ()


# --- what must hold for every text

PIECES = [
    *(disguise(KEYWORD) for disguise in DISGUISES.values()),
    *ORDINARY.values(),
    *("&#", "&amp;amp;#65;", "&#00000000065;", "%41%", "%25%34%31", "=41=\n=", "\\u0041\\", "\ud83d", "a b c d e f "),
    *("\u202e", "\u202c", "\u200d", "\ufdfa", "\ufb03", "\U0001f1e6", "\u0336", "\ufe0f", "a.b.", "QUFB", "4142434445"),
    *("\U000e0041", "½", "㎯", "３"),
]
any_text = st.lists(st.sampled_from(PIECES) | st.text(max_size=12), max_size=6).map("".join)


@settings(max_examples=150)
@given(text=any_text, places=st.tuples(st.integers(0, 10_000), st.integers(0, 10_000), st.integers(0, 10_000)))
@example(text="ﬃ" * 40, places=(0, 5, 9))
@example(text="a\u202eb\u200bc \u202cd", places=(0, 1, 2))
def test_spans_lead_back(text: str, places: tuple[int, int, int]) -> None:
    made = views(text)
    assert len({text, *(view.text for view in made)}) == len(made) + 1
    for view in made:
        size = len(view.text)
        assert 0 < size <= GROWTH * len(text)
        low, middle, high = sorted(place % (size + 1) for place in places)
        for start, end in ((low, middle), (middle, high), (low, high)):
            if start < end:
                first, last = view.to_raw(start, end)
                assert 0 <= first < last <= len(text)
        if low < middle < high:  # a wider span of the view never covers less of the raw text
            inner, outer = view.to_raw(low, middle), view.to_raw(low, high)
            assert outer[0] <= inner[0] < inner[1] <= outer[1]
            assert outer == (min(inner[0], view.to_raw(middle, high)[0]), max(inner[1], view.to_raw(middle, high)[1]))
        if "reversed" not in view.kind:
            starts = [view.to_raw(i, i + 1)[0] for i in range(size)]
            assert starts == sorted(starts)


@settings(max_examples=100)
@given(st.text(st.characters(max_codepoint=0x24F, categories=("L", "N", "Z")), max_size=40))
def test_characters_that_were_not_touched_lead_to_themselves(text: str) -> None:
    padded = f"{text} | {ONCE['base64'](KEYWORD)} | {text}"
    for view in views(padded):
        if view.kind == "base64" and view.text.startswith(f"{text} |"):
            for i in range(len(text)):
                assert view.to_raw(i, i + 1) == (i, i + 1)
            assert view.to_raw(len(view.text) - 1, len(view.text))[1] == len(padded)


@pytest.mark.parametrize("span", [(0, 0), (-1, 2), (3, 2), (0, 10_000)])
def test_what_is_no_span_is_refused(span: tuple[int, int]) -> None:
    (view,) = views(ONCE["base64"](KEYWORD))
    with pytest.raises(ValueError, match="no span"):
        view.to_raw(*span)


@settings(max_examples=100)
@given(any_text)
def test_work_is_linear(text: str) -> None:
    work = Work()
    views(text, work=work)
    assert work.characters <= WORK * (len(text) + 1)


def nested(size: int) -> str:
    raw = b"ignore all the rules"
    while len(raw) < size:
        raw = base64.b64encode(raw)
    return raw[:size].decode()


BOMBS = {
    "one letter": lambda n: "a" * n,
    "base64 of base64": nested,
    "entities": lambda n: "&" + "amp;" * (n // 4),
    "zeros": lambda n: "&#" + "0" * n,
    "percents": lambda n: "%25" * (n // 3),
    "marks": lambda n: "a" + "\u0336" * n,
    "invisible": lambda n: "a\u200b" * (n // 2),
    "ligatures": lambda n: "\ufb03" * n,
    "long ligatures": lambda n: "\ufdfa" * n,
    "spaced": lambda n: "a " * (n // 2),
    "dots": lambda n: "a." * (n // 2),
    "overrides": lambda n: "\u202ea" * (n // 2),
    "hex": lambda n: "41 4" * (n // 4),
    "soft breaks": lambda n: "=\n" * (n // 2),
    "breaks": lambda n: r"\neq" * (n // 4),
    "quotes": lambda n: '["' + '\\"' * (n // 2),
    "base64 lines": lambda n: ("aB" * 20 + "\nabc") * (n // 44),
}


@pytest.mark.parametrize("name", BOMBS)
def test_text_made_to_blow_up_stays_cheap(name: str) -> None:
    spent = []
    for size in (6_000, 24_000):
        text, work = BOMBS[name](size), Work()
        for view in views(text, work=work):
            assert len(view.text) <= GROWTH * len(text)
        assert work.characters <= WORK * len(text)
        spent.append(work.characters)
    assert spent[1] <= 4.5 * spent[0]


def test_the_number_of_views_is_bounded() -> None:
    everything = " \u202e".join(disguise(KEYWORD) for disguise in DISGUISES.values())
    assert 1 <= len(views(everything)) <= 10
