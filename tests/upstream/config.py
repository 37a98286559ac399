"""A very small run of flow-grpo's scripts/train_sd3.py and train_sd3_fast.py on the shapes world.

Read by these scripts as ``--config tests/upstream/config.py:NAME``. Where the model and the outputs are
comes from the environment: UPSTREAM_MODEL (a pipeline folder) and UPSTREAM_OUT.
"""

import os
from pathlib import Path

import ml_collections

PROMPTS = Path(__file__).resolve().parents[2] / "experiments" / "shapes" / "prompts"
STEPS = 6


def train_sd3():
    """Two ranks of 6 rows, groups of 4, two batches an update; noise in every step."""
    out = os.environ["UPSTREAM_OUT"]
    config = ml_collections.ConfigDict()
    config.run_name = "upstream"
    config.debug = False
    config.num_epochs = 2
    config.resume_from = None
    config.seed = 42
    config.logdir = os.path.join(out, "logs")
    config.save_dir = os.path.join(out, "save")
    config.save_freq = 1000
    config.eval_freq = 1000  # the script evaluates before the first update all the same
    config.num_checkpoint_limit = 1
    config.mixed_precision = "no"
    config.allow_tf32 = True
    config.use_lora = True
    config.dataset = write_dataset(os.path.join(out, "prompts"))
    config.resolution = 32
    config.activation_checkpointing = False
    config.prompt_fn = "general_ocr"  # the dataset of plain prompts, one a line
    config.prompt_fn_kwargs = {}
    config.reward_fn = ml_collections.ConfigDict({"jpeg_compressibility": 1.0})
    config.per_prompt_stat_tracking = True

    config.pretrained = ml_collections.ConfigDict()
    config.pretrained.model = os.environ["UPSTREAM_MODEL"]
    config.pretrained.revision = "main"

    config.sample = sample = ml_collections.ConfigDict()
    sample.num_steps = STEPS
    sample.eval_num_steps = 2
    sample.guidance_scale = 2.0
    sample.eval_guidance_scale = 2.0
    sample.train_batch_size = 6
    sample.num_image_per_prompt = 4
    sample.test_batch_size = 2
    sample.num_batches_per_epoch = 2
    sample.global_std = True
    sample.noise_level = 0.7
    sample.same_latent = False
    sample.sde_window_size = 0
    sample.sde_window_range = (0, STEPS)
    sample.sde_type = "sde"

    config.train = train = ml_collections.ConfigDict()
    train.batch_size = 6
    train.use_8bit_adam = False
    train.learning_rate = 3e-4
    train.adam_beta1 = 0.9
    train.adam_beta2 = 0.999
    train.adam_weight_decay = 1e-4
    train.adam_epsilon = 1e-8
    train.gradient_accumulation_steps = 1
    train.max_grad_norm = 1.0
    train.num_inner_epochs = 1
    train.cfg = True
    train.adv_clip_max = 5
    train.clip_range = 1e-3
    train.timestep_fraction = 0.99
    train.beta = 0.0
    train.lora_path = None
    train.ema = False
    return config


def train_sd3_fast():
    """Noise in the first two steps only."""
    config = train_sd3()
    config.sample.sde_window_size = 2
    config.sample.sde_window_range = (0, 2)
    return config


def write_dataset(folder):
    """train.txt: a few hundred prompts; test.txt: four, one batch on each of two ranks."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for split, count in (("train", 200), ("test", 4)):
        prompts = (PROMPTS / f"{split}.txt").read_text().splitlines()
        chosen = prompts[:: len(prompts) // count][:count]
        (Path(folder) / f"{split}.txt").write_text("".join(f"{prompt}\n" for prompt in chosen))
    return folder


def get_config(name="train_sd3"):
    return {"train_sd3": train_sd3, "train_sd3_fast": train_sd3_fast}[name]()
