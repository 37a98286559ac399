"""grpo_accel: stops diffusion-RL rollouts that will not teach anything.

    with grpo_accel.attach("accel.yaml"):
        …  # flow-grpo's own training, unmodified

or, without touching the script: `mpirun -np N grpo-accel run --config accel.yaml -- SCRIPT ARGS…`.
"""

from .attach import attach
from .library import GrpoAccelError
from .prompts import Optimised, optimize_prompt
from .record import open_record
from .seeds import Selection, select_seeds

__all__ = ["GrpoAccelError", "Optimised", "Selection", "attach", "open_record", "optimize_prompt", "select_seeds"]
