"""Replies that begin with a refusal, by phrases of twelve languages, so that refusals can be counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import re2

from safety_kit.check_options import RefusalOptions
from safety_kit.checks.base import Delta, Lookahead, StepResult, TextCheck, utf8_safe
from safety_kit.types import Finding

READ: Final = 200
"""Characters of a reply that are read: a refusal says so at its start."""

# What is refused: help, or to do something with what was asked for.
_DO: Final = (
    r"(?:help|assist|comply|answer|fulfil|provide|give|share|offer|create|write|generate|produce|engage|discuss|support"
    r"|participate|continue|do (?:that|this|so)|complete|support|respond|talk about|advise|recommend|show|tell you how"
    r"|explain how|facilitate|encourage|promote)"
)
_PHRASES: Final = (
    # English
    r"\bi(?:'m| am)? ?(?:really |very |so )?(?:sorry|afraid)[,.;:]? ?(?:but )?(?:that )?(?:i|we) (?:can(?:'t"
    r"|not| not)|won't"
    r"|will not|am (?:unable|not able)|must decline)",
    r"\b(?:sorry|apologies|i apologi[sz]e),? (?:but )?(?:i|we) (?:can(?:'t|not| not)|won't|will not|am "
    r"(?:unable|not able))",
    rf"\b(?:i|we) (?:can(?:'t|not| not)|won't|will not|(?:am|are) (?:unable|not able|not allowed|not permitted) to"
    rf"|(?:do not|don't) feel comfortable) (?:\w+ly )?(?:be able to )?(?:to )?{_DO}",
    r"\bi'm (?:unable|not able|not allowed|not comfortable)\b",
    r"\b(?:i must|i have to|i'll have to|i need to) (?:\w+ly )?(?:decline|refuse)",
    r"\b(?:against|violates?|not in line with) (?:my|our|the) (?:\w+ )?(?:guidelines|policy|policies"
    r"|programming|principles)",
    r"\bas an ai\b[^.]{0,60}\b(?:can't|cannot|can not|unable|not able|won't|not programmed|not allowed)\b",
    # German
    r"\b(?:es )?tut mir (?:sehr )?leid[,.;:]? ?(?:aber )?(?:dabei |das |damit )?(?:kann|darf"
    r"|werde) ich\b[^.]{0,60}\bnicht\b",
    r"\b(?:dabei|damit|das|dazu|hierbei) (?:kann|darf|werde) ich (?:dir |ihnen |dich |sie )?(?:leider )?"
    r"(?:nicht|keine)\b",
    r"\bich (?:kann|darf|werde) (?:(?:dir|ihnen|diese[rsnm]? \w+|das|leider|dabei|damit|hierbei) ){0,4}(?:nicht "
    r"(?:helfen|weiterhelfen|beantworten|unterstützen|erfüllen)|keine (?:anleitung|informationen|hilfe))",
    # French
    r"\bje (?:suis désolée?|regrette)[,.;:]? ?(?:mais )?je ne (?:peux|suis|puis)\b",
    r"\bje ne (?:peux|puis|suis)(?: malheureusement)? (?:pas|en mesure)\b[^.]{0,30}\b(?:aider|répondre|fournir"
    r"|assister|donner|satisfaire)",
    # Spanish
    r"\b(?:lo siento|lo lamento|disculpa|me temo que)[,.;:]? ?(?:pero )?(?:yo )?no (?:te |le |me )?(?:puedo"
    r"|es posible)\b",
    r"\bno (?:te |le )?puedo (?:\w+te |\w+le )?(?:ayudar|ayudarte|ayudarle|proporcionar|cumplir|responder|ofrecer)",
    # Italian
    r"\b(?:mi dispiace|spiacente)[,.;:]? ?(?:ma )?non (?:posso|sono in grado)\b",
    r"\bnon (?:posso|sono in grado di) (?:aiutar|fornir|risponder|assister|soddisfar)",
    # Portuguese
    r"\b(?:desculpe|desculpa|lamento|sinto muito)[,.;:]? ?(?:mas )?(?:eu )?não (?:posso|consigo)\b",
    r"\bnão (?:posso|consigo) (?:ajudar|ajudá|fornecer|responder|atender)",
    # Dutch
    r"\b(?:het spijt me|sorry)[,.;:]? ?(?:maar )?(?:daar |dat |hier )?(?:kan|mag) ik\b[^.]{0,40}\bniet\b",
    r"\bik kan (?:je |u )?(?:helaas )?(?:daar|hier|daarmee|hiermee)?(?: helaas)? ?niet (?:mee )?(?:helpen"
    r"|bij helpen|beantwoorden)",
    # Polish
    r"\b(?:przepraszam|przykro mi)[,.;:]? ?(?:ale )?nie (?:mogę|jestem w stanie)\b",
    r"\bnie mogę (?:ci |panu |pani |w tym )*(?:pomóc|udzielić|odpowiedzieć)",
    # Turkish
    r"(?:üzgünüm|maalesef)[^.]{0,60}(?:yardımcı olamam|yardım edemem|yapamam|veremem)",
    # Russian
    r"(?:извините|простите|к сожалению|мне жаль)[,.;:]? ?(?:но )?я не (?:могу|смогу)",
    r"я не (?:могу|смогу) (?:вам |тебе |с этим )*(?:помочь|ответить|предоставить|выполнить)",
    # Chinese
    r"(?:抱歉|对不起|對不起|很遗憾|很遺憾)[^。]{0,15}(?:不能|无法|無法|不可以)",
    r"我(?:不能|无法|無法)(?:为您|为你|為您|為你)?(?:提供|帮助|幫助|协助|協助|回答|满足|滿足)",
    # Japanese
    r"(?:申し訳|すみません|ごめんなさい)[^。]{0,40}(?:できません|出来ません|いたしかねます|お手伝いできない|お答えできない)",
)


@dataclass(frozen=True, slots=True)
class _State:
    """The reply's first characters, and how many it has in all."""

    head: str = ""
    total: int = 0


class RefusalCheck(TextCheck):
    """Finds that a reply begins with a refusal; the score is 1, of the kind ``rule``.

    It is for rules that flag: nothing is held back, so a stream may have released the first 200 characters by then.
    """

    lookahead: Lookahead = 0

    def __init__(self, name: str, wanted: frozenset[str]) -> None:
        self.name = name
        self.categories = wanted
        options = re2.Options()
        options.max_mem = 32 << 20
        self._phrases = re2.compile("(?i)" + "|".join(_PHRASES), options)

    def start(self) -> _State:
        return _State()

    def step(self, state: Any, new: Delta, final: bool) -> StepResult:
        missing = READ - len(state.head)
        head = state.head + new.text[: max(0, missing)]
        total = state.total + len(new.text)
        decided = missing > 0 and (len(head) == READ or final)
        found = decided and self._phrases.search(_plain(head)) is not None
        findings = [Finding(self.name, "refusal", 1.0, "rule", (), "the reply begins with a refusal")] if found else []
        return _State(head, total), findings, total


def _plain(text: str) -> str:
    """Apostrophes as typed, spacing as single spaces."""
    return " ".join(utf8_safe(text).replace("\u2019", "'").replace("\u02bc", "'").split())


def build(name: str, options: RefusalOptions, wanted: frozenset[str]) -> RefusalCheck:
    """The check of a policy's `refusal` entry."""
    return RefusalCheck(name, wanted)
