"""flow-grpo's training scripts: what each needs and how it counts."""

from dataclasses import dataclass

PINNED, NEWER = ".venv-upstream", ".venv-upstream-newer"


@dataclass(frozen=True)
class Script:
    """One script, run with config.py's settings.

    `branches`: rows through the transformer for a row and step of a rollout, and `trained_branches` of training;
    `trained_steps` of the run's five; `mask`: rows of advantage 0 leave training; `evaluates` before the first update;
    `repeats` its prompts in the first batches; `environment`: the virtual environment whose versions it needs;
    `stand_ins` of observe/stand_ins.py without which it does not run here; `settings` of its own.
    """

    name: str
    model: str
    branches: int
    trained_branches: int
    trained_steps: int
    mask: bool
    evaluates: bool = True
    repeats: bool = True
    environment: str = PINNED
    stand_ins: tuple = ()
    settings: tuple = ()


EVERY_STEP = 4  # int(5 * .99)
WINDOW = 2
SCRIPTS = {
    script.name: script
    for script in (
        Script("train_sd3", "sd3", 2, 2, EVERY_STEP, mask=True),
        Script("train_sd3_fast", "sd3", 2, 2, WINDOW, mask=True),
        Script("train_sd3_GRPO_Guard", "sd3", 2, 2, EVERY_STEP, mask=True, evaluates=False, stand_ins=("wandb",)),
        Script("train_flux", "flux", 1, 1, EVERY_STEP, mask=False),
        Script("train_flux_fast", "flux", 1, 1, WINDOW, mask=False),
        Script("train_flux_kontext", "kontext", 1, 1, EVERY_STEP, mask=True, environment=NEWER),
        Script("train_qwenimage", "qwen", 2, 2, WINDOW, mask=False, evaluates=False, environment=NEWER,
               stand_ins=("cuda", "checkpoints")),
        Script("train_qwenimage_edit", "qwen_edit", 2, 2, WINDOW, mask=False, environment=NEWER,
               stand_ins=("cuda", "checkpoints", "references")),
        Script("train_wan2_1", "wan", 2, 2, EVERY_STEP, mask=True, evaluates=False, repeats=False,
               settings=(("reward_fn", {"video_ocr": 1.0}),)),
    )
}
