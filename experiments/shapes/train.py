"""Trains the SD3-like model of the shapes world: ``python -m experiments.shapes.train``.

Four stages, each skipped where its result is already in the work folder:

1. ``vae``       the autoencoder, on drawn pictures;
2. ``data``      latents of a large drawn set and the vectors of every prompt, both computed once;
3. ``flow``      the transformer by flow matching (logit-normal times, a share of empty prompts for guidance);
4. ``distil``    the same transformer learns to give the guided velocity in one unguided forward, also where the
                 prompt is padded to the lengths of the large models.

The defaults are those that made the shipped model.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from diffusers import AutoencoderKL, SD3Transformer2DModel
from torch.multiprocessing import spawn

from . import build
from .draw import draw
from .sampler import Settings, decode, sample
from .scorer import score
from .text import TEXT_LENGTH
from .world import KINDS, load_prompts, parse

VAE_STEPS, VAE_BATCH, VAE_RATE, KL_WEIGHT = 900, 48, 3e-3, 1e-3
DRAWN = 32768
RANKS = 2
BATCH = 64
FLOW_STEPS, DISTIL_STEPS = 1000, 300
MUON_RATE, MUON_DECAY, ADAM_RATE = 0.02, 0.02, 2e-3
DISTIL_RATE_SHARE = 0.5
EMPTY_SHARE = 0.1
GUIDANCE = 2.5
# Hosts that pad as for the large models give 77 CLIP and 128 T5 tokens: one distillation step in six shows these.
LONG_PADDING, LONG_EVERY = (77, 128), 6
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


def train_vae(images: torch.Tensor, log: Path) -> AutoencoderKL:
    """Autoencoder of images [N, 3, 32, 32]; sets shift and scale so that latents have mean 0 and variance 1."""
    vae = build.make_vae()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=VAE_RATE, betas=(0.9, 0.99), weight_decay=1e-4)
    start, seen = time.time(), torch.Generator().manual_seed(1)
    for step in range(VAE_STEPS):
        fade = min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / VAE_STEPS))
        optimizer.param_groups[0]["lr"] = VAE_RATE * fade
        batch = images[torch.randint(len(images), (VAE_BATCH,), generator=seen)]
        posterior = vae.encode(batch).latent_dist
        output = vae.decode(posterior.sample()).sample
        error = F.l1_loss(output, batch) + 2.0 * F.mse_loss(output, batch)
        kl = 0.5 * (posterior.mean**2 + posterior.var - 1.0 - posterior.logvar).mean()
        loss = error + KL_WEIGHT * kl
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0 or step == VAE_STEPS - 1:
            values = {"l1": F.l1_loss(output, batch).item(), "kl": kl.item(), "seconds": time.time() - start}
            log_line(log, stage="vae", step=step, **values)
    vae.eval()
    latents = encode(vae, images[:2048])
    vae.register_to_config(shift_factor=latents.mean().item(), scaling_factor=1.0 / latents.std().item())
    return vae


@torch.no_grad()
def encode(vae: AutoencoderKL, images: torch.Tensor) -> torch.Tensor:
    """Latents [N, 8, 8, 8] of images [N, 3, 32, 32], shifted and scaled as the pipeline expects."""
    parts = [vae.encode(part).latent_dist.mean for part in images.split(256)]
    return (torch.cat(parts) - vae.config.shift_factor) * vae.config.scaling_factor


@torch.no_grad()
def encode_prompts(
    prompts: list[str], clip_length: int = TEXT_LENGTH, t5_length: int = TEXT_LENGTH
) -> tuple[torch.Tensor, torch.Tensor]:
    """(text [N, clip_length + t5_length, 96], pooled [N, 96]) as the pipeline computes them."""
    pipeline = build.make_pipeline(build.make_vae(), build.make_transformer())
    pipeline.tokenizer_max_length = clip_length
    text, _, pooled, _ = pipeline.encode_prompt(
        prompts, None, None, device="cpu", do_classifier_free_guidance=False, max_sequence_length=t5_length
    )
    return text, pooled


def all_prompts() -> list[str]:
    """The rows of the prompt vectors: the train list, the held-out list, then the empty prompt."""
    return load_prompts("train") + load_prompts("test") + [""]


def make_data(vae: AutoencoderKL, rng: np.random.Generator) -> dict[str, torch.Tensor]:
    """Latents of a drawn set, the row of each picture's prompt, and the vectors of all prompts."""
    prompts = training_prompts(DRAWN, rng)
    lists = all_prompts()
    row = {prompt: index for index, prompt in enumerate(lists)}
    latents = [
        encode(vae, to_tensor(draw([parse(p) for p in prompts[at : at + 4096]], seed=100 + at)))
        for at in range(0, DRAWN, 4096)
    ]
    text, pooled = encode_prompts(lists)
    rows = torch.tensor([row[prompt] for prompt in prompts])
    return {"latents": torch.cat(latents), "rows": rows, "text": text, "pooled": pooled}


