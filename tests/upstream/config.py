"""A very small run of each of flow-grpo's scripts.

Read by the scripts as ``--config tests/upstream/config.py:NAME``, NAME being the script's. Where the model and the
outputs are comes from the environment: UPSTREAM_MODEL (a pipeline folder) and UPSTREAM_OUT. UPSTREAM_SETTINGS, a JSON
object of dotted names and values, changes single settings.
"""

import json
import os
from pathlib import Path

import ml_collections

PROMPTS = Path(__file__).resolve().parents[2] / "experiments" / "shapes" / "prompts"
STEPS = 5
EDITS = ("train_flux_kontext", "train_qwenimage_edit")
WINDOWS = ("train_sd3_fast", "train_flux_fast", "train_qwenimage", "train_qwenimage_edit")  # noise in a few steps only


def base(out, rows, group):
    """Two ranks, groups of 4, two batches an update; noise in every step."""
    config = ml_collections.ConfigDict()
    config.run_name = config.run_project = "upstream"
    config.debug = False
    config.num_epochs = 100
    config.resume_from = None
    config.seed = 42
    config.logdir = os.path.join(out, "logs")
    config.save_dir = os.path.join(out, "save")
    config.save_freq = 1000
    config.eval_freq = 1000  # most scripts evaluate before the first update all the same
    config.num_checkpoint_limit = 1
    config.mixed_precision = "no"
    config.allow_tf32 = True
    config.use_lora = True
    config.resolution = 32
    config.activation_checkpointing = False
    config.fsdp_optimizer_offload = False
    config.prompt_fn = "general_ocr"  # the dataset of plain prompts, one a line
    config.prompt_fn_kwargs = {}
    config.reward_fn = ml_collections.ConfigDict({"jpeg_compressibility": 1.0})
    config.per_prompt_stat_tracking = True
    config.rationorm = True  # GRPO-Guard

    config.pretrained = ml_collections.ConfigDict()
    config.pretrained.model = os.environ["UPSTREAM_MODEL"]
    config.pretrained.revision = "main"

    config.sample = sample = ml_collections.ConfigDict()
    sample.num_steps = STEPS
    sample.eval_num_steps = 2
    sample.guidance_scale = 2.0
    sample.eval_guidance_scale = 2.0
    sample.train_batch_size = rows
    sample.num_image_per_prompt = group
    sample.test_batch_size = 2
    sample.num_batches_per_epoch = 2
    sample.sample_time_per_prompt = 1
    sample.global_std = True
    sample.noise_level = 0.7
    sample.same_latent = False
    sample.kl_reward = 0.0
    sample.sde_window_size = 0
    sample.sde_window_range = (0, STEPS)
    sample.sde_type = "sde"

    config.train = train = ml_collections.ConfigDict()
    train.batch_size = rows
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


def get_config(script="train_sd3"):
    out = os.environ["UPSTREAM_OUT"]
    config = base(out, rows=8, group=4)
    config.dataset = write_dataset(os.path.join(out, "prompts"), pictures=script in EDITS)
    if script in WINDOWS:
        config.sample.sde_window_size = 2
        config.sample.sde_window_range = (0, 2)
    if script == "train_wan2_1":
        config.frames, config.height, config.width = 5, 16, 32
    with config.unlocked():
        for name, value in json.loads(os.environ.get("UPSTREAM_SETTINGS", "{}")).items():
            *path, last = name.split(".")
            section = config
            for part in path:
                section = section[part]
            section[last] = tuple(value) if isinstance(value, list) else value
    return config


def write_dataset(folder, pictures):
    """A few hundred prompts to train on; four to test with, one batch on each of two ranks. For scripts that edit
    pictures each prompt has one, a square of a colour of its own."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", 200), ("test", 4)):
        prompts = (PROMPTS / f"{split}.txt").read_text().splitlines()
        chosen = prompts[:: len(prompts) // count][:count]
        write_whole(folder / f"{split}.txt", "".join(f"{prompt}\n" for prompt in chosen).encode())
        if pictures:
            lines = []
            for index, prompt in enumerate(chosen):
                name = f"{split}-{index % 16}.png"
                write_picture(folder / name, index % 16)
                lines.append(json.dumps({"prompt": prompt, "image": name}) + "\n")
            write_whole(folder / f"{split}_metadata.jsonl", "".join(lines).encode())
    return str(folder)


def write_picture(path, index):
    from PIL import Image

    if not path.exists():
        hidden = path.with_name(f"{os.getpid()}-{path.name}")
        Image.new("RGB", (32, 32), (16 * index, 255 - 16 * index, 8 * index)).save(hidden)
        hidden.replace(path)


def write_whole(path, content):
    """The ranks write the same files at the same time: each sees a whole one."""
    hidden = path.with_name(f"{os.getpid()}-{path.name}")
    hidden.write_bytes(content)
    hidden.replace(path)
