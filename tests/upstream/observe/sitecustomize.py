"""Watches an unmodified flow-grpo script and ends it; Python runs this file at start when it is on PYTHONPATH.

flow-grpo's scripts train for ever. Here they end after ``OBSERVE_UPDATES`` updates, on every rank at the
same place: at the first prompt that is encoded after the last wanted update. What was seen is written to
``OBSERVE_DIR``, as ``rank-<r>-update-<u>.npz`` (the script's own prompts, rewards, advantages and last latents, and the
rows that passed through the transformer) and ``rank-<r>-end.json`` (a digest of the trained weights).

Nothing that the script computes is changed, and a guest may wrap the same functions before or after. What a script
needs and this machine lacks is in ``stand_ins.py``, for the scripts that OBSERVE_STAND_INS names it for.
"""

import functools
import hashlib
import importlib.abc
import importlib.machinery
import json
import os
import sys
import time
from pathlib import Path


class Seen:
    """What was counted since the last update."""

    updates = 0
    sampled_rows = 0  # rows through the transformer without gradients: rollouts and evaluation
    trained_rows = 0  # and with gradients
    scored_rows = 0  # images that the reward function saw
    transformer = None


def rank():
    return int(os.environ.get("RANK", "0"))


def output(name):
    return Path(os.environ["OBSERVE_DIR"]) / f"rank-{rank()}-{name}"


def watch_transformer(module):
    """Counts the rows of every call of the module's transformer."""
    import torch

    kind = next(value for name, value in vars(module).items()
                if name.endswith(("Transformer2DModel", "Transformer3DModel")) and value.__module__ == module.__name__)
    forward = kind.forward

    @functools.wraps(forward)
    def counted(self, hidden_states, *args, **kwargs):
        Seen.transformer = self
        if torch.is_grad_enabled():
            Seen.trained_rows += len(hidden_states)
        else:
            Seen.sampled_rows += len(hidden_states)
        return forward(self, hidden_states, *args, **kwargs)

    kind.forward = counted


def watch_rewards(module):
    """Counts the images that are scored. The reward is the JPEG size (of a video: of its frames) and, so that no two rows
    have the same one and no kept row an advantage of 0, a thousandth of the brightness and of the rank: some scripts draw
    the same noise on every rank."""
    size_of_stills = module.jpeg_incompressibility()

    def score_stills(images):
        brightness = images.float().mean(dim=(1, 2, 3)).numpy()
        return -size_of_stills(images, None, None)[0] / 500 + 1e-3 * (brightness + rank())

    def counting(of_images):
        def made():
            def score(images, prompts, metadata):
                Seen.scored_rows += len(images)
                return of_images(images)
            return score
        return made

    module.jpeg_compressibility = counting(lambda images: (score_stills(images), {}))
    module.video_ocr_score = counting(lambda videos: ([score_stills(frames).mean() for frames in videos], {}))


def calling_locals(*names):
    """Local variables of the nearest calling frame that has all of ``names``."""
    frame = sys._getframe(1)
    while frame is not None and not all(name in frame.f_locals for name in names):
        frame = frame.f_back
    if frame is None:
        raise RuntimeError(f"no calling frame has {', '.join(names)}: the script's names have changed")
    return frame.f_locals


def watch_tracker(module):
    """``clear`` follows ``update``: the script's variables then hold what it is about to train on."""
    clear = module.PerPromptStatTracker.clear

    @functools.wraps(clear)
    def observed(self):
        import numpy as np

        script = calling_locals("prompts", "gathered_rewards", "advantages")
        np.savez(
            output(f"update-{Seen.updates}.npz"),
            prompts=np.array(script["prompts"]),
            advantages=np.asarray(script["advantages"]),
            latents=script["samples"]["next_latents"][:, -1].float().numpy(),
            sampled_rows=Seen.sampled_rows,
            scored_rows=Seen.scored_rows,
            trained_rows_before=Seen.trained_rows,
            **{f"reward_{name}": np.asarray(v) for name, v in script["gathered_rewards"].items()},
        )
        Seen.updates += 1
        Seen.sampled_rows = Seen.trained_rows = Seen.scored_rows = 0
        return clear(self)

    module.PerPromptStatTracker.clear = observed


def digest_of_trained_weights():
    """sha256 over all weights of the transformer that are trained (under FSDP: of the rank's share of them)."""
    digest = hashlib.sha256()
    for name, parameter in sorted(Seen.transformer.named_parameters()):
        if parameter.requires_grad:
            digest.update(name.encode() + parameter.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def ending(encode_prompt):
    """Ends the script when it begins another update than the wanted ones."""

    @functools.wraps(encode_prompt)
    def observed(*args, **kwargs):
        if Seen.updates == int(os.environ["OBSERVE_UPDATES"]):
            summary = {
                "updates": Seen.updates,
                "trained_rows_after_last_update": Seen.trained_rows,
                "weights_sha256": digest_of_trained_weights(),
            }
            output("end.json").write_text(json.dumps(summary) + "\n")
            # Lets the thread of the gloo group finish its last collective: it needs Python's lock, which the
            # group's destruction would hold while it waits for the thread.
            time.sleep(0.1)
            sys.exit(0)
        return encode_prompt(*args, **kwargs)

    return observed


def watch_prompts(module):
    module.encode_prompt = ending(module.encode_prompt)


def watch_pipeline(module):
    """Scripts that leave the encoding to the pipeline."""
    for name, kind in vars(module).items():
        if name.startswith("QwenImage") and name.endswith("Pipeline") and kind.__module__ == module.__name__:
            kind.encode_prompt = ending(kind.encode_prompt)


MODELS, PIPELINES = "diffusers.models.transformers.transformer_", "diffusers.pipelines.qwenimage.pipeline_qwenimage"
ENCODERS = "flow_grpo.diffusers_patch."
WATCHED = {
    **dict.fromkeys((MODELS + "sd3", MODELS + "flux", MODELS + "qwenimage", MODELS + "wan"), watch_transformer),
    **dict.fromkeys((PIPELINES, PIPELINES + "_edit"), watch_pipeline),
    "flow_grpo.stat_tracking": watch_tracker,
    "flow_grpo.rewards": watch_rewards,
    **dict.fromkeys((ENCODERS + "train_dreambooth_lora_sd3", ENCODERS + "train_dreambooth_lora_flux",
                     ENCODERS + "wan_prompt_embedding"), watch_prompts),
}


def both(first, second):
    """A function that does to a module what ``first`` does and then, if there is one, what ``second`` does."""

    def watch(module):
        first(module)
        if second is not None:
            second(module)

    return watch


class WatchingLoader(importlib.abc.Loader):
    """Loads a module by its own loader, then lets ``watch`` wrap what is in it."""

    def __init__(self, loader, watch):
        self.loader, self.watch = loader, watch

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        self.loader.exec_module(module)
        self.watch(module)


class WatchingFinder(importlib.abc.MetaPathFinder):
    """Finds the watched modules in the ordinary places."""

    def find_spec(self, name, path, target=None):
        if name not in WATCHED:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None:
            spec.loader = WatchingLoader(spec.loader, WATCHED[name])
        return spec


if "OBSERVE_DIR" in os.environ:
    import stand_ins

    for name, stand_in in stand_ins.wanted(os.environ.get("OBSERVE_STAND_INS", "").split()):
        WATCHED[name] = both(stand_in, WATCHED.get(name))
    sys.meta_path.insert(0, WatchingFinder())
