"""The modules of the small trainer, under the names that flow-grpo gives to the same things."""
