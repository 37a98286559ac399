"""The world's language: what a prompt may say, and the fixed prompt lists.

A prompt belongs to one of four kinds, named after GenEval's tasks:

=========  ==========================================
one        ``a red circle``
two        ``a red circle and a blue square``
counting   ``three green triangles``
position   ``a red circle left of a blue square``
=========  ==========================================
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

IMAGE_SIZE = 32
COLOURS = ("red", "green", "blue", "yellow")
SHAPES = ("circle", "square", "triangle", "cross")
RELATIONS = ("left of", "right of", "above", "below")
NUMBERS = {2: "two", 3: "three", 4: "four"}
KINDS = ("one", "two", "counting", "position")

PLURALS = {"circle": "circles", "square": "squares", "triangle": "triangles", "cross": "crosses"}
PROMPT_FOLDER = Path(__file__).parent / "prompts"
HELD_OUT_PER_KIND = {"one": 4, "two": 40, "counting": 12, "position": 40}


@dataclass(frozen=True)
class Spec:
    """What a prompt asks for.

    ``objects`` lists every object that has to be seen as (colour index, shape index); an object that is
    asked for three times is listed three times. ``relation`` says where the first object lies as seen
    from the second one.
    """

    kind: str
    objects: tuple[tuple[int, int], ...]
    relation: str | None = None


def to_prompt(spec: Spec) -> str:
    """The sentence that asks for ``spec``."""
    colour, shape = spec.objects[0]
    if spec.kind == "counting":
        return f"{NUMBERS[len(spec.objects)]} {COLOURS[colour]} {PLURALS[SHAPES[shape]]}"
    nouns = [f"a {COLOURS[c]} {SHAPES[s]}" for c, s in spec.objects]
    if spec.kind == "one":
        return nouns[0]
    return f"{nouns[0]} {spec.relation or 'and'} {nouns[1]}"


@lru_cache(maxsize=None)
def parse(prompt: str) -> Spec:
    """The inverse of :func:`to_prompt`; raises ``ValueError`` for a sentence outside the language."""
    text = " ".join(prompt.strip().lower().rstrip(".").split())
    try:
        words = text.split()
        for number, word in NUMBERS.items():
            if words[0] == word and len(words) == 3:
                singular = {plural: shape for shape, plural in PLURALS.items()}[words[2]]
                return Spec("counting", ((COLOURS.index(words[1]), SHAPES.index(singular)),) * number)
        for link in ("and",) + RELATIONS:
            first, separator, second = text.partition(f" {link} ")
            if separator:
                kind = "two" if link == "and" else "position"
                return Spec(kind, (_parse_noun(first), _parse_noun(second)), None if link == "and" else link)
        return Spec("one", (_parse_noun(text),))
    except (ValueError, KeyError, IndexError):
        raise ValueError(f"not a prompt of the shapes world: {prompt!r}") from None


def _parse_noun(text: str) -> tuple[int, int]:
    article, colour, shape = text.split()
    if article not in ("a", "an"):
        raise ValueError(text)
    return COLOURS.index(colour), SHAPES.index(shape)


def all_specs(kind: str) -> list[Spec]:
    """Every prompt of one kind, in a fixed order; the two objects of a pair always differ."""
    nouns = list(itertools.product(range(len(COLOURS)), range(len(SHAPES))))
    pairs = list(itertools.permutations(nouns, 2))
    if kind == "one":
        return [Spec(kind, (noun,)) for noun in nouns]
    if kind == "counting":
        return [Spec(kind, (noun,) * number) for number in NUMBERS for noun in nouns]
    if kind == "two":
        return [Spec(kind, pair) for pair in pairs]
    if kind == "position":
        return [Spec(kind, pair, relation) for relation in RELATIONS for pair in pairs]
    raise ValueError(f"unknown kind: {kind!r}")


def split_prompts(seed: int = 0) -> tuple[list[str], list[str]]:
    """(train, held out): disjoint, and together the whole language."""
    train, held_out = [], []
    for kind in KINDS:
        prompts = [to_prompt(spec) for spec in all_specs(kind)]
        random.Random(f"{seed} {kind}").shuffle(prompts)
        held_out += prompts[: HELD_OUT_PER_KIND[kind]]
        train += prompts[HELD_OUT_PER_KIND[kind] :]
    return train, held_out


def load_prompts(split: str) -> list[str]:
    """The committed list ``train`` or ``test`` (one prompt a line, the layout that flow-grpo reads)."""
    return (PROMPT_FOLDER / f"{split}.txt").read_text().split("\n")[:-1]


def write_prompts() -> None:
    """Writes the two committed lists anew; they only change where the language does."""
    PROMPT_FOLDER.mkdir(exist_ok=True)
    for name, prompts in zip(("train", "test"), split_prompts()):
        (PROMPT_FOLDER / f"{name}.txt").write_text("".join(f"{prompt}\n" for prompt in prompts))


def words() -> list[str]:
    """The vocabulary of the language, sorted."""
    return sorted({word for kind in KINDS for spec in all_specs(kind) for word in to_prompt(spec).split()})


if __name__ == "__main__":
    write_prompts()
