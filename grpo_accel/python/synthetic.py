"""Made-up batches of the shapes that a configuration asks for, or that its probe was trained on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from .library import Batch, Session
from .probe_file import read_texts

ROWS, PROMPTS = 8, 4  # of a rank's batch; each prompt on every rank
HEADS, HEAD_SIZE = 2, 16


@dataclass(frozen=True)
class Shapes:
    """As begin_batch takes them: latents [channels, height, width], tokens [height, width]."""

    model: str = "made-up/transformer"
    steps_total: int = 10
    latent: tuple[int, int, int] = (4, 16, 16)
    tokens: tuple[int, int] = (8, 8)
    text_tokens: int = 12
    block_names: tuple[str, ...] = tuple(f"transformer_blocks.{i}.attn" for i in range(12))
    hidden_values: int = 16
    prompt_values: int = 16
    scores: int = 1

    @property
    def sigmas(self) -> list[float]:
        return [1 - step / self.steps_total for step in range(self.steps_total + 1)]


def _layout(schema: str) -> dict[str, tuple[int, int, int]]:
    """ "attention:20x8x8@0;preview:1x1x1@1280" → channels, height, width by input."""
    layout = {}
    for part in schema.split(";"):
        name, _, rest = part.partition(":")
        channels, height, width = (int(number) for number in rest.split("@")[0].split("x"))
        layout[name] = channels, height, width
    return layout


def _names(choice: str, named: list[str], count: int) -> tuple[str, ...]:
    if choice == "named":
        return tuple(named)
    pattern = "down_blocks.1.attentions.{}.attn2" if choice == "last_encoder" else "transformer_blocks.{}.attn"
    return tuple(pattern.format(number) for number in range(count))


def shapes_for(rehearsal: dict[str, Any]) -> Shapes:
    """Shapes that fit the plan of a dry run, and its probe where it has one."""
    choice, named = rehearsal["blocks"], rehearsal["block_names"]
    steps_total = max(Shapes.steps_total, rehearsal["last_step"] + 2)
    plain = Shapes(steps_total=steps_total, block_names=_names(choice, named, 12))
    if rehearsal["probe"] is None:
        return plain
    texts = read_texts(rehearsal["probe"])
    layout = _layout(texts["schema"])
    attention, maps = layout.get("attention"), layout.get("x0") or layout.get("cfg")
    blocks = max(attention[0] // rehearsal["statistics"], 1) if attention else len(plain.block_names)
    scores = [layout[name][0] for name in ("preview", "lookahead", "distilled") if name in layout]
    return replace(
        plain, model=texts["model"], steps_total=int(texts["steps_total"]),
        latent=maps or plain.latent, tokens=attention[1:] if attention else plain.tokens,
        block_names=_names(choice, named, blocks),
        hidden_values=layout.get("hidden", (plain.hidden_values,))[0],
        prompt_values=layout.get("prompt", (plain.prompt_values,))[0], scores=scores[0] if scores else 1,
    )


class Rollouts:
    """One rank's batch: rewards first, then signals that tell something of them. The same in every run."""

    def __init__(self, shapes: Shapes, inputs: set[str], rank: int):
        self.shapes = shapes
        self.inputs = inputs
        self.random = np.random.default_rng((7, rank))
        self.prompts = [f"made-up prompt {row % PROMPTS}" for row in range(ROWS)]
        self.rewards = self.random.standard_normal(ROWS)

    def begin(self, session: Session) -> Batch:
        shapes = self.shapes
        return session.begin_batch(
            rows=ROWS, steps_total=shapes.steps_total, model=shapes.model, sigmas=shapes.sigmas, prompts=self.prompts,
            latent_shape=shapes.latent, token_shape=shapes.tokens, block_names=shapes.block_names,
            text_tokens=shapes.text_tokens, hidden_values=shapes.hidden_values, prompt_values=shapes.prompt_values,
            scores_per_preview=shapes.scores,
        )

    def _tensor(self, *shape: int) -> torch.Tensor:
        return torch.from_numpy(self.random.standard_normal(shape).astype(np.float32))

    def observe(self, batch: Batch, step: int, kept: list[int]) -> None:
        """All signals of the rows that run, after `step` steps."""
        rows, shapes = len(kept), self.shapes
        if "attention" in self.inputs:
            image = shapes.tokens[0] * shapes.tokens[1]
            for tap in range(len(batch.blocks())):
                query, key_image = (self._tensor(rows, HEADS, image, HEAD_SIZE) for _ in range(2))
                content = torch.ones(rows, shapes.text_tokens, dtype=torch.uint8)
                key_text = self._tensor(rows, HEADS, shapes.text_tokens, HEAD_SIZE)
                batch.observe_attention(tap, query, key_image, key_text, content)
        if "x0" in self.inputs:
            latent, velocity = (self._tensor(rows, *shapes.latent) for _ in range(2))
            batch.observe_latent(latent, velocity, shapes.sigmas[step])
        if "cfg" in self.inputs:
            batch.observe_guidance(self._tensor(rows, *shapes.latent), self._tensor(rows, *shapes.latent))
        for name, values in (("hidden", shapes.hidden_values), ("prompt", shapes.prompt_values)):
            if name in self.inputs:
                batch.observe_vectors(name, self._tensor(rows, values))
        for name in ("preview", "lookahead", "distilled"):
            if name in self.inputs:
                noise = 0.5 * self.random.standard_normal((rows, shapes.scores))
                batch.observe_scores(name, self.rewards[kept, None] + noise)
