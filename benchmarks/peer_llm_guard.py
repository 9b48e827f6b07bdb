"""llm-guard's scanners that need no downloaded model, timed in its own environment: texts in, milliseconds out.

Run by the interpreter of that environment, which has neither this kit nor the same transformers. Standard input is
JSON, `{"texts": [...], "repeats": n}`; standard output the least milliseconds of all scanners together for each text.
Left out is what downloads: Anonymize (personal data), BanTopics, PromptInjection and the like, TokenLimit's encoding.
"""

from __future__ import annotations

import json
import sys
import time


def main() -> int:
    """Measure what standard input asks for."""
    from llm_guard.input_scanners import BanSubstrings, InvisibleText, Regex, Secrets  # type: ignore[import-not-found]
    from llm_guard.util import configure_logger  # type: ignore[import-not-found]

    configure_logger("ERROR")
    asked = json.load(sys.stdin)
    scanners = [
        BanSubstrings(substrings=["project bluebird", "swordfish", "forbidden word"], match_type="word"),
        Regex(patterns=[r"\bPRJ-\d{4}\b"]),
        Secrets(),
        InvisibleText(),
    ]

    def scan(text: str) -> float:
        begin = time.perf_counter()
        for scanner in scanners:
            text = scanner.scan(text)[0]
        return 1000 * (time.perf_counter() - begin)

    for text in asked["texts"][:20]:
        scan(text)
    json.dump([min(scan(text) for _ in range(asked["repeats"])) for text in asked["texts"]], sys.stdout)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
