"""Where flow-grpo is met: modules whose functions are replaced, and what their callers and arguments say."""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys

PATCHES = "flow_grpo.diffusers_patch."
PIPELINE_FUNCTIONS = {  # by module: the function that samples a batch
    PATCHES + "sd3_pipeline_with_logprob": "pipeline_with_logprob",
    PATCHES + "sd3_pipeline_with_logprob_fast": "pipeline_with_logprob",
    PATCHES + "flux_pipeline_with_logprob": "pipeline_with_logprob",
    PATCHES + "flux_pipeline_with_logprob_fast": "pipeline_with_logprob",
    PATCHES + "flux_kontext_pipeline_with_logprob": "pipeline_with_logprob",
    PATCHES + "qwenimage_pipeline_with_logprob": "pipeline_with_logprob",
    PATCHES + "qwenimage_edit_pipeline_with_logprob": "pipeline_with_logprob",
    PATCHES + "wan_pipeline_with_logprob": "wan_pipeline_with_logprob",
}
ENCODER_FUNCTIONS = {  # by module: the function that sees the prompts as text, where the sampler sees embeddings only
    PATCHES + "train_dreambooth_lora_sd3": "encode_prompt",
    PATCHES + "train_dreambooth_lora_flux": "encode_prompt",
    PATCHES + "wan_prompt_embedding": "encode_prompt",
}
REFUSED = {  # modules of hosts whose rollouts can't be stopped, and why
    "flow_grpo.bagel": "BAGEL samples one prompt at a time through an inferencer of its own, so the members of a group "
    "never wait for each other at a denoising step",
}
DDPO_MODULES = DDPO_STEP, DDPO_TRAINER, DDPO_TRACKER = (  # of TRL, see `ddpo`
    "trl.models.modeling_sd_base", "trl.trainer.ddpo_trainer", "trl.trainer.utils",
)
REWARD_MODULE = "flow_grpo.rewards"
TRACKER_MODULE = "flow_grpo.stat_tracking"
SEAM_MODULES = (*PIPELINE_FUNCTIONS, *ENCODER_FUNCTIONS, *DDPO_MODULES, *REFUSED, REWARD_MODULE, TRACKER_MODULE)


class SeamFinder(importlib.abc.MetaPathFinder):
    """Lets the ordinary import run, then patches the module before its importer sees it."""

    def __init__(self, runtime):
        self._runtime = runtime
        self._busy = set()

    def find_spec(self, name, path=None, target=None):
        if name not in SEAM_MODULES or name in self._busy:
            return None
        self._busy.add(name)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._busy.discard(name)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            self._runtime.patch(module)

        spec.loader.exec_module = exec_module
        return spec


def callers_metadata():
    """`prompt_metadata` of the function that called the pipeline: it reaches no other function before the scorer.

    Read only. Before Python 3.13 a look at a frame's variables keeps them alive, so the look is forgotten again.
    """
    frame = sys._getframe(4)
    variables = frame.f_locals
    metadata = variables.get("prompt_metadata")
    if type(variables) is dict and variables is not frame.f_globals:
        variables.clear()
    return metadata


def call_arguments(signature, pipeline, args, kwargs) -> dict:
    """Arguments of a call of the host's sampling function by name, defaults included."""
    bound = signature.bind_partial(pipeline, *args, **kwargs)
    bound.apply_defaults()
    return bound.arguments


def is_rollout(arguments: dict) -> bool:
    """Training rollouts add noise; evaluation calls the same function without (or says so by name)."""
    if arguments.get("determistic") or arguments.get("deterministic"):
        return False
    return bool(arguments.get("noise_level", 1))


def noise_window(arguments: dict) -> tuple:
    """Half-open range of steps that may be noisy; (-1, -1) where all may be, or where it is not known.

    The host draws the window's place inside the range, each rank its own: only the range is certain.
    """
    size, bounds = arguments.get("sde_window_size"), arguments.get("sde_window_range")
    if not size or bounds is None or len(bounds) != 2:
        return -1, -1
    return int(bounds[0]), int(bounds[1])


def images_of(result):
    """The images (or videos) in what a sampling function returns."""
    if isinstance(result, dict) and "images" in result:
        return result["images"]
    if isinstance(result, tuple):
        return result[0]
    for name in ("images", "frames"):
        if hasattr(result, name):
            return getattr(result, name)
    return result
