"""The probe's network, loss and training step in plain PyTorch: what ours is compared with, in numbers and in time.

Parameter names are those of a probe file, so weights written by our C program load by name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

WAVES = 6
NORM_EPSILON = 1e-5


@dataclass(frozen=True)
class Options:
    architecture: str = "joined"  # or "paper"
    condition: str = "head"  # or "blocks", of joined
    channels: tuple[int, ...] = (24, 32, 48, 64)
    blocks_per_level: int = 1
    hidden: int = 32
    condition_width: int = 32
    targets: int = 1
    maps: int = 20
    side: int = 16
    scalars: int = 3
    prompt: int = 64

    @property
    def films(self) -> bool:
        """Whether the condition modulates every normalisation."""
        return self.architecture == "joined" and self.condition == "blocks"

    @property
    def shares_pictures(self) -> bool:
        return self.architecture == "joined" and self.condition == "head"

    @property
    def outputs(self) -> int:
        return self.targets * (2 if self.architecture == "joined" else 1)


def waves(log_sigma: Tensor) -> Tensor:
    frequencies = 0.25 * 2.0 ** torch.arange(WAVES, dtype=log_sigma.dtype)
    angles = log_sigma.reshape(-1, 1) * frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)


class Norm(nn.GroupNorm):
    def __init__(self, channels: int) -> None:
        super().__init__(4 if channels % 4 == 0 else 2 if channels % 2 == 0 else 1, channels, eps=NORM_EPSILON)


class Block(nn.Module):
    """GroupNorm → modulation → SiLU → conv, twice, and a skip; `film` gives scale and shift of both norms."""

    def __init__(self, inputs: int, outputs: int, stride: int, options: Options) -> None:
        super().__init__()
        self.norm1 = Norm(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1)
        if options.architecture == "paper":
            self.sigma = nn.Linear(options.condition_width, outputs)
        self.norm2 = Norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)
        if stride > 1 or inputs != outputs:
            self.skip = nn.Conv2d(inputs, outputs, 1, stride)
        self.films = (2 * inputs, 2 * outputs) if options.films else ()

    def forward(self, x: Tensor, embed: Tensor, films: list[Tensor]) -> Tensor:
        y = self.conv1(functional.silu(modulate(self.norm1(x), films[0] if films else None)))
        if hasattr(self, "sigma"):
            y = y + self.sigma(embed)[:, :, None, None]
        y = self.conv2(functional.silu(modulate(self.norm2(y), films[1] if films else None)))
        return y + (self.skip(x) if hasattr(self, "skip") else x)


def modulate(x: Tensor, film: Tensor | None) -> Tensor:
    if film is None:
        return x
    scale, shift = film[:, :, None, None].chunk(2, dim=1)
    return x * (1 + scale) + shift


class Network(nn.Module):
    def __init__(self, options: Options) -> None:
        super().__init__()
        self.options = options
        joined = options.architecture == "joined"
        width, channels, side = options.condition_width, options.channels[0], options.side
        self.embed = nn.Linear(2 * WAVES, width)
        condition = width
        if joined and options.prompt > 0:
            self.prompt = nn.Linear(options.prompt, width)
            condition += width
        self.stem = nn.Conv2d(options.maps, channels, 3, 1, 1)
        if options.shares_pictures:
            self.place = nn.ParameterDict({"weight": 0.3 * torch.randn(channels, side, side)})
        self.blocks: list[Block] = []
        for level, outputs in enumerate(options.channels):
            if level > 0 and side <= 2:
                break
            for number in range(options.blocks_per_level - (1 if level == 0 else 0)):
                stride = 2 if level > 0 and number == 0 else 1
                block = Block(channels, outputs, stride, options)
                self.add_module(f"block{len(self.blocks)}", block)
                self.blocks.append(block)
                channels, side = outputs, math.ceil(side / stride)
        self.norm = Norm(channels)
        self.film_sizes = [size for block in self.blocks for size in block.films] + [2 * channels] * options.films
        if options.shares_pictures:
            self.trunk = nn.Linear(channels, options.hidden)
            self.film_sizes = [2 * options.hidden]
            channels = options.hidden
        if joined:
            self.film = nn.Linear(condition, sum(self.film_sizes))
            self.hidden = nn.Linear(channels + options.scalars + condition, options.hidden)
        self.last = nn.Linear(options.hidden if joined else channels, options.outputs)
        nn.init.zeros_(self.last.weight)

    def forward(self, maps: Tensor, scalars: Tensor, prompt: Tensor, log_sigma: Tensor) -> Tensor:
        joined = self.options.architecture == "joined"
        embed = functional.silu(self.embed(waves(log_sigma)))
        condition = embed
        if joined and self.options.prompt > 0:
            condition = torch.cat([embed, functional.silu(self.prompt(prompt))], dim=1)
        films = list(self.film(condition).split(self.film_sizes, dim=1)) if joined else []
        within = films if self.options.films else []
        x = self.stem(maps)
        if self.options.shares_pictures:
            x = x + self.place["weight"]
        for number, block in enumerate(self.blocks):
            x = block(x, embed, within[2 * number : 2 * number + 2])
        x = functional.silu(modulate(self.norm(x), within[-1] if within else None)).mean(dim=(2, 3))
        if self.options.shares_pictures:
            scale, shift = films[0].chunk(2, dim=1)
            x = functional.silu(self.trunk(x) * (1 + scale) + shift)
        if joined:
            x = functional.silu(self.hidden(torch.cat([x, scalars, condition], dim=1)))
        return self.last(x)


def centred(values: Tensor, weight: Tensor) -> Tensor:
    """Less the weighted mean of the group; [groups, rows]."""
    return values - (weight * values).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp_min(1e-30)


def loss_of_target(
    options: Options, score: Tensor, log_variance: Tensor | None, target: Tensor, weight: Tensor
) -> Tensor:
    """Sum over rows [groups, rows] of one target; as probe/train/loss.h, whose default weights these are."""
    labelled = target.isfinite()
    weight = weight * labelled
    target = target.nan_to_num()
    if options.architecture == "paper":
        return (weight * (score - target) ** 2).sum()
    assert log_variance is not None
    error = centred(score, weight) - centred(target, weight)
    total = (weight * error**2).sum() + 0.05 * (weight * (score - target) ** 2).sum()
    masked = weight.clamp_min(1e-30).log()
    p, q = torch.log_softmax(target + masked, 1), torch.log_softmax(score + masked, 1)
    total = total + (weight.sum(1) * (p.exp() * (p - q)).sum(1)).sum()
    count = labelled.sum(1, keepdim=True)
    variance = 1e-3 + log_variance.clamp_max(12).exp()
    squared = error.detach() ** 2 * count / (count - 1).clamp_min(1)
    likelihood = 0.5 * (variance.log() + squared / variance) * variance.detach() ** 0.5
    return total + 0.2 * (weight * likelihood * (count > 1)).sum()


def loss_of(options: Options, answer: Tensor, target: Tensor, weight: Tensor, group: int) -> Tensor:
    weight = weight.reshape(-1, group)
    total = answer.new_zeros(())
    for column in range(options.targets):
        score = answer[:, column].reshape(-1, group)
        variance = answer[:, options.targets + column].reshape(-1, group) if options.outputs > options.targets else None
        factor = 1.0 if column == 0 else 0.5 / (options.targets - 1)
        total = total + factor * loss_of_target(options, score, variance, target[:, column].reshape(-1, group), weight)
    return total / weight.sum()


class Trainer:
    """AdamW (fused), gradients clipped to norm 1, averaged weights."""

    def __init__(self, network: Network, group: int, learning_rate: float = 1e-3) -> None:
        self.network, self.group = network, group
        self.parameters = list(network.parameters())
        self.average = [parameter.detach().clone() for parameter in self.parameters]
        self.optimiser = torch.optim.AdamW(
            self.parameters, lr=learning_rate, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.05, fused=True
        )

    def step(self, batch: dict[str, Tensor]) -> Tensor:
        answer = self.network(batch["maps"], batch["scalars"], batch["prompt"], batch["log_sigma"])
        loss = loss_of(self.network.options, answer, batch["target"], batch["weight"], self.group)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=True)
        self.optimiser.step()
        torch._foreach_lerp_(self.average, [parameter.detach() for parameter in self.parameters], 0.01)
        return loss.detach()


def draw_batches(options: Options, rows: int, batches: int, seed: int = 1) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            "maps": torch.randn(rows, options.maps, options.side, options.side, generator=generator),
            "scalars": torch.randn(rows, options.scalars, generator=generator),
            "prompt": torch.randn(rows, options.prompt, generator=generator),
            "log_sigma": -0.2 - 0.5 * torch.rand(rows, generator=generator),
            "target": torch.randn(rows, options.targets, generator=generator),
            "weight": 0.5 + torch.rand(rows, generator=generator),
        }
        for _ in range(batches)
    ]
