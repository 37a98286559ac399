"""Writes the smallest pipeline folder that one of flow-grpo's scripts loads: ``python models.py FAMILY FOLDER``.

Run by the interpreter that will run the script, so that its versions of diffusers and transformers read what they
wrote. Weights are random, and far enough from where training starts that every row's image is another one.
"""

import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from experiments.shapes import text  # noqa: E402
from experiments.shapes.families import FAMILIES, flux, qwen, sd3  # noqa: E402
from experiments.shapes.families.family import from_files  # noqa: E402
from observe.stand_ins import leave_out_videos  # noqa: E402

CHANNELS = 16  # of Wan's latents
NARROW = {"attention_head_dim": 16, "num_attention_heads": 2, "num_layers": 2}
sd3.TRANSFORMER.update(num_layers=2)
flux.TRANSFORMER.update(NARROW, num_layers=1, num_single_layers=1, axes_dims_rope=(4, 4, 8))
qwen.TRANSFORMER.update(NARROW, axes_dims_rope=(8, 4, 4))


def randomised(module, amount=0.05):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(amount * torch.randn(parameter.shape, generator=generator))
    return module


def varied(family):
    """The family's decoder; Qwen-Image's is so far from grey that no two images of a group have one JPEG size."""
    return randomised(family.make_vae(), 0.1) if family.name == "qwen" else family.make_vae()


def save(family, pipeline, folder):
    """Written and read by the same versions: only the tokenizers are of the shapes world's own making."""
    pipeline.save_pretrained(folder)
    for path in folder.glob("tokenizer*/*"):
        path.unlink()
    family.write_tokenizers(folder)


def write_shapes(name, folder):
    """An untrained model of the shapes world: sd3, flux or qwen."""
    family = FAMILIES[name]
    torch.manual_seed(0)
    save(family, family.make_pipeline(varied(family), randomised(family.make_network())), folder)


def write_kontext(_, folder):
    """The FLUX of the shapes world in Kontext's pipeline: the reference's tokens stand behind the image's."""
    from diffusers import FluxKontextPipeline

    family = FAMILIES["flux"]
    torch.manual_seed(0)
    plain = family.make_pipeline(family.make_vae(), randomised(family.make_network()))
    parts = {name: part for name, part in plain.components.items() if part is not None}
    save(family, FluxKontextPipeline(**parts), folder)


def write_qwen_edit(_, folder):
    """The Qwen-Image of the shapes world in the editing pipeline, with a processor of pictures as small as they get."""
    from diffusers import QwenImageEditPipeline
    from transformers import Qwen2VLImageProcessor, Qwen2VLProcessor

    family = FAMILIES["qwen"]
    torch.manual_seed(0)
    plain = family.make_pipeline(varied(family), randomised(family.make_network()))
    leave_out_videos(Qwen2VLProcessor)
    # Not resized: the script's pictures lie in -1…1, which only the processor that wants torchvision resizes.
    processor = Qwen2VLProcessor(Qwen2VLImageProcessor(do_resize=False), plain.tokenizer)
    save(family, QwenImageEditPipeline(**plain.components, processor=processor), folder)


def write_sd15(_, folder):
    """Stable Diffusion 1.5's parts with the text encoder of the shapes world, which TRL trains."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(8, 16), layers_per_block=1, sample_size=16, in_channels=4, out_channels=4,
        norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=4, cross_attention_dim=text.CLIP_WIDTH,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 16), layers_per_block=1, latent_channels=4, norm_num_groups=4, sample_size=32,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )
    StableDiffusionPipeline(
        unet=randomised(unet), vae=randomised(vae), text_encoder=text.make_clip_encoder(seed=1, cls=CLIPTextModel),
        tokenizer=from_files([(CLIPTokenizer, text.write_clip_tokenizer)])[0], safety_checker=None,
        feature_extractor=None, scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        requires_safety_checker=False,
    ).save_pretrained(folder)


def write_wan(_, folder):
    """Wan2.1's parts and scheduler; a video of 5 frames is 2 latent frames of 4 x 4."""
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
    from transformers import T5TokenizerFast

    torch.manual_seed(0)
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=CHANNELS, out_channels=CHANNELS,
        text_dim=text.T5_WIDTH, freq_dim=32, ffn_dim=48, num_layers=2, cross_attn_norm=True,
        qk_norm="rms_norm_across_heads", rope_max_seq_len=32,
    )
    vae = AutoencoderKLWan(
        base_dim=4, z_dim=CHANNELS, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
        latents_mean=[0.1] * CHANNELS, latents_std=[1.1] * CHANNELS,
    )
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, num_train_timesteps=1000)
    tokenizer = from_files([(T5TokenizerFast, text.write_t5_tokenizer)])[0]
    WanPipeline(
        transformer=randomised(transformer), vae=randomised(vae, 0.1), scheduler=scheduler,
        text_encoder=text.make_t5_encoder(seed=3), tokenizer=tokenizer,
    ).save_pretrained(folder)
    for path in (folder / "tokenizer").iterdir():
        path.unlink()
    text.write_t5_tokenizer(folder / "tokenizer")


WRITERS = {
    "sd3": write_shapes, "flux": write_shapes, "qwen": write_shapes, "kontext": write_kontext,
    "qwen_edit": write_qwen_edit, "sd15": write_sd15, "wan": write_wan,
}


if __name__ == "__main__":
    family, target = sys.argv[1:]
    WRITERS[family](family, Path(target))
