"""A session that only keeps what the adapter hands it: for tests of values before they become features."""

from types import SimpleNamespace

INPUTS = ("attention", "x0", "cfg", "hidden", "prompt", "preview", "lookahead", "distilled")


class Look:
    """What a batch was shown at one of its steps, and what was reported by the time of the decision."""

    def __init__(self):
        self.attention, self.vectors, self.scores = [], {}, {}
        self.latent = self.guidance = self.state_seen = None
        self.phases = {}


class Batch:
    """`looks` has one entry a decision; what is asked of the batch itself is of the newest one."""

    def __init__(self, session, options):
        self.session = session
        self.options = options
        self.rows = options["rows"]
        self.kept = list(range(self.rows))
        self.looks = [Look()]
        self.decided = 0
        self.final_seen = None
        self.phases, self.rewards = {}, {}
        self.abandoned = False

    def __getattr__(self, name):
        return getattr(self.looks[-1], name)

    def blocks(self):
        return [0, 2]

    def steps(self):
        return list(self.session.steps)

    def _look(self, *tensors):
        assert all(len(tensor) == len(self.kept) for tensor in tensors), "rows that still run, no other ones"
        if len(self.looks) == self.decided:
            self.looks.append(Look())
        return self.looks[-1]

    def observe_attention(self, tap, query, key_image, key_text, content):
        look = self._look(query, key_image, key_text, content)
        look.attention.append((tap, query.clone(), key_image.clone(), key_text.clone(), content))

    def observe_latent(self, latent, velocity, sigma):
        self._look(latent, velocity).latent = latent.clone(), velocity.clone(), sigma

    def observe_guidance(self, conditional, unconditional):
        self._look(conditional, unconditional).guidance = conditional.clone(), unconditional.clone()

    def observe_vectors(self, name, vectors):
        self._look(vectors).vectors[name] = vectors.clone()

    def observe_scores(self, name, scores):
        self._look(scores).scores[name] = scores.copy()

    def state(self, latent):
        self._look(latent).state_seen = latent.clone()

    def final(self, rows, finals):
        self.final_seen = list(rows), finals.clone()

    def decide(self):
        look = self._look()
        look.phases = dict(self.phases)
        plan = self.session.kept
        if plan is not None and self.decided < len(plan):
            self.kept = plan[self.decided]
        self.decided += 1
        steps = self.session.steps
        return SimpleNamespace(
            rows=self.rows, kept=self.kept, prediction=[0.0] * self.rows, pruned=len(self.kept) < self.rows,
            audited=False, reason="", next_step=steps[self.decided] if self.decided < len(steps) else -1,
        )

    def reward(self, scorer, rows, values):
        self.rewards[scorer] = dict(zip(rows, values))

    def seconds(self, phase, seconds):
        self.phases[phase] = self.phases.get(phase, 0.0) + seconds

    def abandon(self):
        self.abandoned = True


class Session:
    """steps: at which batches look; kept: rows that go on after each, none: all. Fields of `info` as keywords."""

    def __init__(self, run_dir, inputs, kept=None, steps=(2,), **fields):
        self.kept = kept
        self.steps = steps
        self.batches = []
        self.missed = 0
        bits = sum(1 << INPUTS.index(name) for name in inputs)
        defaults = {
            "mode": 2, "rank": 0, "world_size": 1, "inputs": bits, "updates": 0, "wandb": 0,
            "run_dir": str(run_dir).encode(),
            "hidden_block": b"middle", "lookahead_steps": 2, "lookahead_guided": 1, "preview_scorers": None,
            "preview_decoder": None, "distilled_lora": None, "distilled_rank": 4, "distilled_every_updates": 1,
            "distilled_seconds": 60.0, "distilled_pairs": 64, "finals": 0, "drop_stopped_rows": 0,
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
