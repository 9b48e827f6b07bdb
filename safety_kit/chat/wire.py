"""The words of a chat completion on the wire: which fields and types there are, and what they hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from safety_kit.types import Role

ROLES: Final[Mapping[str, Role]] = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
"""The roles that a message may have, and what a sample calls them."""

_SETTINGS = """
audio frequency_penalty logit_bias logprobs max_completion_tokens max_tokens metadata min_p modalities model moderation
n parallel_tool_calls presence_penalty prompt_cache_key prompt_cache_options prompt_cache_retention reasoning_effort
repetition_penalty safety_identifier seed service_tier stop store stream stream_options temperature timeout top_k
top_logprobs top_p user verbosity
"""
SETTINGS: Final = frozenset(_SETTINGS.split())
"""Fields of a request that steer the server and are not read by the model."""

_RECORDS = "created id model object obfuscation service_tier system_fingerprint usage"
RECORDS: Final = frozenset(_RECORDS.split())
"""Fields of a response, or of a chunk, that the server writes."""

_MESSAGE = "audio content function_call name reasoning reasoning_content refusal role tool_call_id tool_calls"
MESSAGE_FIELDS: Final = frozenset(_MESSAGE.split())
"""Fields of a message that are read by name."""

_SCHEMA = """
additionalProperties allOf anyOf array boolean const custom default description enum format function
input_schema integer items json_schema maximum minimum name null number object oneOf parameters properties
required schema strict string title type
"""
SCHEMA_WORDS: Final = frozenset(_SCHEMA.split())
"""JSON Schema's own words and those around it: as keys and types they are grammar, not texts."""

TEXT_PARTS: Final[Mapping[str, str]] = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "refusal": "refusal",
}
"""Part types that hold a text, and the field that holds it."""

MEDIA_PARTS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("image_url", "input_image", "image", "output_image"), "image"),
    **dict.fromkeys(("input_audio", "audio", "output_audio"), "audio"),
    **dict.fromkeys(("video_url", "input_video", "video"), "video"),
    **dict.fromkeys(("file", "input_file", "document"), "file"),
}
"""Part types that no check can read, and what they are; any other type is a ``part``."""

PAYLOADS: Final = frozenset({"data", "file_data", "b64_json"})
"""Fields of such a part that hold it, encoded."""
