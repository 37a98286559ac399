"""What has to be known of a model before its denoiser can be watched: names and layouts, nothing else.

Each family (`taps_sd3`, `taps_flux`, `taps_qwen`, `taps_unet`, `taps_wan`) is a subclass that says what differs; all
machinery (rollout, signals, policy, previews) is written against this class and knows no model.

Words: a *state* is what the denoiser is asked about, in the host's own layout (packed tokens for Flux and Qwen-Image);
a *map* is the same as [rows, channels, height, width]; *rows* of a call are twice the batch's under guidance that is
asked for in one call.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch

from .process import Flow

CONTENT, HIDDEN = 1, 2  # of a text token: of the prompt's own words; not attended at all. 0: neither


@dataclass(frozen=True)
class Geometry:
    """The image that one call denoises. `channels`, `height`, `width` of its map (a video's frames are folded into the
    height), `tokens`: (height, width) of its grid of image tokens at the coarsest tapped block, which come first among
    the denoiser's image tokens; `frames` of a video's latent."""

    channels: int
    height: int
    width: int
    tokens: tuple[int, int]
    frames: int = 1

    @property
    def image_tokens(self) -> int:
        return self.tokens[0] * self.tokens[1]


@dataclass(frozen=True)
class Layout:
    """Of one call: what a block can't see in its own arguments."""

    geometry: Geometry
    text_tokens: int