def make_initial_transformer() -> SD3Transformer2DModel:
    """Modulations and the output start at zero, so that every block starts as the identity."""
    transformer = build.make_transformer()
    for name, parameter in transformer.named_parameters():
        if ".norm1.linear" in name or ".norm1_context.linear" in name or name.startswith(("proj_out", "norm_out")):
            torch.nn.init.zeros_(parameter)
    return transformer


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
    """Momentum whose update is orthogonalised, for the weight matrices of the blocks.

    Matrices of one shape are stacked; each rank orthogonalises its share of a stack and the shares are added up.
    """

    def __init__(self, parameters: list[torch.nn.Parameter], momentum: float, ranks: int, rank: int):
        shapes = sorted({tuple(p.shape) for p in parameters})
        self.stacks = [[p for p in parameters if tuple(p.shape) == shape] for shape in shapes]
        self.buffers = [torch.zeros(len(stack), *stack[0].shape) for stack in self.stacks]
        self.momentum, self.ranks, self.rank = momentum, ranks, rank

    @torch.no_grad()
    def step(self, rate: float) -> None:
        for stack, buffer in zip(self.stacks, self.buffers):
            gradient = torch.stack([p.grad for p in stack])
            buffer.lerp_(gradient, 1.0 - self.momentum)
            wanted = gradient.lerp(buffer, self.momentum)
            update = torch.zeros_like(wanted)
            update[self.rank :: self.ranks] = orthogonalize(wanted[self.rank :: self.ranks])
            dist.all_reduce(update)
            rows, columns = update.shape[1:]
            scale = rate * max(1.0, rows / columns) ** 0.5
            for parameter, part in zip(stack, update):
                parameter.mul_(1.0 - rate * MUON_DECAY).sub_(part, alpha=scale)


def split_parameters(transformer: SD3Transformer2DModel) -> tuple[list, list]:
    """(block matrices for Muon, everything else for AdamW)."""
    matrices, others = [], []
    for name, parameter in transformer.named_parameters():
        is_block = name.startswith("transformer_blocks.") and parameter.ndim == 2 and ".linear." not in name
        (matrices if is_block else others).append(parameter)
    return matrices, others


