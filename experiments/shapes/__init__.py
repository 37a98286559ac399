"""shapes: a small world of coloured shapes with prompts, an exact scorer and diffusion models trained on it."""
