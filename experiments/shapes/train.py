"""Trains a model of the shapes world: ``python -m experiments.shapes.train --model NAME --work FOLDER --out FOLDER``.

Four stages, each skipped where its result is already in the work folder:

1. ``vae``       the autoencoder, on drawn pictures;
2. ``data``      latents of a large drawn set and the conditions of every prompt, both computed once;
3. ``flow``      the network, on noisy latents, with a share of empty prompts for guidance;
4. ``distil``    where the family has it: the same network learns to give the guided output in one unguided forward,
                 also where the prompt is padded to the lengths of the large models.

The defaults are those that made the shipped models.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.multiprocessing import get_context, spawn

from .draw import draw
from .families import FAMILIES, Family
from .scorer import score
from .world import KINDS, load_prompts, parse

MODELS = Path(__file__).parent / "models"
VAE_RATE, KL_WEIGHT = 3e-3, 1e-3
DRAWN = 32768
BATCH = 64
MUON_RATE, MUON_DECAY, ADAM_RATE = 0.02, 0.02, 2e-3
DISTIL_RATE_SHARE = 0.5
EMPTY_SHARE = 0.1
LONG_EVERY = 6  # every sixth step of distillation shows prompts padded as hosts pad them for the large models
AVERAGE_DECAY = 0.99
EVALUATE_EVERY = 300


def log_line(path: Path, **values: object) -> None:
    """Appends one JSON object to the log and prints it."""
    line = json.dumps({k: round(v, 5) if isinstance(v, float) else v for k, v in values.items()})
    print(line, flush=True)
    with path.open("a") as file:
        file.write(line + "\n")


def training_prompts(count: int, rng: np.random.Generator) -> list[str]:
    """Prompts of the train list: the kind first, then the prompt, so that rare kinds are seen as well."""
    by_kind = {kind: [p for p in load_prompts("train") if parse(p).kind == kind] for kind in KINDS}
    kinds = rng.choice(KINDS, size=count, p=[0.10, 0.25, 0.30, 0.35])
    return [by_kind[kind][rng.integers(len(by_kind[kind]))] for kind in kinds]


def to_tensor(images: np.ndarray) -> torch.Tensor:
    """[N, 32, 32, 3] in 0..1 to [N, 3, 32, 32] in -1..1."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous() * 2.0 - 1.0


def pictures() -> torch.Tensor:
    """Images [8192, 3, 32, 32] in -1..1 that the autoencoders learn from."""
    return to_tensor(draw([parse(p) for p in training_prompts(8192, np.random.default_rng(0))], seed=1))


class VaeOptimizer:
    """AdamW, with Muon for the kernels where the family wants it, under a rate that rises, then falls to 0."""

    def __init__(self, family: Family, vae: torch.nn.Module):
        kernels = [p for p in vae.parameters() if family.vae_muon and p.ndim >= 4 and p.shape[-1] > 1]
        self.others = [p for p in vae.parameters() if all(p is not kernel for kernel in kernels)]
        self.adam = torch.optim.AdamW(self.others, betas=(0.9, 0.99), weight_decay=1e-4)
        self.muon, self.vae, self.steps = Muon(kernels, 0.9, 1, 0), vae, family.vae_steps

    def step(self, loss: torch.Tensor, index: int) -> None:
        fade = min(1.0, (index + 1) / 50) * 0.5 * (1 + math.cos(math.pi * index / self.steps))
        self.adam.param_groups[0]["lr"] = VAE_RATE * fade
        self.vae.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.others, 1.0)
        self.adam.step()
        self.muon.step(MUON_RATE * fade)


