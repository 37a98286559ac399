"""The SD3-like family: joint blocks over image and text, guidance distilled into the network."""

from __future__ import annotations

from pathlib import Path

from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from transformers import CLIPTokenizer, T5TokenizerFast

from .. import text
from .family import Family, edit_json, from_files

LATENT_CHANNELS = 8
LATENT_SIZE = 8
TRANSFORMER = {
    "sample_size": LATENT_SIZE,
    "patch_size": 1,
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "num_layers": 6,
    "attention_head_dim": 32,
    "num_attention_heads": 3,
    "caption_projection_dim": 96,
    "joint_attention_dim": text.T5_WIDTH,
    "pooled_projection_dim": 2 * text.CLIP_WIDTH,
    "pos_embed_max_size": LATENT_SIZE,
    "qk_norm": "rms_norm",
}


class SD3(Family):
    name = "sd3"
    pipeline_name = "StableDiffusion3Pipeline"
    latent_shape = (LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE)
    vae_steps = 900
    flow_steps, distil_steps = 1000, 300
    long_padding = {"clip_length": 77, "t5_length": 128}

    def make_vae(self) -> AutoencoderKL:
        """Images [N, 3, 32, 32] in -1..1 to latents [N, 8, 8, 8]."""
        return AutoencoderKL(
            in_channels=3,
            out_channels=3,
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(16, 32, 64),
            layers_per_block=1,
            latent_channels=LATENT_CHANNELS,
            norm_num_groups=8,
            sample_size=32,
            scaling_factor=1.0,
            shift_factor=0.0,
            use_quant_conv=False,
            use_post_quant_conv=False,
            force_upcast=False,
        )

    def make_network(self) -> SD3Transformer2DModel:
        return SD3Transformer2DModel(**TRANSFORMER)

    def make_pipeline(self, vae, network) -> StableDiffusion3Pipeline:
        clip, t5 = (CLIPTokenizer, text.write_clip_tokenizer), (T5TokenizerFast, text.write_t5_tokenizer)
        tokenizers = from_files([clip, clip, t5])
        return StableDiffusion3Pipeline(
            transformer=network,
            scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0),
            vae=vae,
            text_encoder=text.make_clip_encoder(seed=1),
            tokenizer=tokenizers[0],
            text_encoder_2=text.make_clip_encoder(seed=2),
            tokenizer_2=tokenizers[1],
            text_encoder_3=text.make_t5_encoder(seed=3),
            tokenizer_3=tokenizers[2],
        )

    def write_tokenizers(self, folder: Path) -> None:
        text.write_clip_tokenizer(folder / "tokenizer")
        text.write_clip_tokenizer(folder / "tokenizer_2")
        text.write_t5_tokenizer(folder / "tokenizer_3")
        edit_json(folder / "model_index.json", tokenizer_3=["transformers", "T5TokenizerFast"])

    def conditions(self, pipeline, prompts, clip_length=text.TEXT_LENGTH, t5_length=text.TEXT_LENGTH):
        """text [N, clip_length + t5_length, 96] and pooled [N, 96]."""
        pipeline.tokenizer_max_length = clip_length
        told, _, pooled, _ = pipeline.encode_prompt(
            prompts, None, None, device="cpu", do_classifier_free_guidance=False, max_sequence_length=t5_length
        )
        return {"text": told, "pooled": pooled}

    def run(self, network, latents, level, conditions, guidance=None):
        return network(
            hidden_states=latents,
            timestep=1000.0 * level,
            encoder_hidden_states=conditions["text"],
            pooled_projections=conditions["pooled"],
            return_dict=False,
        )[0]
