"""The FLUX-like family: double and single blocks over packed latents, guidance distilled into an embedding."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from transformers import CLIPTextModel, CLIPTokenizer, T5TokenizerFast

from .. import text
from ..steps import Settings
from .family import Family, edit_json, from_files, pack, unpack

LATENT_CHANNELS = 4
LATENT_SIZE = 16
TRANSFORMER = {
    "patch_size": 1,
    "in_channels": 4 * LATENT_CHANNELS,
    "num_layers": 2,
    "num_single_layers": 4,
    "attention_head_dim": 32,
    "num_attention_heads": 3,
    "joint_attention_dim": text.T5_WIDTH,
    "pooled_projection_dim": text.CLIP_WIDTH,
    "guidance_embeds": True,
    "axes_dims_rope": (8, 12, 12),
}


def image_ids(height: int, width: int) -> torch.Tensor:
    """(0, row, column) of every token, [height * width, 3]."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], -1).view(-1, 3).float()


class Flux(Family):
    name = "flux"
    pipeline_name = "FluxPipeline"
    latent_shape = (LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE)
    settings = Settings(guidance_scale=3.5)
    flow_steps, distil_steps = 900, 250
    guidance_range = (1.0, 4.5)
    long_padding = {"t5_length": 128}

    def make_vae(self) -> AutoencoderKL:
        """Images [N, 3, 32, 32] in -1..1 to latents [N, 4, 16, 16]."""
        return AutoencoderKL(
            in_channels=3,
            out_channels=3,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(16, 32),
            layers_per_block=1,
            latent_channels=LATENT_CHANNELS,
            norm_num_groups=8,
            sample_size=32,
            scaling_factor=1.0,
            shift_factor=0.0,
            use_quant_conv=False,
            use_post_quant_conv=False,
            mid_block_add_attention=False,
            force_upcast=False,
        )

    def make_network(self) -> FluxTransformer2DModel:
        return FluxTransformer2DModel(**TRANSFORMER)

    def make_pipeline(self, vae, network) -> FluxPipeline:
        clip, t5 = from_files([(CLIPTokenizer, text.write_clip_tokenizer), (T5TokenizerFast, text.write_t5_tokenizer)])
        return FluxPipeline(
            transformer=network,
            scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0),
            vae=vae,
            text_encoder=text.make_clip_encoder(seed=1, cls=CLIPTextModel),
            tokenizer=clip,
            text_encoder_2=text.make_t5_encoder(seed=3),
            tokenizer_2=t5,
        )

    def write_tokenizers(self, folder: Path) -> None:
        text.write_clip_tokenizer(folder / "tokenizer")
        text.write_t5_tokenizer(folder / "tokenizer_2")
        edit_json(folder / "model_index.json", tokenizer_2=["transformers", "T5TokenizerFast"])

    def conditions(self, pipeline, prompts, t5_length=text.TEXT_LENGTH):
        """text [N, t5_length, 96] and pooled [N, 48]."""
        told, pooled, _ = pipeline.encode_prompt(prompts, None, device="cpu", max_sequence_length=t5_length)
        return {"text": told, "pooled": pooled}

    def run(self, network, latents, level, conditions, guidance=None):
        """Without ``guidance`` the network is told 1, which it learns as no guidance at all."""
        height, width = latents.shape[2:]
        told = conditions["text"]
        tokens = network(
            hidden_states=pack(latents),
            timestep=level,
            guidance=torch.ones(len(latents)) if guidance is None else guidance,
            encoder_hidden_states=told,
            pooled_projections=conditions["pooled"],
            txt_ids=torch.zeros(told.shape[1], 3),
            img_ids=image_ids(height // 2, width // 2),
            return_dict=False,
        )[0]
        return unpack(tokens, height, width)
