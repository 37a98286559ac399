"""What the trainer, the sampler and the measurements ask of a model family.

The defaults are those of a flow-matching model: latents at level s are (1 - s) x0 + s noise, the network gives
noise - x0. Latents stand as [N, C, H, W] everywhere; a family that packs them does so around its network.
"""

from __future__ import annotations

import json
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ..steps import Settings, sigmas, step

Conditions = dict[str, torch.Tensor]


class Family(ABC):
    """One kind of host model. Conditions are what the network is told of a prompt, a tensor [N, ...] per name."""

    name: str
    pipeline_name: str
    network_name = "transformer"
    latent_shape: tuple[int, int, int]
    settings = Settings()
    vae_steps, vae_batch = 500, 48
    latents_of: str | None = None  # the family whose latents this one's VAE learns to encode and decode
    vae_muon = False  # whether Muon trains the VAE's kernels too
    flow_steps, distil_steps = 1000, 0
    train_guidance = 2.5  # classifier-free guidance under which a model before distillation is judged
    guidance_range: tuple[float, float] | None = None  # what the guidance embedding learns, where there is one
    long_padding: dict[str, int] | None = None  # arguments of conditions() for prompts padded as for large models

    @abstractmethod
    def make_vae(self):
        """A fresh autoencoder."""

    @abstractmethod
    def make_network(self):
        """A fresh denoiser."""

    @abstractmethod
    def make_pipeline(self, vae, network):
        """The pipeline around the two trained parts; tokenizers and text encoders are fixed by their seeds."""

    @abstractmethod
    def write_tokenizers(self, folder: Path) -> None:
        """Our own tokenizer files in the model folder, so that old and new transformers read them."""

    @abstractmethod
    def conditions(self, pipeline, prompts: list[str], **lengths: int) -> Conditions:
        """What the pipeline would tell its network of ``prompts``."""

    @abstractmethod
    def run(self, network, latents, level, conditions: Conditions, guidance=None) -> torch.Tensor:
        """The network's output [N, C, H, W] at the levels [N]; ``guidance`` [N] for those that embed it."""

    def quickened(self, vae):
        """``vae``, computing the same as before by cheaper means where there are any."""
        return vae

    def posterior(self, vae, images: torch.Tensor):
        """Distribution of the raw latents [N, C, H, W] of images [N, 3, 32, 32] in -1..1."""
        return vae.encode(images).latent_dist

    def decoded(self, vae, raw: torch.Tensor) -> torch.Tensor:
        """Images [N, 3, 32, 32], about -1..1, of raw latents."""
        return vae.decode(raw).sample

    def statistics(self, vae) -> tuple[torch.Tensor, torch.Tensor]:
        """(mean, deviation) of raw latents, each [C, 1, 1] or [1, 1, 1], as the pipeline reads them."""
        shift, scale = vae.config.shift_factor or 0.0, vae.config.scaling_factor
        return torch.full((1, 1, 1), shift), torch.full((1, 1, 1), 1.0 / scale)

    def standardise(self, vae, raw: torch.Tensor) -> None:
        """Notes in the VAE's configuration what :meth:`statistics` reads from there."""
        vae.register_to_config(shift_factor=raw.mean().item(), scaling_factor=1.0 / raw.std().item())

    def encode(self, vae, images: torch.Tensor) -> torch.Tensor:
        """Latents of mean 0 and variance 1 of images [N, 3, 32, 32] in -1..1."""
        mean, deviation = self.statistics(vae)
        return (torch.cat([self.posterior(vae, part).mean for part in images.split(256)]) - mean) / deviation

    def decode(self, vae, latents: torch.Tensor) -> torch.Tensor:
        """Images [N, 3, 32, 32] in 0..1."""
        mean, deviation = self.statistics(vae)
        images = torch.cat([self.decoded(vae, part) for part in (latents * deviation + mean).split(128)])
        return (images * 0.5 + 0.5).clamp(0.0, 1.0)

    def load(self, folder: Path):
        """The pipeline of a model folder, in single precision and without progress bars."""
        import diffusers

        pipeline = getattr(diffusers, self.pipeline_name).from_pretrained(folder)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def network(self, pipeline):
        return getattr(pipeline, self.network_name)

    def save(self, pipeline, folder: Path) -> None:
        """Writes the model folder in half precision."""
        pipeline.to(torch.float16).save_pretrained(folder)
        pipeline.to(torch.float32)
        for path in folder.glob("tokenizer*/*"):
            path.unlink()
        self.write_tokenizers(folder)
        for path in folder.glob("*/config.json"):  # without the place that a part was loaded from
            known = json.loads(path.read_text())
            if known.pop("_name_or_path", None) is not None:
                path.write_text(json.dumps(known, indent=2) + "\n")
        for path in folder.glob("text_encoder*/config.json"):
            # Newer transformers load in the type named here: single precision, as diffusers loads the other parts.
            edit_json(path, dtype="float32", torch_dtype="float32")
            if "CLIPTextModel" in json.loads(path.read_text())["architectures"]:
                prefix_keys(path.with_name("model.safetensors"), "text_model.")

    def is_matrix(self, name: str, parameter: torch.nn.Parameter) -> bool:
        """Whether Muon trains ``parameter``: a weight matrix of the blocks, modulations excepted."""
        modulation = any(part in name for part in (".linear.", "_mod."))
        return "transformer_blocks." in name and parameter.ndim == 2 and not modulation

    def starts_at_zero(self, name: str) -> bool:
        """Modulations and the output start at zero, so that every block starts as the identity."""
        modulation = any(part in name for part in (".norm1.linear", ".norm1_context.linear", ".norm.linear", "_mod."))
        return modulation or name.startswith(("proj_out", "norm_out"))

    def noisy(self, latents: torch.Tensor, generator: torch.Generator):
        """(noisy latents, levels [N], target): logit-normal levels, one in ten uniform so that the ends are seen."""
        level, noise = random_levels(len(latents), generator), torch.randn(latents.shape, generator=generator)
        share = level[:, None, None, None]
        return (1.0 - share) * latents + share * noise, level, noise - latents

    def combine(self, unguided: torch.Tensor, prompted: torch.Tensor, scale: float) -> torch.Tensor:
        """Classifier-free guidance as the pipeline does it."""
        return unguided + scale * (prompted - unguided)

    def velocity(self, network, latents, level: float, conditions: Conditions, empty=None, scale: float = 1.0):
        """Output of one sampling step under the guidance ``scale``; ``empty`` are the empty prompt's conditions.

        A family that embeds guidance is asked for it, unless ``empty`` is given: then it is guided by two calls.
        """
        count = len(latents)
        levels = torch.full((count,), level)
        if self.guidance_range and empty is None:
            return self.run(network, latents, levels, conditions, torch.full((count,), scale))
        if scale == 1.0:
            return self.run(network, latents, levels, conditions)
        both = {name: torch.cat([padded(empty[name], value), value]) for name, value in conditions.items()}
        output = self.run(network, latents.repeat(2, 1, 1, 1), levels.repeat(2), both)
        return self.combine(*output.split(count), scale)

    @torch.no_grad()
    def sample(self, network, conditions: Conditions, empty=None, settings=None, seed: int = 0) -> torch.Tensor:
        """Latents [N, C, H, W], one per row of the conditions, by the window sampler."""
        settings = settings or self.settings
        generator = torch.Generator().manual_seed(seed)
        shape = (len(next(iter(conditions.values()))), *self.latent_shape)
        latents = torch.randn(shape, generator=generator)
        schedule = sigmas(settings.steps).tolist()
        for index, (sigma, following) in enumerate(zip(schedule, schedule[1:])):
            output = self.velocity(network, latents, sigma, conditions, empty, settings.guidance_scale)
            inside = settings.window[0] <= index < settings.window[1]
            noise = torch.randn(shape, generator=generator) if inside else None
            level = settings.noise_level if inside else 0.0
            latents = step(latents, output, sigma, following, level, noise, schedule[1])
        return latents

    @torch.no_grad()
    def draw(self, pipeline, prompts: list[str], settings=None, seed: int = 0, **lengths: int) -> torch.Tensor:
        """Images [N, 3, 32, 32] in 0..1 of ``prompts``."""
        distinct = list(dict.fromkeys(prompts))
        told = self.conditions(pipeline, [*distinct, ""], **lengths)
        rows = torch.tensor([distinct.index(prompt) for prompt in prompts])
        empty = None if self.guidance_range else {name: value[-1:] for name, value in told.items()}
        chosen = {name: value[rows] for name, value in told.items()}
        return self.decode(pipeline.vae, self.sample(self.network(pipeline), chosen, empty, settings, seed))