def reconstruction(output: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    return F.l1_loss(output, images) + 2.0 * F.mse_loss(output, images)


def train_vae(family: Family, log: Path):
    """Autoencoder of images [N, 3, 32, 32] whose configuration gives latents of mean 0 and variance 1."""
    vae, images = family.make_vae(), pictures()
    optimizer = VaeOptimizer(family, vae)
    start, seen = time.time(), torch.Generator().manual_seed(1)
    for step in range(family.vae_steps):
        batch = images[torch.randint(len(images), (family.vae_batch,), generator=seen)]
        posterior = family.posterior(vae, batch)
        output = family.decoded(vae, posterior.sample())
        kl = 0.5 * (posterior.mean**2 + posterior.var - 1.0 - posterior.logvar).mean()
        optimizer.step(reconstruction(output, batch) + KL_WEIGHT * kl, step)
        if step % 50 == 0 or step == family.vae_steps - 1:
            values = {"l1": F.l1_loss(output, batch).item(), "kl": kl.item(), "seconds": time.time() - start}
            log_line(log, stage="vae", step=step, **values)
    with torch.no_grad():
        vae.eval()
        family.standardise(vae, torch.cat([family.posterior(vae, part).mean for part in images[:2048].split(256)]))
    return vae


def follow_vae(name: str, work: Path) -> None:
    """Trains an autoencoder whose latents are those of another family's; writes ``work/vae``.

    The encoder learns the other's latents, the decoder the pictures behind these (with some noise on them, so that it
    forgives what a network samples). Neither waits for the other, and the network needs neither of them to train.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    family, (source, known) = FAMILIES[name], latent_source(FAMILIES[name], work)
    vae, images = family.quickened(family.make_vae()), pictures()
    with torch.no_grad():
        latents = source.encode(known, images)
    optimizer = VaeOptimizer(family, vae)
    start, seen = time.time(), torch.Generator().manual_seed(1)
    for step in range(family.vae_steps):
        picked = torch.randint(len(images), (family.vae_batch,), generator=seen)
        batch, wanted = images[picked], latents[picked]
        given = wanted + 0.1 * torch.randn(wanted.shape, generator=seen)
        output = family.decoded(vae, given)
        error = F.mse_loss(family.posterior(vae, batch).mean, wanted)
        optimizer.step(reconstruction(output, batch) + error, step)
        if step % 50 == 0 or step == family.vae_steps - 1:
            values = {"l1": F.l1_loss(output, batch).item(), "latent_error": error.item()}
            log_line(work / "training_log.jsonl", stage="vae", step=step, **values, seconds=time.time() - start)
    vae.eval().save_pretrained(work / "vae")


def latent_source(family: Family, work: Path):
    """(family, VAE) whose latents the network is trained on: its own, or the shipped ones of another family."""
    source = FAMILIES[family.latents_of] if family.latents_of else family
    folder = MODELS / source.name / "vae" if family.latents_of else work / "vae"
    return source, source.make_vae().from_pretrained(folder).eval()


def all_prompts() -> list[str]:
    """The rows of the conditions: the train list, the held-out list, then the empty prompt."""
    return load_prompts("train") + load_prompts("test") + [""]


@torch.no_grad()
def make_data(family: Family, work: Path, rng: np.random.Generator) -> dict:
    """Latents of a drawn set, the row of each picture's prompt, and the conditions of all prompts."""
    prompts = training_prompts(DRAWN, rng)
    lists = all_prompts()
    row = {prompt: index for index, prompt in enumerate(lists)}
    source, vae = latent_source(family, work)
    latents = [
        source.encode(vae, to_tensor(draw([parse(p) for p in prompts[at : at + 4096]], seed=100 + at)))
        for at in range(0, DRAWN, 4096)
    ]
    pipeline = family.make_pipeline(family.make_vae(), family.make_network())
    data = {"latents": torch.cat(latents), "rows": torch.tensor([row[prompt] for prompt in prompts])}
    data["conditions"] = family.conditions(pipeline, lists)
    data["long"] = family.conditions(pipeline, lists, **family.long_padding) if family.long_padding else None
    return data


def make_initial_network(family: Family) -> torch.nn.Module:
    torch.manual_seed(0)
    network = family.make_network()
    for name, parameter in network.named_parameters():
        if family.starts_at_zero(name):
            torch.nn.init.zeros_(parameter)
    return network


def orthogonalize(matrices: torch.Tensor) -> torch.Tensor:
    """The nearest (semi-)orthogonal matrices of a stack [M, R, C], by five Newton-Schulz steps."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon:
    """Momentum whose update is orthogonalised, for the weights of the blocks: matrices, kernels as [out, the rest].

    Weights of one shape are stacked; each rank orthogonalises its share of a stack and the shares are added up.
    """

    def __init__(self, parameters: list[torch.nn.Parameter], momentum: float, ranks: int, rank: int):
        shapes = sorted({tuple(p.flatten(1).shape) for p in parameters})
        self.stacks = [[p for p in parameters if tuple(p.flatten(1).shape) == shape] for shape in shapes]
        self.buffers = [torch.zeros(len(stack), *shape) for stack, shape in zip(self.stacks, shapes)]
        self.momentum, self.ranks, self.rank = momentum, ranks, rank

    @torch.no_grad()
    def step(self, rate: float) -> None:
        for stack, buffer in zip(self.stacks, self.buffers):
            # The last block's text half reaches no output: its gradients stay None.
            gradient = torch.stack([(torch.zeros_like(p) if p.grad is None else p.grad).flatten(1) for p in stack])
            buffer.lerp_(gradient, 1.0 - self.momentum)
            wanted = gradient.lerp(buffer, self.momentum)
            update = torch.zeros_like(wanted)
            update[self.rank :: self.ranks] = orthogonalize(wanted[self.rank :: self.ranks])
            if self.ranks > 1:
                dist.all_reduce(update)
            rows, columns = update.shape[1:]
            scale = rate * max(1.0, rows / columns) ** 0.5
            for parameter, part in zip(stack, update):
                parameter.mul_(1.0 - rate * MUON_DECAY).sub_(part.view_as(parameter), alpha=scale)


class Optimizer:
    """Muon for the matrices that the family names, AdamW elsewhere, and the running average of the weights."""

    def __init__(self, family: Family, network: torch.nn.Module, ranks: int, rank: int):
        named = list(network.named_parameters())
        self.matrices = [p for name, p in named if family.is_matrix(name, p)]
        self.others = [p for name, p in named if not family.is_matrix(name, p)]
        self.muon = Muon(self.matrices, 0.95, ranks, rank)
        self.ranks = ranks
        self.adam = torch.optim.AdamW(self.others, betas=(0.9, 0.98), weight_decay=0.0)
        self.network, self.average = network, copy.deepcopy(network).requires_grad_(False)

    def step(self, loss: torch.Tensor, fade: float, index: int) -> None:
        """One update at ``fade`` times the full rates."""
        self.network.zero_grad()
        loss.backward()
        average_gradients([*self.matrices, *self.others], self.ranks)
        torch.nn.utils.clip_grad_norm_(self.others, 1.0)
        self.adam.param_groups[0]["lr"] = ADAM_RATE * fade
        self.adam.step()
        self.muon.step(MUON_RATE * fade)
        keep = min(AVERAGE_DECAY, (index + 1) / (index + 10))
        with torch.no_grad():
            for mean, parameter in zip(self.average.parameters(), self.network.parameters()):
                mean.lerp_(parameter, 1.0 - keep)


def average_gradients(parameters: list[torch.nn.Parameter], ranks: int) -> None:
    """Replaces every gradient by its mean over the ranks."""
    used = [p for p in parameters if p.grad is not None]
    flat = torch.cat([p.grad.flatten() for p in used])
    dist.all_reduce(flat)
    for parameter, part in zip(used, (flat / ranks).split([p.numel() for p in used])):
        parameter.grad.copy_(part.view_as(parameter))


class Batches:
    """Draws the batches of one rank and computes their loss."""

    def __init__(self, family: Family, data: dict, teacher, count: int, seed: int):
        self.family, self.data, self.teacher, self.count = family, data, teacher, count
        self.generator = torch.Generator().manual_seed(seed)

    def loss(self, network, index: int) -> torch.Tensor:
        data, family, generator = self.data, self.family, self.generator
        picked = torch.randint(len(data["rows"]), (self.count,), generator=generator)
        rows = data["rows"][picked]
        rows = torch.where(torch.rand(len(rows), generator=generator) < EMPTY_SHARE, len(all_prompts()) - 1, rows)
        inputs, level, target = family.noisy(data["latents"][picked], generator)
        if self.teacher is None:
            return F.mse_loss(family.run(network, inputs, level, self.told(rows)), target)
        low, high = family.guidance_range or (family.train_guidance,) * 2
        guidance = low + (high - low) * torch.rand(len(rows), generator=generator)
        target = self.guided(inputs, level, rows, guidance)
        is_long = data["long"] is not None and index % LONG_EVERY == LONG_EVERY - 1
        told = self.told(rows, "long" if is_long else "conditions")
        return F.mse_loss(family.run(network, inputs, level, told, guidance), target)

    def told(self, rows: torch.Tensor, which: str = "conditions") -> dict[str, torch.Tensor]:
        return {name: values[rows] for name, values in self.data[which].items()}

    @torch.no_grad()
    def guided(self, inputs, level, rows, guidance) -> torch.Tensor:
        """The teacher's output under classifier-free guidance; rows with the empty prompt keep the plain one."""
        empty = torch.full_like(rows, len(all_prompts()) - 1)
        told = self.told(torch.cat([empty, rows]))
        output = self.family.run(self.teacher, inputs.repeat(2, 1, 1, 1), level.repeat(2), told)
        unguided, prompted = output.split(len(rows))
        return unguided + guidance[:, None, None, None] * (prompted - unguided)


def train_network(rank: int, ranks: int, name: str, work: Path, stage: str, steps: int) -> None:
    """Stage ``flow`` or ``distil`` in ``ranks`` processes of one thread each, gradients averaged.

    Writes the averaged weights to ``work/STAGE.pt`` every 50 steps, so the run may be stopped at any time.
    """
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{work}/rendezvous_{stage}", rank=rank, world_size=ranks)
    family, data = FAMILIES[name], torch.load(work / "data.pt")
    network, teacher = make_initial_network(family), None
    if stage == "distil":
        network.load_state_dict(torch.load(work / "flow.pt"))
        teacher = copy.deepcopy(network).eval().requires_grad_(False)
    optimizer = Optimizer(family, network, ranks, rank)
    batches = Batches(family, data, teacher, BATCH // ranks, seed=10 * (stage == "distil") + rank)
    start, losses = time.time(), []
    for step in range(steps):
        fade = rate_share(family, stage, step, steps)
        loss = batches.loss(network, step)
        optimizer.step(loss, fade, step)
        losses.append(loss.item())
        last = step == steps - 1
        if (step + 1) % 50 == 0 or last:
            values = {"loss": float(np.mean(losses[-50:])), "seconds": time.time() - start}
            if (step + 1) % EVALUATE_EVERY == 0 or last:
                values |= evaluate(family, optimizer.average, work, data["conditions"], stage, ranks, rank)
            if rank == 0:
                log_line(work / "training_log.jsonl", stage=stage, step=step + 1, **values)
                torch.save(optimizer.average.state_dict(), work / f"{stage}.partial")
                (work / f"{stage}.partial").rename(work / f"{stage}.pt")
    dist.barrier()
    dist.destroy_process_group()


def rate_share(family: Family, stage: str, step: int, steps: int) -> float:
    """Share of the full rates: the last stage brings them down to 0, a stage before it keeps them."""
    warm = min(1.0, (step + 1) / 40)
    if stage == "distil":
        return warm * DISTIL_RATE_SHARE * (steps - step) / steps
    return warm if family.distil_steps else warm * min(1.0, 2.5 * (steps - step) / steps)


def evaluate(family: Family, network, work: Path, conditions: dict, stage: str, ranks: int, rank: int) -> dict:
    """Mean reward and mean within-prompt deviation, held-out prompts x 4; ranks share the prompts."""
    first, held_out = len(load_prompts("train")), load_prompts("test")
    chosen = list(range(3 * rank, len(held_out), 3 * ranks))
    prompts = [held_out[index] for index in chosen for _ in range(4)]
    rows = torch.tensor([first + index for index in chosen]).repeat_interleave(4)
    told = {name: values[rows] for name, values in conditions.items()}
    settings, empty = family.settings, None
    if stage == "flow":
        empty = {name: values[-1:] for name, values in conditions.items()}
        settings = replace(settings, guidance_scale=family.train_guidance)
    with torch.no_grad():
        source, vae = latent_source(family, work)
        images = source.decode(vae, family.sample(network, told, empty, settings, seed=rank))
    rewards = torch.tensor(score(images, prompts)).view(-1, 4)
    totals = torch.tensor([rewards.mean(1).sum(), rewards.std(1).sum(), len(rewards)])
    dist.all_reduce(totals)
    return {"reward": (totals[0] / totals[2]).item(), "deviation": (totals[1] / totals[2]).item()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(FAMILIES), default="sd3", help="the family (default: sd3)")
    parser.add_argument("--work", type=Path, required=True, help="folder of intermediate results")
    parser.add_argument("--out", type=Path, required=True, help="the model folder to write")
    parser.add_argument("--flow-steps", type=int, help="instead of the family's")
    parser.add_argument("--distil-steps", type=int, help="instead of the family's")
    parser.add_argument("--ranks", type=int, default=2, help="processes of one thread each (default: 2)")
    arguments = parser.parse_args()
    family, work = FAMILIES[arguments.model], arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(arguments.ranks)
    prepare(family, work)
    follower = None
    if family.latents_of and not (work / "vae").exists():
        follower = get_context("spawn").Process(target=follow_vae, args=(family.name, work))
        follower.start()
    given = {"flow": arguments.flow_steps, "distil": arguments.distil_steps}
    for stage, default in (("flow", family.flow_steps), ("distil", family.distil_steps)):
        steps = default if given[stage] is None else given[stage]
        if steps and not (work / f"{stage}.pt").exists():
            (work / f"rendezvous_{stage}").unlink(missing_ok=True)
            spawn(train_network, (arguments.ranks, family.name, work, stage, steps), nprocs=arguments.ranks)
    if follower:
        follower.join()
    export(family, work, arguments.out)


def prepare(family: Family, work: Path) -> None:
    """The stages ``vae`` (none where the family takes a trained one, later where it follows one) and ``data``."""
    torch.manual_seed(0)
    if not (work / "vae").exists() and not family.latents_of:
        vae = train_vae(family, work / "training_log.jsonl") if family.vae_steps else family.make_vae()
        vae.save_pretrained(work / "vae")
    if not (work / "data.pt").exists():
        torch.save(make_data(family, work, np.random.default_rng(1)), work / "data.pt")


def export(family: Family, work: Path, folder: Path) -> None:
    """Writes the model folder with the weights of the last stage that ran."""
    network = family.make_network()
    last = next(path for path in (work / "distil.pt", work / "flow.pt") if path.exists())
    network.load_state_dict(torch.load(last))
    vae = family.make_vae().from_pretrained(work / "vae")
    family.save(family.make_pipeline(vae, network), folder)
    (folder / "training_log.jsonl").write_text((work / "training_log.jsonl").read_text())


if __name__ == "__main__":
    main()