class Taps(ABC):
    """Names and layouts of one family; `kwargs` is always the denoiser's call with every argument by name."""

    PIPELINES: tuple[str, ...] = ()  # class names
    DENOISER = "transformer"  # the pipeline's attribute
    POSITIONAL: tuple[str, ...] = ()  # names of the arguments that hosts give by position
    STATE = "hidden_states"
    TIME = "timestep"
    TEXT = "encoder_hidden_states"
    ROWS: tuple[str, ...] = ()  # arguments with a row's share along dimension 0 (tensor or list); "a.b": entry of a dict
    CONDITIONAL_HALF = 1  # of a doubled batch: which half carries the prompt
    CONDITIONAL_CALL = 0  # of a host that asks for both branches apart: which call does
    PROMPTS_ONCE = True  # several prompts with several images each may be given to the pipeline once each
    LORA_TARGETS: tuple[str, ...] = ()
    TIME_DIVISOR = 1.0  # between the scheduler's timesteps and what the denoiser is told
    PROCESS = Flow  # how states, predictions and noise levels belong together

    def why_not(self, pipeline: Any) -> str | None:
        """Why this very pipeline can't be followed, as the end of a sentence about it; None: it can."""
        return None

    # ------------------------------------------------------------------ layouts

    @abstractmethod
    def geometry(self, denoiser: Any, kwargs: dict) -> Geometry:
        """Of the image that this call denoises."""

    def map_of(self, state: torch.Tensor, geometry: Geometry) -> torch.Tensor:
        """[rows, channels, height, width] of a state of the image's own tokens."""
        return state

    def state_of(self, latents: torch.Tensor, geometry: Geometry) -> torch.Tensor:
        """The inverse of `map_of`."""
        return latents

    def image_part(self, state: torch.Tensor, geometry: Geometry) -> torch.Tensor:
        """The part of an argument or a prediction that is denoised: without the tokens of a reference image."""
        return state

    def with_image_part(self, state: torch.Tensor, part: torch.Tensor, geometry: Geometry) -> torch.Tensor:
        """An argument like `state` whose denoised part is `part`."""
        return part

    # ------------------------------------------------------------------ blocks

    @abstractmethod
    def blocks(self, denoiser: Any) -> list[tuple[str, Any]]:
        """(name, attention module) in order of depth; `denoiser` is bare (no wrapper of torch's around it)."""

    @abstractmethod
    def query_and_keys(self, attention: Any, kwargs: dict, rows: slice, layout: Layout) -> tuple:
        """What a block attends with, for `rows`: query of the image tokens, key of all image tokens (None for true
        cross-attention), key of the text; [rows, heads, tokens, head size], after normalisation and rotary embedding.
        `kwargs`: the attention module's own call by name."""

    @abstractmethod
    def hidden_blocks(self, denoiser: Any) -> list[tuple[str, Any]]:
        """(name, block) in order of depth, those whose hidden state can be taken."""

    @abstractmethod
    def hidden_state(self, output: Any, layout: Layout) -> torch.Tensor:
        """The image's hidden state [rows, tokens, width] in what a hidden block returns."""

    @abstractmethod
    def hidden_width(self, denoiser: Any, block: Any) -> int:
        """Of the hidden state that the block returns."""

    # ------------------------------------------------------------------ text

    def attended(self, kwargs: dict) -> torch.Tensor | None:
        """bool [rows, text tokens]: which text keys the model attends to; None: all of them."""
        return None

    def valid_tokens(self, kwargs: dict) -> torch.Tensor | None:
        """int [rows]: text tokens that are not padding; None: not said by the call."""
        return None

    @abstractmethod
    def content(self, pipeline: Any, prompt: str, text_tokens: int, longest: int, valid: int | None) -> list[int]:
        """[text_tokens] CONTENT for tokens of the prompt's own words, 0 for padding, special and template tokens.
        `longest`: the host's max_sequence_length, 0 where it is not known; `valid`: of `valid_tokens`."""

    def pooled(self, kwargs: dict) -> torch.Tensor:
        """The prompt as one vector a row, [rows, width]: by default the mean of its text tokens."""
        text = kwargs[self.TEXT].float()
        valid = self.valid_tokens(kwargs)
        if valid is None:
            return text.mean(dim=1)
        places = torch.arange(text.shape[1], device=text.device)
        mask = (places[None, :] < valid[:, None].to(text.device)).to(text.dtype)
        return (text * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)

    # ------------------------------------------------------------------ guidance

    def is_guided(self, pipeline: Any) -> bool | None:
        """Does the host ask for both branches? None: the pipeline does not say, the first step will show."""
        return None

    def guided(self, pipeline: Any, conditional: torch.Tensor, unconditional: torch.Tensor, arguments: dict) -> torch.Tensor:
        """The prediction that the host steps with; `arguments`: of the host's sampling function, by name."""
        return unconditional + pipeline.guidance_scale * (conditional - unconditional)

    # ------------------------------------------------------------------ images

    def decoder_input(self, vae: Any, state: torch.Tensor, geometry: Geometry) -> torch.Tensor:
        """What the host hands to its decoder for these states."""
        shift = getattr(vae.config, "shift_factor", None) or 0.0
        return self.map_of(state, geometry) / vae.config.scaling_factor + shift

    def state_of_decoder_input(self, vae: Any, decoded: torch.Tensor, geometry: Geometry) -> torch.Tensor:
        """The inverse of `decoder_input`, fp32."""
        shift = getattr(vae.config, "shift_factor", None) or 0.0
        return self.state_of((decoded.float() - shift) * vae.config.scaling_factor, geometry)

    def images(self, pipeline: Any, decoded: torch.Tensor) -> torch.Tensor:
        """[rows, 3, H, W] in 0…1 (a video: [rows, frames, 3, H, W]) of what the decoder returns."""
        return pipeline.image_processor.postprocess(decoded, output_type="pt")

    def decode(self, pipeline: Any, vae: Any, state: torch.Tensor, geometry: Geometry) -> torch.Tensor:
        """Images of states of the end, by the host's decoder or by one in its place."""
        decoded = vae.decode(self.decoder_input(vae, state, geometry).to(vae.dtype), return_dict=False)[0]
        return self.images(pipeline, decoded)


def heads(tensor: torch.Tensor, count: int) -> torch.Tensor:
    """[rows, tokens, heads·d] → [rows, heads, tokens, d], a view."""
    return tensor.unflatten(-1, (count, -1)).transpose(1, 2)


def own_words(tokenizer: Any, prompt: str, length: int) -> list[int]:
    """[length] CONTENT for tokens of the prompt, 0 for padding and special ones, as the tokenizer pads them."""
    if tokenizer is None:
        return [0] * length
    encoded = tokenizer(
        prompt, padding="max_length", max_length=length, truncation=True, return_special_tokens_mask=True
    )
    padding_or_special = encoded["special_tokens_mask"]
    return [int(real and not special) for real, special in zip(encoded["attention_mask"], padding_or_special)]


def bare(module: Any) -> Any:
    """The model inside what torch, accelerate and peft put around it: DDP, a compiled module."""
    while True:
        inner = getattr(module, "_orig_mod", None)
        if inner is None and type(module).__name__ in ("DistributedDataParallel", "DataParallel", "DeepSpeedEngine"):
            inner = module.module
        if inner is None:
            return module
        module = inner
