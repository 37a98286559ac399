"""Who finds other words for a prompt: a callable, or a chat endpoint."""

from __future__ import annotations

import http.client
import importlib
import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any

from .library import GrpoAccelError

PROMPT_BYTES_MAX = 8192
ANSWER_BYTES_MAX = 1 << 20
TRIED_SHOWN = 8
KEY_VARIABLE = "GRPO_ACCEL_REWRITER_KEY"
INSTRUCTIONS = (
    "You improve prompts of a text-to-image model. You are given the newest prompt and those that were tried, with a predicted "
    "reward each (higher is better). Keep what is asked for. Answer with one better prompt and nothing else.")


class RewriterFailed(RuntimeError):
    """No other wording is to be had; what was tried so far stands."""


def checked(text: Any) -> str:
    """The rewriter's answer as a prompt."""
    if not isinstance(text, str):
        raise RewriterFailed(f"the rewriter gave {type(text).__name__} and no text")
    text = text.strip()
    if not text:
        raise RewriterFailed("the rewriter gave an empty text")
    if len(text.encode("utf-8", "replace")) > PROMPT_BYTES_MAX:
        raise RewriterFailed(f"the rewriter gave more than {PROMPT_BYTES_MAX} bytes")
    return text


def rewriter_of(text: str, model: str | None = None, timeout_seconds: float = 30.0) -> Callable[..., str]:
    """MODULE:FUNCTION, or the URL of an OpenAI-compatible endpoint."""
    if text.startswith(("http://", "https://")):
        return ChatRewriter(text, model=model, timeout_seconds=timeout_seconds)
    module, _, name = text.partition(":")
    sys.path.insert(0, "")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as reason:
        raise GrpoAccelError("argument", f"--rewriter {text}: {reason}") from reason


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """The key goes to the given host only."""

    def redirect_request(self, *_: Any) -> None:
        return None


class ChatRewriter:
    """Asks `URL/chat/completions` (or URL, where it ends so). The key comes from $GRPO_ACCEL_REWRITER_KEY, where that is set.

    An answer has `timeout_seconds` in all, retries included a few times that: 429, 5xx and lost connections are asked again
    `retries` times, with pauses that double from `pause_seconds`. Not thread-safe.
    """

    def __init__(
        self, url: str, *, model: str | None = None, timeout_seconds: float = 30.0, retries: int = 2,
        pause_seconds: float = 1.0, instructions: str = INSTRUCTIONS,
    ):
        url = url.rstrip("/")
        self.url = url if url.endswith("/chat/completions") else f"{url}/chat/completions"
        self.model = model or "default"
        self.timeout_seconds, self.retries, self.pause_seconds = timeout_seconds, retries, pause_seconds
        self.instructions = instructions
        self._opener = urllib.request.build_opener(_NoRedirects())

    def __call__(self, prompt: str, tried: Sequence[Any]) -> str:
        shown = [{"prompt": one.prompt, "prediction": round(one.prediction, 4) if one.prediction == one.prediction else None}
                 for one in tried[-TRIED_SHOWN:]]
        body = json.dumps({
            "model": self.model, "max_tokens": 512,
            "messages": [
                {"role": "system", "content": self.instructions},
                {"role": "user", "content": json.dumps({"prompt": prompt, "tried": shown}, ensure_ascii=False)},
            ],
        }).encode()
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(self.pause_seconds * 2 ** (attempt - 1))
            try:
                return self._text_of(self._post(body))
            except _Again as reason:
                failed = str(reason)
        raise RewriterFailed(f"{self.url}: {failed} ({self.retries + 1} times)")

    def _post(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json"}
        key = os.environ.get(KEY_VARIABLE)
        if key:
            headers["Authorization"] = f"Bearer {key}"
        deadline = time.monotonic() + self.timeout_seconds
        try:
            request = urllib.request.Request(self.url, data=body, headers=headers)
            with self._opener.open(request, timeout=self.timeout_seconds) as answer:
                return self._read(answer, deadline)
        except urllib.error.HTTPError as reason:
            with reason:
                if reason.code == 429 or reason.code >= 500:
                    raise _Again(f"HTTP {reason.code}") from None
                raise RewriterFailed(f"{self.url}: HTTP {reason.code}") from None
        except (OSError, http.client.HTTPException) as reason:
            raise _Again(type(reason).__name__ if not str(reason) else str(reason)) from None
        except ValueError as reason:
            raise RewriterFailed(f"{self.url}: {type(reason).__name__}") from None

    def _read(self, answer: Any, deadline: float) -> bytes:
        """All of it, though it may come a byte at a time."""
        parts, size = [], 0
        while part := answer.read1(65536):
            parts.append(part)
            size += len(part)
            if size > ANSWER_BYTES_MAX:
                raise RewriterFailed(f"{self.url}: an answer of more than {ANSWER_BYTES_MAX} bytes")
            if time.monotonic() > deadline:
                raise _Again(f"no whole answer within {self.timeout_seconds:g} s")
        return b"".join(parts)

    def _text_of(self, answer: bytes) -> str:
        try:
            text = json.loads(answer)["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError, RecursionError):
            raise RewriterFailed(f"{self.url}: the answer is no chat completion") from None
        return checked(text.strip().strip("\"'`") if isinstance(text, str) else text)


class _Again(Exception):
    """May go better a second time."""
