"""`python -m grpo_accel.launch SCRIPT ARGS…`: runs an unmodified script with the runtime attached.

`grpo-accel run` execs this after it has checked the configuration and set the launch environment; the exit code
is the script's own.
"""

from __future__ import annotations

import os
import runpy
import sys
import time

from .attach import _Detached, attach


def _attach():
    config = os.environ.get("GRPO_ACCEL_CONFIG")
    if not config:
        return _Detached()
    overrides = [line for line in os.environ.get("GRPO_ACCEL_OVERRIDES", "").split("\n") if line]
    try:
        return attach(config, overrides)
    except Exception as error:  # whatever is wrong with us, the script runs
        if getattr(error, "status", None) == "config":
            print(f"grpo_accel: {error}", file=sys.stderr)
            raise SystemExit(2) from None
        print(f"grpo_accel: warning: not attached, the script runs as it is: {error}", file=sys.stderr)
        return _Detached()


def _settle_accelerate() -> None:
    """Newer accelerate is distributed without a GPU only when it is told to use the CPU; silently not, else."""
    import torch

    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.cuda.is_available():
        os.environ.setdefault("ACCELERATE_USE_CPU", "true")


def _let_gloo_rest() -> None:
    """torch 2.13 can hang for ever where a gloo group is destroyed right after a collective."""
    torch = sys.modules.get("torch")
    distributed = getattr(torch, "distributed", None)
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        if "gloo" in str(distributed.get_backend()):
            time.sleep(0.2)


def main(arguments: list) -> None:
    if not arguments:
        raise SystemExit("usage: python -m grpo_accel.launch SCRIPT ARGS…")
    script = arguments[0]
    sys.argv = list(arguments)
    sys.path[0] = os.path.dirname(os.path.abspath(script))
    _settle_accelerate()
    attachment = _attach()
    in_step = False
    try:
        runpy.run_path(script, run_name="__main__")
        in_step = True
    except SystemExit as leaving:
        in_step = leaving.code in (None, 0)
        raise
    finally:
        attachment.detach(in_step)
        _let_gloo_rest()


if __name__ == "__main__":
    main(sys.argv[1:])
