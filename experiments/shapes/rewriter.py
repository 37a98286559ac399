"""Clumsy wordings of the world's prompts, and a rewriter by rule that mends one flaw a call and slips at times.

The model knows the world's own words and their order. ``crimson`` reaches it as letters, ``circle red`` as words in an
order that it was never trained on, ``on the left of`` as more words than it reads. Every flaw keeps the meaning:
``meaning`` finds the prompt that was intended.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable

import numpy as np

from .world import COLOURS, NUMBERS, PLURALS, RELATIONS, SHAPES

COLOUR_WORDS = {"red": ("crimson", "ruby"), "green": ("lime", "olive"), "blue": ("azure", "navy"), "yellow": ("amber", "golden")}
SHAPE_WORDS = {"circle": ("disc", "ball"), "square": ("box", "tile"), "triangle": ("wedge", "cone"), "cross": ("plus", "x")}
LINK_WORDS = {
    "and": ("with", "also", ","), "left of": ("to the left of", "before"), "right of": ("to the right of", "behind"),
    "above": ("over", "on top of"), "below": ("under", "beneath"),
}
FILLERS = ("some", "draw", "nice", "one")
SINGULAR = {plural: shape for shape, plural in PLURALS.items()}
DIGITS = {word: str(number) for number, word in NUMBERS.items()}
LINKS = ("and", *RELATIONS)
FLAWS = ("colour", "shape", "link", "order", "article", "number", "plural", "filler")


def _chooser(seed: int, text: str) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, zlib.crc32(text.encode())]))


def _replace_first(text: str, pairs: Iterable[tuple[str, str]]) -> str:
    """The first word (or words) of ``text`` that one of the pairs knows, replaced."""
    known = dict(pairs)
    choices = "|".join(re.escape(word) for word in sorted(known, key=len, reverse=True))
    return re.sub(rf"(?<!\S)({choices})(?!\S)", lambda match: known[match[0]], text, count=1)


def _synonyms(table: dict[str, tuple[str, ...]]) -> list[tuple[str, str]]:
    return [(synonym, word) for word, synonyms in table.items() for synonym in synonyms]


# ---------------------------------------------------------------------- mending


def _mend_article(text: str) -> str:
    """A noun that stands without one gets its article; nouns that are counted need none."""
    if set(text.split()) & (set(NUMBERS.values()) | set(DIGITS.values())):
        return text
    phrases = re.split(rf" ({'|'.join(LINKS)}) ", text)
    for at in range(0, len(phrases), 2):
        if phrases[at].split()[:1] != ["a"]:
            phrases[at] = f"a {phrases[at]}"
            break
    return " ".join(phrases)


def _mend_plural(text: str) -> str:
    counted = set(text.split()) & (set(NUMBERS.values()) | set(DIGITS.values()))
    return _replace_first(text, PLURALS.items()) if counted else text


_SHAPES_ALL = "|".join([*PLURALS, *SINGULAR])
MENDS: dict[str, Callable[[str], str]] = {
    "filler": lambda text: " ".join(_replace_first(text, [(word, "") for word in FILLERS]).split()),
    "link": lambda text: _replace_first(text, _synonyms(LINK_WORDS)),
    "colour": lambda text: _replace_first(text, _synonyms(COLOUR_WORDS)),
    "shape": lambda text: _replace_first(text, _synonyms(SHAPE_WORDS)),
    "number": lambda text: _replace_first(text, [(digit, word) for word, digit in DIGITS.items()]),
    "plural": _mend_plural,
    "order": lambda text: re.sub(rf"\b({_SHAPES_ALL}) ({'|'.join(COLOURS)})\b", r"\2 \1", text, count=1),
    "article": _mend_article,
}


def flaws(text: str) -> list[str]:
    """Kinds of flaws that ``text`` has. Order and articles are seen once the words are known."""
    found = [kind for kind, mend in MENDS.items() if kind not in ("order", "article") and mend(text) != text]
    if not {"link", "filler", "colour", "shape"} & set(found):
        found += [kind for kind in ("order", "article") if MENDS[kind](text) != text]
    return found


def meaning(text: str) -> str:
    """The prompt of the world that ``text`` means; a text without flaws means itself."""
    while found := flaws(text):
        text = MENDS[found[0]](text)
    return text


# ---------------------------------------------------------------------- flawing


def _flaw(text: str, kind: str, draw: np.random.Generator) -> str:
    """``text`` with one more flaw of a kind; itself where that kind can't be."""
    tables = {"colour": COLOUR_WORDS, "shape": SHAPE_WORDS, "link": LINK_WORDS}
    if kind in tables:
        words = [word for word in tables[kind] if re.search(rf"(?<!\S)(?<!to the ){word}(?!\S)", text)]
        if not words:
            return text
        word = str(draw.choice(words))
        return _swap(text, word, str(draw.choice(tables[kind][word])))
    if kind == "order":
        pairs = re.findall(rf"\b({'|'.join(COLOURS)}) ({_SHAPES_ALL})\b", text)
        if not pairs:
            return text
        colour, shape = pairs[draw.integers(len(pairs))]
        return _swap(text, f"{colour} {shape}", f"{shape} {colour}")
    if kind == "article":
        return text if not re.search(r"\ba ", text) else re.sub(r"\ba ", "", text, count=int(draw.integers(0, 2)))
    if kind == "number":
        return _replace_first(text, DIGITS.items())
    if kind == "plural":
        return _replace_first(text, SINGULAR.items())
    return text if text.split()[0] in FILLERS else f"{draw.choice(FILLERS)} {text}"


def _swap(text: str, old: str, new: str) -> str:
    return re.sub(rf"\b{re.escape(old)}\b", new, text, count=1)


def clumsy(prompt: str, seed: int, least: int = 2, most: int = 5) -> str:
    """A wording of the world's ``prompt`` with so many flaws."""
    draw = _chooser(seed, prompt)
    wanted, text = int(draw.integers(least, most + 1)), prompt
    for kind in draw.permutation([*FLAWS, *FLAWS]):
        if wanted and (worse := _flaw(text, str(kind), draw)) != text and meaning(worse) == prompt:
            text, wanted = worse, wanted - 1
    return text


# ---------------------------------------------------------------------- the rewriter


class Rewriter:
    """``rewriter(prompt, tried) -> str``: mends one flaw of ``prompt``; with probability ``slip`` it adds one instead.

    The same for the same seed, prompt and number of tries.
    """

    def __init__(self, seed: int = 0, slip: float = 0.25):
        self.seed, self.slip = seed, slip

    def __call__(self, prompt: str, tried) -> str:
        draw = _chooser(self.seed, f"{len(tried)} {prompt}")
        found = flaws(prompt)
        if found and draw.random() >= self.slip:
            return MENDS[str(draw.choice(found))](prompt)
        means = meaning(prompt)
        for kind in draw.permutation(FLAWS):
            worse = _flaw(prompt, str(kind), draw)
            if worse != prompt and meaning(worse) == means:
                return worse
        return prompt


rewrite = Rewriter()
