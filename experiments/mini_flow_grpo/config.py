"""Settings of the small trainer, under flow-grpo's names.

Used as ``--config experiments/mini_flow_grpo/config.py:NAME``.

``shapes_window`` trains on the first steps only (the others follow the ODE), ``shapes_sde`` on all steps;
``shapes_flux``, ``shapes_qwen`` and ``shapes_sdxl`` are the first with the other models.
``test_window`` and ``test_sde`` are the same in miniature, the first with an adapter. Any field can be
overridden on the command line, for instance ``--config.num_epochs=20 --config.sample.num_groups=4``.
"""

import sys
from pathlib import Path

import ml_collections

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from experiments.shapes.sampler import SETTINGS  # how the shapes models were made to be sampled

SHAPES = ROOT / "experiments" / "shapes"


def base():
    config = ml_collections.ConfigDict()
    config.seed = 42
    config.num_epochs = 80  # updates; the run ends after them
    config.save_dir = "runs/mini_flow_grpo"
    config.save_freq = 0  # updates between checkpoints besides the last; 0 keeps the last only
    config.eval_freq = 20  # updates between evaluations; 0 never evaluates
    config.mixed_precision = "no"
    config.num_threads = 1  # of torch, per rank; 0 leaves torch's own choice
    config.dataset = str(SHAPES / "prompts")  # train.txt and test.txt, one prompt a line
    config.resolution = 32
    config.max_sequence_length = SETTINGS.max_sequence_length  # of T5
    config.reward_fn = ml_collections.ConfigDict({"shapes": 1.0})

    config.pretrained = ml_collections.ConfigDict()
    config.pretrained.model = str(SHAPES / "models" / "sd3")

    # use_lora trains an adapter of the attention. Without it, the weights learn whose names begin with one
    # of trained_modules; ("",) is all of them. The embedding of time and pooled text steers every block with
    # a fortieth of the weights, and so with little of the noise of a small batch's gradient.
    config.use_lora = False
    config.trained_modules = ("time_text_embed.",)
    config.lora = ml_collections.ConfigDict()
    config.lora.rank = 32
    config.lora.alpha = 64

    config.sample = sample = ml_collections.ConfigDict()
    sample.num_steps = SETTINGS.steps
    sample.eval_num_steps = SETTINGS.steps
    sample.guidance_scale = SETTINGS.guidance_scale  # 1 or less samples without classifier-free guidance
    sample.num_groups = 8  # prompts an update, over all ranks and batches
    sample.num_image_per_prompt = 12  # K, the group size
    sample.num_batches_per_epoch = 2  # rollout batches an update
    sample.train_batch_size = 0  # rows per rank and batch; 0 derives it from the three above
    sample.test_batch_size = 24
    sample.test_prompts = 0  # held-out prompts, evenly spaced in the list; 0 takes all
    sample.test_images_per_prompt = 6
    sample.global_std = True
    sample.noise_level = SETTINGS.noise_level
    sample.sde_window_size = SETTINGS.window[1] - SETTINGS.window[0]  # 0 makes all steps noisy
    sample.sde_window_range = SETTINGS.window

    config.train = train = ml_collections.ConfigDict()
    train.learning_rate = 2.5e-4
    train.adam_beta1 = 0.9
    train.adam_beta2 = 0.999
    train.adam_weight_decay = 1e-4
    train.adam_epsilon = 1e-8
    train.gradient_accumulation_steps = 1  # micro-batches (one a rollout batch) an optimizer step
    train.max_grad_norm = 1.0
    train.num_inner_epochs = 1
    train.adv_clip_max = 5.0
    train.clip_range = 2e-3  # log-probabilities are means over the latent: ratios stay close to 1
    train.timestep_fraction = 0.99  # of the steps that are trained where all steps are noisy
    return config


def shapes_window():
    return base()


def shapes_flux():
    """The FLUX-like model: guidance is an argument of its transformer, so a step is one forward."""
    config = base()
    config.pretrained.model = str(SHAPES / "models" / "flux")
    config.sample.guidance_scale = 3.5
    return config


def shapes_qwen():
    """The Qwen-Image-like model under classifier-free guidance."""
    config = base()
    config.pretrained.model = str(SHAPES / "models" / "qwen")
    config.sample.guidance_scale = 3.0
    return config


def shapes_sdxl():
    """The SDXL-like model under classifier-free guidance; the UNet's embeddings of time and pooled text learn."""
    config = base()
    config.pretrained.model = str(SHAPES / "models" / "sdxl")
    config.trained_modules = ("time_embedding.", "add_embedding.")
    config.sample.guidance_scale = 4.0
    config.sample.noise_level = 0.5  # share of the noise that an ancestral step could add
    return config


def shapes_sde():
    config = base()
    config.sample.sde_window_size = 0
    return config


def _tiny(config):
    config.num_epochs = 2
    config.eval_freq = 2
    config.sample.num_steps = 4
    config.sample.eval_num_steps = 4
    config.sample.num_groups = 4
    config.sample.num_image_per_prompt = 4
    config.sample.test_batch_size = 3
    config.sample.test_prompts = 5
    config.sample.test_images_per_prompt = 1
    return config


def test_window():
    config = _tiny(shapes_window())
    config.use_lora = True
    return config


def test_sde():
    return _tiny(shapes_sde())


CONFIGS = {
    function.__name__: function
    for function in (
        shapes_window, shapes_flux, shapes_qwen, shapes_sdxl, shapes_sde, test_window, test_sde,
    )
}


def get_config(name="shapes_window"):
    if name not in CONFIGS:
        raise ValueError(f"unknown configuration {name!r}, known: {', '.join(CONFIGS)}")
    return CONFIGS[name]()
