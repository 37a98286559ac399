"""Real diffusers pipelines of every family, as small as they get, with random weights; nothing is downloaded.

They have no text encoders: pipelines get embeddings. A version of diffusers that lacks a class skips the test and says
so. Weights come from a generator of their own, and no normalisation is left at one, so that leaving one out shows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable
from unittest import mock

import diffusers
import pytest
import torch

from grpo_accel.taps import Taps
from grpo_accel.taps_flux import Flux
from grpo_accel.taps_qwen import QwenImage
from grpo_accel.taps_sd3 import StableDiffusion3
from grpo_accel.taps_unet import UNet
from grpo_accel.taps_wan import Wan

TEXT_WIDTH, POOLED_WIDTH = 32, 64
ROWS, TEXT_TOKENS, PIXELS = 3, 7, (32, 16)  # (height, width), not square so that the two are told apart
MEAN = [0.3, -0.2, 0.1, 0.4, -0.5, 0.2, 0.6, -0.1, 0.3, 0.2, -0.4, 0.5, -0.3, 0.1, 0.2, -0.6]
DEVIATION = [1.3, 0.8, 1.1, 2.0, 0.7, 1.6, 0.9, 1.2, 1.4, 0.6, 1.8, 1.05, 0.85, 1.15, 0.95, 1.25]


def named(name: str) -> Any:
    """A class of diffusers, or a skipped test."""
    found = getattr(diffusers, name, None)
    if found is None:
        pytest.skip(f"diffusers {diffusers.__version__} has no {name}")
    return found


def randomised(module: torch.nn.Module, seed: int = 5) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return module.eval().requires_grad_(False)


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def image_decoder(**more: Any) -> torch.nn.Module:
    """AutoencoderKL of four channels that shrinks twice."""
    settings = dict(
        block_out_channels=(4, 8), in_channels=3, out_channels=3, latent_channels=4, norm_num_groups=2,
        layers_per_block=1, down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )
    return randomised(diffusers.AutoencoderKL(**{**settings, **more}))


# ---------------------------------------------------------------------- denoisers

def sd3_denoiser(dual_attention_layers: tuple[int, ...] = (0,)) -> torch.nn.Module:
    return randomised(named("SD3Transformer2DModel")(
        sample_size=16, patch_size=2, in_channels=4, out_channels=4, num_layers=3, attention_head_dim=8,
        num_attention_heads=4, caption_projection_dim=32, joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=POOLED_WIDTH, qk_norm="rms_norm", dual_attention_layers=dual_attention_layers))


def flux_denoiser(guidance_embeds: bool = True) -> torch.nn.Module:
    return randomised(named("FluxTransformer2DModel")(
        patch_size=1, in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=TEXT_WIDTH, pooled_projection_dim=POOLED_WIDTH, guidance_embeds=guidance_embeds,
        axes_dims_rope=(4, 4, 8)))


def qwen_denoiser() -> torch.nn.Module:
    return randomised(named("QwenImageTransformer2DModel")(
        patch_size=2, in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=TEXT_WIDTH, axes_dims_rope=(8, 4, 4)))


def sdxl_denoiser(**more: Any) -> torch.nn.Module:
    settings = dict(
        block_out_channels=(8, 16, 16), layers_per_block=1, sample_size=16, in_channels=4, out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=(2, 4, 4),
        transformer_layers_per_block=(1, 1, 2), use_linear_projection=True, cross_attention_dim=TEXT_WIDTH,
        norm_num_groups=4, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + POOLED_WIDTH,
    )
    return randomised(named("UNet2DConditionModel")(**{**settings, **more}))


def sd15_denoiser(**more: Any) -> torch.nn.Module:
    settings = dict(
        block_out_channels=(8, 16, 16), layers_per_block=2, sample_size=16, in_channels=4, out_channels=4,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"), attention_head_dim=4,
        cross_attention_dim=TEXT_WIDTH, norm_num_groups=4,
    )
    return randomised(named("UNet2DConditionModel")(**{**settings, **more}))


def wan_denoiser() -> torch.nn.Module:
    return randomised(named("WanTransformer3DModel")(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16,
        text_dim=TEXT_WIDTH, freq_dim=32, ffn_dim=32, num_layers=2, cross_attn_norm=True,
        qk_norm="rms_norm_across_heads", rope_max_seq_len=32))


# ---------------------------------------------------------------------- their calls, [ROWS, …] each

def _text(tokens: int = TEXT_TOKENS) -> torch.Tensor:
    return noise(ROWS, tokens, TEXT_WIDTH, seed=2)


def sd3_call() -> dict:
    return dict(
        hidden_states=noise(ROWS, 4, 16, 8), timestep=torch.full((ROWS,), 700.0), encoder_hidden_states=_text(),
        pooled_projections=noise(ROWS, POOLED_WIDTH, seed=3))


def _places(height: int, width: int, kind: int) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack((torch.full_like(rows, kind), rows, columns), dim=-1).reshape(-1, 3).float()


def flux_call(reference: tuple[int, int] | None = None) -> dict:
    places = [_places(8, 4, 0)] + ([_places(*reference, 1)] if reference else [])
    ids = torch.cat(places)
    return dict(
        hidden_states=noise(ROWS, len(ids), 16), timestep=torch.full((ROWS,), 0.7), guidance=torch.full((ROWS,), 3.5),
        pooled_projections=noise(ROWS, POOLED_WIDTH, seed=3), encoder_hidden_states=_text(),
        txt_ids=torch.zeros(TEXT_TOKENS, 3), img_ids=ids)


def qwen_call(reference: tuple[int, int] | None = None, lengths: tuple[int, ...] | None = (7, 4, 5)) -> dict:
    shapes = [(1, 4, 2)] + ([(1, *reference)] if reference else [])
    tokens = sum(height * width for _, height, width in shapes)
    call = dict(
        hidden_states=noise(ROWS, tokens, 16), timestep=torch.full((ROWS,), 0.7), encoder_hidden_states=_text(),
        encoder_hidden_states_mask=None, img_shapes=[shapes] * ROWS)
    if lengths is not None:
        call["encoder_hidden_states_mask"] = (torch.arange(TEXT_TOKENS) < torch.tensor(lengths)[:, None]).long()
    if takes(named("QwenImageTransformer2DModel").forward, "txt_seq_lens"):
        call["txt_seq_lens"] = list(lengths or (TEXT_TOKENS,) * ROWS)
    return call


def sdxl_call() -> dict:
    added = dict(text_embeds=noise(ROWS, POOLED_WIDTH, seed=3), time_ids=noise(ROWS, 6, seed=4))
    return dict(
        sample=noise(ROWS, 4, 16, 8), timestep=torch.tensor(700), encoder_hidden_states=_text(),
        added_cond_kwargs=added)


def sd15_call() -> dict:
    return dict(sample=noise(ROWS, 4, 16, 8), timestep=torch.tensor(700), encoder_hidden_states=_text())


def wan_call() -> dict:
    text = _text()
    text[1, 4:] = 0.0
    return dict(hidden_states=noise(ROWS, 16, 3, 4, 6), timestep=torch.full((ROWS,), 700.0), encoder_hidden_states=text)


def takes(function: Callable, name: str) -> bool:
    import inspect

    return name in inspect.signature(function).parameters


@dataclass
class Model:
    """A family's denoiser and one call of it; `text_first`: the order of the joint attention's tokens."""

    taps: Taps
    denoiser: Callable[[], torch.nn.Module]
    call: Callable[[], dict]
    text_first: bool = False
    fusable: Callable[[], torch.nn.Module] | None = None  # where diffusers can't fuse `denoiser`
    lora: tuple[str, ...] = field(default=("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj"))


MODELS = {
    "sd3": Model(StableDiffusion3(), sd3_denoiser, sd3_call, fusable=lambda: sd3_denoiser(dual_attention_layers=())),
    "flux": Model(Flux(), flux_denoiser, flux_call, text_first=True),
    "flux_kontext": Model(Flux(), flux_denoiser, lambda: flux_call((6, 3)), text_first=True),
    "qwen": Model(QwenImage(), qwen_denoiser, qwen_call, text_first=True),
    "qwen_unpadded": Model(QwenImage(), qwen_denoiser, lambda: qwen_call(lengths=None), text_first=True),
    "qwen_edit": Model(QwenImage(), qwen_denoiser, lambda: qwen_call((3, 3)), text_first=True),
    "sdxl": Model(UNet(), sdxl_denoiser, sdxl_call),
    "sd15": Model(UNet(), sd15_denoiser, sd15_call),
    "wan": Model(Wan(), wan_denoiser, wan_call),
}


# ---------------------------------------------------------------------- whole pipelines

def _flow() -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)


def _none(*names: str) -> dict:
    return dict.fromkeys(names)


def sd3_pipeline(steps: int) -> tuple[Any, dict]:
    texts = _none("text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3")
    pipeline = named("StableDiffusion3Pipeline")(
        transformer=sd3_denoiser(), vae=image_decoder(shift_factor=0.06, scaling_factor=1.5), scheduler=_flow(),
        **texts)
    return pipeline, dict(
        prompt_embeds=_text(), negative_prompt_embeds=noise(ROWS, TEXT_TOKENS, TEXT_WIDTH, seed=7),
        pooled_prompt_embeds=noise(ROWS, POOLED_WIDTH, seed=3), guidance_scale=3.0,
        negative_pooled_prompt_embeds=noise(ROWS, POOLED_WIDTH, seed=8), num_inference_steps=steps)


def _flux_parts() -> dict:
    texts = _none("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    vae = image_decoder(shift_factor=0.06, scaling_factor=1.5, use_quant_conv=False, use_post_quant_conv=False)
    return dict(transformer=flux_denoiser(), vae=vae, scheduler=_flow(), **texts)


def flux_pipeline(steps: int) -> tuple[Any, dict]:
    return named("FluxPipeline")(**_flux_parts()), dict(
        prompt_embeds=_text(), pooled_prompt_embeds=noise(ROWS, POOLED_WIDTH, seed=3), num_inference_steps=steps)


def flux_true_cfg_pipeline(steps: int) -> tuple[Any, dict]:
    pipeline, arguments = flux_pipeline(steps)
    return pipeline, dict(
        arguments, true_cfg_scale=2.5, negative_prompt_embeds=noise(ROWS, TEXT_TOKENS, TEXT_WIDTH, seed=7),
        negative_pooled_prompt_embeds=noise(ROWS, POOLED_WIDTH, seed=8))


def flux_kontext_pipeline(steps: int) -> tuple[Any, dict]:
    pipeline = named("FluxKontextPipeline")(**_flux_parts())
    _, arguments = flux_pipeline(steps)
    return pipeline, dict(arguments, image=noise(ROWS, 3, 24, 12).sigmoid(), max_area=32 * 16, _auto_resize=False)


def qwen_pipeline(steps: int) -> tuple[Any, dict]:
    vae = randomised(named("AutoencoderKLQwenImage")(
        base_dim=8, z_dim=4, dim_mult=[1, 2, 2], num_res_blocks=1, temperal_downsample=[False, True],
        latents_mean=MEAN[:4], latents_std=DEVIATION[:4]))
    pipeline = named("QwenImagePipeline")(
        transformer=qwen_denoiser(), vae=vae, scheduler=_flow(), **_none("text_encoder", "tokenizer"))
    mask = qwen_call()["encoder_hidden_states_mask"]
    return pipeline, dict(
        prompt_embeds=_text(), prompt_embeds_mask=mask, true_cfg_scale=2.5, num_inference_steps=steps,
        negative_prompt_embeds=noise(ROWS, TEXT_TOKENS, TEXT_WIDTH, seed=7), negative_prompt_embeds_mask=mask.flip(0))


def qwen_edit_pipeline(steps: int) -> tuple[Any, dict]:
    """An edit of a picture that is not blown up to a megapixel first, as the pipeline does it."""
    kind = named("QwenImageEditPipeline")
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit as module
    from PIL import Image

    class QwenImageEditPipeline(kind):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            with mock.patch.object(module, "calculate_dimensions", lambda area, ratio: (16, 24, None)):
                return super().__call__(*args, **kwargs)

    plain, arguments = qwen_pipeline(steps)
    parts = dict(transformer=plain.transformer, vae=plain.vae, scheduler=plain.scheduler)
    pipeline = QwenImageEditPipeline(**parts, **_none("text_encoder", "tokenizer", "processor"))
    return pipeline, dict(arguments, image=Image.effect_mandelbrot((16, 24), (-2, -1, 1, 1), 50).convert("RGB"))


def _diffusion(kind: str) -> Any:
    return diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1, prediction_type=kind)


def sdxl_pipeline(steps: int, **decoder: Any) -> tuple[Any, dict]:
    texts = _none("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    pipeline = named("StableDiffusionXLPipeline")(
        unet=sdxl_denoiser(), vae=image_decoder(scaling_factor=0.13, **decoder),
        scheduler=diffusers.EulerDiscreteScheduler(), add_watermarker=False, **texts)
    return pipeline, dict(
        prompt_embeds=_text(), negative_prompt_embeds=noise(ROWS, TEXT_TOKENS, TEXT_WIDTH, seed=7),
        pooled_prompt_embeds=noise(ROWS, POOLED_WIDTH, seed=3), guidance_scale=4.0, guidance_rescale=0.3,
        negative_pooled_prompt_embeds=noise(ROWS, POOLED_WIDTH, seed=8), num_inference_steps=steps)


def sdxl_moments_pipeline(steps: int) -> tuple[Any, dict]:
    return sdxl_pipeline(steps, latents_mean=MEAN[:4], latents_std=DEVIATION[:4])


def sd15_pipeline(steps: int) -> tuple[Any, dict]:
    texts = _none("text_encoder", "tokenizer", "safety_checker", "feature_extractor")
    pipeline = named("StableDiffusionPipeline")(
        unet=sd15_denoiser(), vae=image_decoder(scaling_factor=0.18), scheduler=_diffusion("v_prediction"),
        requires_safety_checker=False, **texts)
    return pipeline, dict(
        prompt_embeds=_text(), negative_prompt_embeds=noise(ROWS, TEXT_TOKENS, TEXT_WIDTH, seed=7),
        guidance_scale=4.0, num_inference_steps=steps)


def wan_pipeline(steps: int) -> tuple[Any, dict]:
    vae = randomised(named("AutoencoderKLWan")(
        base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
        latents_mean=MEAN, latents_std=DEVIATION))
    pipeline = named("WanPipeline")(
        transformer=wan_denoiser(), vae=vae, scheduler=_flow(), **_none("text_encoder", "tokenizer"))
    return pipeline, dict(
        prompt_embeds=_text(), negative_prompt_embeds=noise(ROWS, TEXT_TOKENS, TEXT_WIDTH, seed=7),
        guidance_scale=3.0, num_inference_steps=steps, num_frames=5, height=32, width=48)


PIPELINES = {
    "sd3": (MODELS["sd3"].taps, sd3_pipeline),
    "flux": (MODELS["flux"].taps, flux_pipeline),
    "flux_true_cfg": (MODELS["flux"].taps, flux_true_cfg_pipeline),
    "flux_kontext": (MODELS["flux"].taps, flux_kontext_pipeline),
    "qwen": (MODELS["qwen"].taps, qwen_pipeline),
    "qwen_edit": (MODELS["qwen_edit"].taps, qwen_edit_pipeline),
    "sdxl": (MODELS["sdxl"].taps, sdxl_pipeline),
    "sdxl_moments": (MODELS["sdxl"].taps, sdxl_moments_pipeline),
    "sd15": (MODELS["sd15"].taps, sd15_pipeline),
    "wan": (MODELS["wan"].taps, wan_pipeline),
}
