"""Writes the SD3-like model folder: ``python -m experiments.shapes.build --untrained --out FOLDER``."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import CLIPTokenizer, T5TokenizerFast

from . import text

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


def make_vae() -> AutoencoderKL:
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


def make_transformer() -> SD3Transformer2DModel:
    return SD3Transformer2DModel(**TRANSFORMER)


def make_pipeline(vae: AutoencoderKL, transformer: SD3Transformer2DModel) -> StableDiffusion3Pipeline:
    """The pipeline around the two trained parts; tokenizers and text encoders are fixed by their seeds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text.write_clip_tokenizer(folder / "clip")
        text.write_t5_tokenizer(folder / "t5")
        clip_tokenizers = [CLIPTokenizer.from_pretrained(folder / "clip") for _ in range(2)]
        t5_tokenizer = T5TokenizerFast.from_pretrained(folder / "t5")
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0),
        vae=vae,
        text_encoder=text.make_clip_encoder(seed=1),
        tokenizer=clip_tokenizers[0],
        text_encoder_2=text.make_clip_encoder(seed=2),
        tokenizer_2=clip_tokenizers[1],
        text_encoder_3=text.make_t5_encoder(seed=3),
        tokenizer_3=t5_tokenizer,
    )


def save_pipeline(pipeline: StableDiffusion3Pipeline, folder: Path) -> None:
    """Writes the folder in fp16; tokenizer files are our own, so that old and new transformers read them."""
    pipeline.to(torch.float16).save_pretrained(folder)
    for name in ("tokenizer", "tokenizer_2", "tokenizer_3"):
        for path in (folder / name).iterdir():
            path.unlink()
    text.write_clip_tokenizer(folder / "tokenizer")
    text.write_clip_tokenizer(folder / "tokenizer_2")
    text.write_t5_tokenizer(folder / "tokenizer_3")
    pipeline.to(torch.float32)
    _edit_json(folder / "model_index.json", tokenizer_3=["transformers", "T5TokenizerFast"])
    for name in ("text_encoder", "text_encoder_2", "text_encoder_3"):
        # Newer transformers load in the type named here: single precision, as diffusers loads the other parts.
        _edit_json(folder / name / "config.json", dtype="float32", torch_dtype="float32")


def _edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}, indent=2) + "\n")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--untrained", action="store_true", required=True, help="random weights (the only choice)")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    torch.manual_seed(arguments.seed)
    save_pipeline(make_pipeline(make_vae(), make_transformer()), arguments.out)


if __name__ == "__main__":
    main()
