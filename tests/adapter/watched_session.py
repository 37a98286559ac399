"""A session that only keeps what the adapter hands it: for tests of values before they become features."""

from types import SimpleNamespace

INPUTS = ("attention", "x0", "cfg", "hidden", "prompt", "preview", "lookahead", "distilled")


class Batch:
    def __init__(self, session, options):
        self.session = session
        self.options = options
        self.rows = options["rows"]
        self.decision_step = session.decision_step
        self.attention, self.vectors, self.scores = [], {}, {}
        self.latent = self.guidance = self.state_seen = self.final_seen = None
        self.phases, self.rewards = {}, {}
        self.abandoned = False

    def blocks(self):
        return [0, 2]

    def observe_attention(self, tap, query, key_image, key_text, content):
        self.attention.append((tap, query.clone(), key_image.clone(), key_text.clone(), content))

    def observe_latent(self, latent, velocity, sigma):
        self.latent = latent.clone(), velocity.clone(), sigma

    def observe_guidance(self, conditional, unconditional):
        self.guidance = conditional.clone(), unconditional.clone()

    def observe_vectors(self, name, vectors):
        self.vectors[name] = vectors.clone()

    def observe_scores(self, name, scores):
        self.scores[name] = scores.copy()

    def state(self, latent):
        self.state_seen = latent.clone()

    def final(self, rows, finals):
        self.final_seen = list(rows), finals.clone()

    def decide(self):
        kept = self.session.kept if self.session.kept is not None else list(range(self.rows))
        return SimpleNamespace(
            rows=self.rows, kept=kept, prediction=[0.0] * self.rows, pruned=len(kept) < self.rows, audited=False,
            reason="",
        )

    def reward(self, scorer, rows, values):
        self.rewards[scorer] = dict(zip(rows, values))

    def seconds(self, phase, seconds):
        self.phases[phase] = seconds

    def abandon(self):
        self.abandoned = True


class Session:
    """kept: rows that go on, none: all of them. Fields of `info` as keywords."""

    def __init__(self, run_dir, inputs, kept=None, decision_step=2, **fields):
        self.kept = kept
        self.decision_step = decision_step
        self.batches = []
        self.missed = 0
        bits = sum(1 << INPUTS.index(name) for name in inputs)
        defaults = {
            "mode": 2, "rank": 0, "world_size": 1, "inputs": bits, "updates": 0, "wandb": 0,
            "run_dir": str(run_dir).encode(),
            "hidden_block": b"middle", "lookahead_steps": 2, "lookahead_guided": 1, "preview_scorers": None,
            "preview_decoder": None, "distilled_lora": None, "distilled_rank": 4, "distilled_every_updates": 1,
            "distilled_seconds": 60.0, "distilled_pairs": 64, "finals": 0,
        }
        self._info = SimpleNamespace(**{**defaults, **fields})

    def info(self):
        return self._info

    def begin_batch(self, **options):
        self.batches.append(Batch(self, options))
        return self.batches[-1]

    def missed_batch(self):
        self.missed += 1

    def end_update(self, groups, rewards, host_advantages, host_std, prunable, batches):
        self._info.updates += 1
        return host_advantages

    def metrics_json(self):
        return "{}"

    def close(self, in_step, batches=()):
        return None