def noisy(latents: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(noisy latents, sigma [N], velocity target): logit-normal times, one in ten uniform so that the ends are seen."""
    count = len(latents)
    sigma = torch.sigmoid(torch.randn(count, generator=generator))
    uniform = torch.rand(count, generator=generator)
    sigma = torch.where(torch.rand(count, generator=generator) < 0.1, uniform, sigma)
    noise = torch.randn(latents.shape, generator=generator)
    level = sigma[:, None, None, None]
    return (1.0 - level) * latents + level * noise, sigma, noise - latents


def run(transformer, latents, sigma, text, pooled) -> torch.Tensor:
    return transformer(
        hidden_states=latents,
        timestep=1000.0 * sigma,
        encoder_hidden_states=text,
        pooled_projections=pooled,
        return_dict=False,
    )[0]


def train_transformer(rank: int, work: Path, stage: str, steps: int) -> None:
    """Stage ``flow`` or ``distil`` in RANKS processes of one thread each, gradients averaged.

    Writes the averaged weights to ``work/STAGE.pt`` at every evaluation, so the run may be stopped at any time.
    """
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{work}/rendezvous_{stage}", rank=rank, world_size=RANKS)
    data = torch.load(work / "data.pt")
    vae = AutoencoderKL.from_pretrained(work / "vae").eval()
    text, pooled, empty_row = data["text"], data["pooled"], len(data["text"]) - 1
    torch.manual_seed(0)
    student = make_initial_transformer()
    teacher = None
    if stage == "distil":
        student.load_state_dict(torch.load(work / "flow.pt"))
        teacher = copy.deepcopy(student).eval().requires_grad_(False)
        long_text, _ = encode_prompts(all_prompts(), *LONG_PADDING)
    average = copy.deepcopy(student).requires_grad_(False)
    matrices, others = split_parameters(student)
    muon = Muon(matrices, 0.95, RANKS, rank)
    adam = torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0)
    generator = torch.Generator().manual_seed(10 * (stage == "distil") + rank)
    start, losses = time.time(), []
    for step in range(steps):
        fade = min(1.0, (step + 1) / 40)  # constant in the first stage: the second one brings the rate down to 0
        if stage == "distil":
            fade *= DISTIL_RATE_SHARE * (steps - step) / steps
        picked = torch.randint(len(data["rows"]), (BATCH // RANKS,), generator=generator)
        rows = data["rows"][picked]
        rows = torch.where(torch.rand(len(rows), generator=generator) < EMPTY_SHARE, empty_row, rows)
        inputs, sigma, target = noisy(data["latents"][picked], generator)
        shown = text
        if stage == "distil":
            target = guided(teacher, inputs, sigma, rows, text, pooled, empty_row)
            shown = long_text if step % LONG_EVERY == LONG_EVERY - 1 else text
        loss = F.mse_loss(run(student, inputs, sigma, shown[rows], pooled[rows]), target)
        student.zero_grad()
        loss.backward()
        average_gradients([*matrices, *others])
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        for group in adam.param_groups:
            group["lr"] = ADAM_RATE * fade
        adam.step()
        muon.step(MUON_RATE * fade)
        keep = min(AVERAGE_DECAY, (step + 1) / (step + 10))
        with torch.no_grad():
            for mean, parameter in zip(average.parameters(), student.parameters()):
                mean.lerp_(parameter, 1.0 - keep)
        losses.append(loss.item())
        last = step == steps - 1
        if (step + 1) % 50 == 0 or last:
            values = {"loss": float(np.mean(losses[-50:])), "seconds": time.time() - start}
            if (step + 1) % EVALUATE_EVERY == 0 or last:
                scale = GUIDANCE if stage == "flow" else 1.0
                values |= evaluate(average, vae, text, pooled, scale, rank)
            if rank == 0:
                log_line(work / "training_log.jsonl", stage=stage, step=step + 1, **values)
                torch.save(average.state_dict(), work / f"{stage}.partial")
                (work / f"{stage}.partial").rename(work / f"{stage}.pt")
    dist.barrier()
    dist.destroy_process_group()


def average_gradients(parameters: list[torch.nn.Parameter]) -> None:
    """Replaces every gradient by its mean over the ranks."""
    used = [p for p in parameters if p.grad is not None]
    flat = torch.cat([p.grad.flatten() for p in used])
    dist.all_reduce(flat)
    for parameter, part in zip(used, (flat / RANKS).split([p.numel() for p in used])):
        parameter.grad.copy_(part.view_as(parameter))


@torch.no_grad()
def guided(teacher, inputs, sigma, rows, text, pooled, empty_row: int) -> torch.Tensor:
    """The velocity that classifier-free guidance gives; rows with the empty prompt keep the plain one."""
    empty = torch.full_like(rows, empty_row)
    both = torch.cat([empty, rows])
    output = run(teacher, torch.cat([inputs, inputs]), torch.cat([sigma, sigma]), text[both], pooled[both])
    unguided, prompted = output.split(len(rows))
    return unguided + GUIDANCE * (prompted - unguided)


def evaluate(transformer, vae, text, pooled, guidance_scale: float, rank: int) -> dict[str, float]:
    """Mean reward and mean within-prompt deviation, held-out prompts x 4, window sampler; ranks share the prompts."""
    first, held_out = len(load_prompts("train")), load_prompts("test")
    chosen = list(range(rank, len(held_out), 3 * RANKS))
    prompts = [held_out[index] for index in chosen for _ in range(4)]
    rows = torch.tensor([first + index for index in chosen]).repeat_interleave(4)
    settings = Settings(guidance_scale=guidance_scale)
    empty = (text[-1:], pooled[-1:])
    images = decode(vae, sample(transformer, text[rows], pooled[rows], empty, settings, seed=rank))
    rewards = torch.tensor(score(images, prompts)).view(-1, 4)
    totals = torch.tensor([rewards.mean(1).sum(), rewards.std(1).sum(), len(rewards)])
    dist.all_reduce(totals)
    return {"reward": (totals[0] / totals[2]).item(), "deviation": (totals[1] / totals[2]).item()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of intermediate results")
    parser.add_argument("--out", type=Path, required=True, help="the model folder to write")
    parser.add_argument("--flow-steps", type=int, default=FLOW_STEPS)
    parser.add_argument("--distil-steps", type=int, default=DISTIL_STEPS)
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    log = work / "training_log.jsonl"
    torch.set_num_threads(RANKS)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    if not (work / "vae").exists():
        prompts = training_prompts(8192, rng)
        train_vae(to_tensor(draw([parse(p) for p in prompts], seed=1)), log).save_pretrained(work / "vae")
    vae = AutoencoderKL.from_pretrained(work / "vae").eval()
    if not (work / "data.pt").exists():
        torch.save(make_data(vae, np.random.default_rng(1)), work / "data.pt")
    for stage, steps in (("flow", arguments.flow_steps), ("distil", arguments.distil_steps)):
        if steps and not (work / f"{stage}.pt").exists():
            (work / f"rendezvous_{stage}").unlink(missing_ok=True)
            spawn(train_transformer, (work, stage, steps), nprocs=RANKS)
    export(work, arguments.out)


def export(work: Path, folder: Path) -> None:
    """Writes the model folder with the weights of the last stage that ran."""
    transformer = build.make_transformer()
    last = next(path for path in (work / "distil.pt", work / "flow.pt") if path.exists())
    transformer.load_state_dict(torch.load(last))
    vae = AutoencoderKL.from_pretrained(work / "vae")
    build.save_pipeline(build.make_pipeline(vae, transformer), folder)
    (folder / "training_log.jsonl").write_text((work / "training_log.jsonl").read_text())


if __name__ == "__main__":
    main()
