"""Watches an unmodified flow-grpo script and ends it; Python runs this file at start when it is on PYTHONPATH.

flow-grpo's scripts train for ever. Here they end after ``OBSERVE_UPDATES`` updates, on every rank at the
same place: at the first prompt that is encoded after the last wanted update. What was seen is written to
``OBSERVE_DIR``, as ``rank-<r>-update-<u>.npz`` (the script's own prompts, rewards and advantages, and the rows
that passed through the transformer) and ``rank-<r>-end.json`` (a digest of the trained weights).

Nothing that the script computes is changed, and a guest may wrap the same functions before or after.
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
    transformer = None


def output(name):
    return Path(os.environ["OBSERVE_DIR"]) / f"rank-{os.environ.get('RANK', '0')}-{name}"


def watch_transformer(module):
    """Counts the rows of every call of the Stable Diffusion 3 transformer."""
    import torch

    forward = module.SD3Transformer2DModel.forward

    @functools.wraps(forward)
    def counted(self, hidden_states, *args, **kwargs):
        Seen.transformer = self
        if torch.is_grad_enabled():
            Seen.trained_rows += len(hidden_states)
        else:
            Seen.sampled_rows += len(hidden_states)
        return forward(self, hidden_states, *args, **kwargs)

    module.SD3Transformer2DModel.forward = counted


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
            sampled_rows=Seen.sampled_rows,
            trained_rows_before=Seen.trained_rows,
            **{f"reward_{name}": np.asarray(v) for name, v in script["gathered_rewards"].items()},
        )
        Seen.updates += 1
        Seen.sampled_rows = Seen.trained_rows = 0
        return clear(self)

    module.PerPromptStatTracker.clear = observed


def digest_of_trained_weights():
    """sha256 over all weights of the transformer that are trained, in the order of their names."""
    digest = hashlib.sha256()
    for name, parameter in sorted(Seen.transformer.named_parameters()):
        if parameter.requires_grad:
            digest.update(name.encode() + parameter.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def watch_prompts(module):
    """Ends the script when it begins another update than the wanted ones."""
    encode_prompt = module.encode_prompt

    @functools.wraps(encode_prompt)
    def ending(*args, **kwargs):
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

    module.encode_prompt = ending


WATCHED = {
    "diffusers.models.transformers.transformer_sd3": watch_transformer,
    "flow_grpo.stat_tracking": watch_tracker,
    "flow_grpo.diffusers_patch.train_dreambooth_lora_sd3": watch_prompts,
}


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
    sys.meta_path.insert(0, WatchingFinder())
