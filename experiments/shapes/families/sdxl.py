"""The SDXL-like family: a UNet with true cross-attention, v-prediction, Euler steps, guidance by a doubled batch."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from .. import text
from ..steps import Settings
from .family import Family, from_files, random_levels
from .sd3 import LATENT_CHANNELS, LATENT_SIZE

TIME_WIDTH = 8
UNET = {
    "sample_size": LATENT_SIZE,
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (48, 64),
    "layers_per_block": 2,
    "transformer_layers_per_block": (1, 2),
    "reverse_transformer_layers_per_block": (1, 1),
    "attention_head_dim": (3, 4),  # heads of 16; the name is the class's
    "norm_num_groups": 16,
    "use_linear_projection": True,
    "cross_attention_dim": 2 * text.CLIP_WIDTH,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": TIME_WIDTH,
    "projection_class_embeddings_input_dim": 6 * TIME_WIDTH + text.CLIP_WIDTH,
}
SIZES = (32.0, 32.0, 0.0, 0.0, 32.0, 32.0)  # original size, crop, target size: what the pipeline says of 32 x 32
VAE = Path(__file__).parents[1] / "models" / "sd3" / "vae"


def make_scheduler() -> EulerDiscreteScheduler:
    return EulerDiscreteScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
    )


class SDXL(Family):
    """Levels are time steps 0..999 of a variance-preserving schedule; the autoencoder is the SD3-like family's."""

    name = "sdxl"
    pipeline_name = "StableDiffusionXLPipeline"
    network_name = "unet"
    latent_shape = (LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE)
    settings = Settings(steps=20, guidance_scale=4.0, window=(0, 0))
    train_guidance = 4.0
    vae_steps = 0

    def make_vae(self) -> AutoencoderKL:
        """The SD3-like VAE without its shift of .04, which this pipeline does not apply."""
        vae = AutoencoderKL.from_pretrained(VAE)
        vae.register_to_config(shift_factor=None)
        return vae

    def make_network(self) -> UNet2DConditionModel:
        return UNet2DConditionModel(**UNET)

    def make_pipeline(self, vae, network) -> StableDiffusionXLPipeline:
        first, second = from_files([(CLIPTokenizer, text.write_clip_tokenizer)] * 2)
        return StableDiffusionXLPipeline(
            unet=network,
            scheduler=make_scheduler(),
            vae=vae,
            text_encoder=text.make_clip_encoder(seed=1, cls=CLIPTextModel),
            tokenizer=first,
            text_encoder_2=text.make_copying_clip_encoder(seed=5),
            tokenizer_2=second,
            force_zeros_for_empty_prompt=True,
            add_watermarker=False,
        )

    def write_tokenizers(self, folder: Path) -> None:
        text.write_clip_tokenizer(folder / "tokenizer")
        text.write_clip_tokenizer(folder / "tokenizer_2")

    def conditions(self, pipeline, prompts):
        """text [N, 16, 96] and pooled [N, 48], zeros for the empty prompt."""
        told, _, pooled, _ = pipeline.encode_prompt(prompts, device="cpu", do_classifier_free_guidance=False)
        said = torch.tensor([float(bool(prompt)) for prompt in prompts])
        return {"text": told * said[:, None, None], "pooled": pooled * said[:, None]}

    def run(self, network, latents, level, conditions, guidance=None):
        sizes = torch.tensor(SIZES).expand(len(latents), -1)
        return network(
            latents,
            level,
            encoder_hidden_states=conditions["text"],
            added_cond_kwargs={"text_embeds": conditions["pooled"], "time_ids": sizes},
            return_dict=False,
        )[0]

    def is_matrix(self, name, parameter):
        return super().is_matrix(name, parameter) or (".resnets." in name and parameter.ndim == 4)

    def starts_at_zero(self, name):
        return "conv_out" in name or ".conv2." in name or ".proj_out." in name

    def noisy(self, latents, generator):
        """(noisy latents, time steps [N], velocity target)."""
        step = (1000.0 * random_levels(len(latents), generator)).long().clamp(max=999)
        kept = make_scheduler().alphas_cumprod[step][:, None, None, None]
        noise = torch.randn(latents.shape, generator=generator)
        signal, spread = kept.sqrt(), (1.0 - kept).sqrt()
        return signal * latents + spread * noise, step.float(), signal * noise - spread * latents

    @torch.no_grad()
    def sample(self, network, conditions, empty=None, settings=None, seed=0):
        """Latents by the pipeline's own scheduler; it has no stochastic steps, so a window is refused."""
        settings = settings or self.settings
        if settings.window[0] < settings.window[1]:
            raise ValueError("the SDXL-like family samples by plain Euler steps: give an empty window")
        scheduler = make_scheduler()
        scheduler.set_timesteps(settings.steps)
        shape, generator = (len(conditions["text"]), *self.latent_shape), torch.Generator().manual_seed(seed)
        latents = torch.randn(shape, generator=generator) * scheduler.init_noise_sigma
        for level in scheduler.timesteps:
            scaled = scheduler.scale_model_input(latents, level)
            output = self.velocity(network, scaled, level.item(), conditions, empty, settings.guidance_scale)
            latents = scheduler.step(output, level, latents, return_dict=False)[0]
        return latents