def random_levels(count: int, generator: torch.Generator) -> torch.Tensor:
    """Levels [count] in 0..1, most of them in the middle."""
    level = torch.sigmoid(torch.randn(count, generator=generator))
    uniform = torch.rand(count, generator=generator)
    return torch.where(torch.rand(count, generator=generator) < 0.1, uniform, level)


def padded(empty: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The empty prompt's row [1, ...] for every row of ``like``."""
    return empty.expand(len(like), *empty.shape[1:])


def pack(latents: torch.Tensor) -> torch.Tensor:
    """[N, C, H, W] to tokens [N, H/2 * W/2, 4C], each a square of 2 x 2, as FLUX and Qwen-Image do."""
    count, channels, height, width = latents.shape
    squares = latents.view(count, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return squares.reshape(count, (height // 2) * (width // 2), channels * 4)


def unpack(tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The inverse of :func:`pack` for latents of that height and width."""
    count, _, depth = tokens.shape
    squares = tokens.view(count, height // 2, width // 2, depth // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return squares.reshape(count, depth // 4, height, width)


def from_files(classes_and_writers: list[tuple]) -> list:
    """Tokenizers, each read by its class from the files that its writer writes."""
    with tempfile.TemporaryDirectory() as name:
        made = []
        for index, (cls, write) in enumerate(classes_and_writers):
            write(Path(name) / str(index))
            made.append(cls.from_pretrained(Path(name) / str(index)))
        return made


def channel_statistics(vae) -> tuple[torch.Tensor, torch.Tensor]:
    """(mean, deviation) of the latents' channels, each [C, 1, 1], of a VAE that configures them one by one."""
    mean, deviation = torch.tensor(vae.config.latents_mean), torch.tensor(vae.config.latents_std)
    return mean[:, None, None], deviation[:, None, None]


def prefix_keys(path: Path, prefix: str) -> None:
    """Newer transformers write the class without this prefix, older ones want it, and both read it."""
    tensors = {prefix + key.removeprefix(prefix): value for key, value in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}, indent=2) + "\n")
