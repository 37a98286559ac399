"""Whether an early prediction may stand in for whole images where prompts are improved; see README.md."""
