"""What the tests of single rollouts share: a small pipeline, its texts, a call of the host's function."""

import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import mini_flow_grpo  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

mini_flow_grpo.use_its_modules()
PROMPTS = ["a red circle", "a blue square"] * 6
STEPS = 6


def make_pipeline(folder):
    """An untrained pipeline whose transformer says something."""
    from diffusers import StableDiffusion3Pipeline

    pipeline = StableDiffusion3Pipeline.from_pretrained(mini_flow_grpo.build_model(folder / "sd3"))
    pipeline.set_progress_bar_config(disable=True)
    torch.manual_seed(0)
    with torch.no_grad():  # an untrained model's output is zero
        for parameter in pipeline.transformer.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return pipeline


def forget_host():
    """The next import of flow_grpo is a first one."""
    for name in [name for name in sys.modules if name.split(".")[0] == "flow_grpo"]:
        del sys.modules[name]


def encode(pipeline, prompts=PROMPTS):
    from flow_grpo.diffusers_patch.train_dreambooth_lora_sd3 import encode_prompt

    encoders = [pipeline.text_encoder, pipeline.text_encoder_2, pipeline.text_encoder_3]
    tokenizers = [pipeline.tokenizer, pipeline.tokenizer_2, pipeline.tokenizer_3]
    with torch.no_grad():
        return encode_prompt(encoders, tokenizers, list(prompts), 16), encode_prompt(encoders, tokenizers, [""], 16)


def sample(function, pipeline, embeds, guidance, noise_level=0.7, **more):
    """(images, latents, log-probabilities, …) of the host's function, always from the same random streams."""
    (text, pooled), (no_text, no_pooled) = embeds
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    return function(
        pipeline, prompt_embeds=text, pooled_prompt_embeds=pooled,
        negative_prompt_embeds=no_text.expand_as(text), negative_pooled_prompt_embeds=no_pooled.expand_as(pooled),
        num_inference_steps=STEPS, guidance_scale=guidance, output_type="pt", height=32, width=32,
        noise_level=noise_level, **more,
    )


def meet_the_tracker(rewards=None):
    """One update, of these rewards or any: only a host whose tracker was seen is pruned."""
    from flow_grpo.stat_tracking import PerPromptStatTracker

    drawn = np.random.default_rng(0).normal(size=len(PROMPTS))
    return PerPromptStatTracker(True).update(PROMPTS, np.asarray(drawn if rewards is None else rewards)[:, None])
