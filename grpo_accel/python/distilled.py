"""The distilled signal: an adapter on the policy that maps the decision's state to the end in one forward.

It learns from the run's own pairs (state, final latent), without labels, in the gap after an update's advantages, and
is on the host's model only inside its own calls. Its scores are audited against the plain preview's on kept rows and
it is dropped when it does not beat them; until it has learned, and after it was dropped, the preview stands in: those
batches have no seconds_distilled in the record, and a line in the log marks both ends.
"""

from __future__ import annotations

import time
from collections import deque
from contextlib import nullcontext

import numpy as np
import torch

from . import previews
from .lora import Lora
from .pairs import Pairs
from .peers import Peers
from .calls import argument, prediction_of, with_argument

LEARNING_RATE = 2e-3
PASSES_MAX = 20  # over the pairs, in one training: more would only recognise them
LOSS_SCALE = 1024.0  # keeps gradients in the range of half precision where the host computes in it
DROPPED, ABSENT = -1, -2  # in place of a number of rows: gone for good; nothing in this update
AUDIT_UPDATES = 20
AUDIT_GROUPS_MIN = 40
SEED = 20260101


class Template:
    """How to call the host's denoiser outside of a rollout: everything of its call but the rows."""

    def __init__(self, policy):
        call, taps = policy.prompted_call, policy.taps
        kwargs = policy.prompted_arguments()
        self.module, self.kwargs = call.module, {name: _ordinary(value) for name, value in kwargs.items()}
        self.taps, self.process, self.rows = taps, policy.process, policy.rows
        self.device, self.state_type = policy.device, kwargs[taps.STATE].dtype
        if kwargs[taps.STATE].shape != policy.state.shape:
            raise ValueError("a model that sees a reference image beside the state can't be distilled")
        time = kwargs[taps.TIME]
        self.time_type = time.dtype if isinstance(time, torch.Tensor) else torch.float32
        shares = [name for name in taps.ROWS if name not in (taps.STATE, taps.TIME)]
        self.texts = [name for name in shares if isinstance(argument(kwargs, name), torch.Tensor)]
        self.lists = [name for name in shares if isinstance(argument(kwargs, name), (list, tuple))]
        self.text_types = {name: argument(kwargs, name).dtype for name in self.texts}
        kind = self.device.type
        self._autocast = (kind, torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else None

    def autocast(self):
        return torch.autocast(self._autocast[0], dtype=self._autocast[1]) if self._autocast else nullcontext()

    def x0(self, pairs: list):
        """Guessed final states [pairs, …] fp32 by one unguided forward."""
        state = self.stack([pair.state for pair in pairs])
        times = [self.process.time(pair.sigma) / self.taps.TIME_DIVISOR for pair in pairs]
        kwargs = {**self.kwargs, self.taps.STATE: state.to(self.state_type),
                  self.taps.TIME: torch.tensor(times, device=self.device).to(self.time_type)}
        for name in self.texts:
            text = self.stack_texts([pair.arguments[name] for pair in pairs]).to(self.text_types[name])
            kwargs = with_argument(kwargs, name, text)
        for name in self.lists:  # of rows of one size, so of one value
            kwargs = with_argument(kwargs, name, [argument(kwargs, name)[0]] * len(pairs))
        with self.autocast():
            prediction = prediction_of(self.module(**kwargs)).float()
        rows = [self.process.x0(state[row], prediction[row], pair.sigma) for row, pair in enumerate(pairs)]
        return torch.stack(rows)

    def stack_texts(self, texts: list):
        """The same of texts, which some models pad to their batch's longest: padded with zeros to these rows' longest."""
        return torch.nn.utils.rnn.pad_sequence(texts, batch_first=True).to(self.device).float() \
            if texts[0].dim() > 0 else self.stack(texts)

    def stack(self, tensors: list):
        return torch.stack(tensors).to(self.device).float()


class Distilled:
    """One rank's adapter, the pairs it learns from, and its audit. Used from the host's main thread only."""

    def __init__(self, runtime, *, path, rank: int, every_updates: int, seconds: float, pairs: int):
        self._runtime = runtime
        self._path, self._rank = path, rank
        self._every_updates, self._seconds = every_updates, seconds
        self.pairs = Pairs(pairs)
        self.peers = Peers(runtime.world_size)
        self.lora = None
        self.template = None
        self.trained = False
        self.dropped = False
        self._ended = False  # every rank knows that some rank has dropped it: nobody exchanges any more
        self.errors = {}  # mean squared x0 error on held pairs, by name
        self._optimiser = None
        self._batch_rows = 0
        self._generator = torch.Generator().manual_seed(SEED + runtime.rank)
        self._audits = deque(maxlen=AUDIT_UPDATES)

    def speaks(self) -> bool:
        """Whether its own forward is worth asking: it has learned something and was not dropped."""
        return self.lora is not None and self.trained and not self.dropped

    def meet(self, policy) -> None:
        """Called at every decision: the first one gives the adapter its layers, or drops it and says why."""
        if self.dropped:
            return
        try:
            self._meet(policy)
        except Exception as error:  # previews and look-ahead must go on without it
            self.drop(f"{type(error).__name__}: {error}")

    def _meet(self, policy) -> None:
        self.template = Template(policy)
        self._batch_rows = self._batch_rows or policy.rows
        if self.lora is not None:
            return
        module = self.template.module
        if _is_sharded(module):
            self.drop("the model's weights are spread over ranks, where no rank may run it alone")
            return
        with torch.inference_mode(False):  # what a host in that mode makes can't be trained later
            self.lora = (
                Lora.load(self._path, module) if self._path
                else Lora.fresh(module, policy.taps.LORA_TARGETS, self._rank, SEED)
            )
        self.trained = self._path is not None

    def final_latent(self, policy):
        """x0 of every row by one unguided forward with the adapter on; [rows, …] fp32."""
        with self.lora.on(policy.prompted_call.module):
            prediction = policy.prediction_at(policy.state, policy.level, guided=False)
        return policy.process.x0(policy.state, prediction, policy.level)

    def arguments(self, policy) -> dict:
        return {name: argument(policy.prompted_arguments(), name) for name in self.template.texts}

    def drop(self, why: str) -> None:
        self.dropped = True
        self._runtime.warn_once("distilled", f"the distilled signal is dropped, the preview stands in for it: {why}")

    # ------------------------------------------------------------------ once an update, on every rank

    def after_update(self, updates: int, prompts, rewards, own_scores) -> None:
        """Audit, and training when it is due. Collective: every rank comes here in every update, whatever it has.

        prompts, rewards [N]: of all ranks; own_scores float32 [n, 2]: (distilled, preview) of this rank's rows in the
        same order, NaN where a row was stopped or has none; None where this rank has no batch to compare.
        """
        if self._ended:
            return
        try:
            said = self.peers.tell(*self._standing(own_scores))
            self._ended = any(rows == DROPPED for rows, _, _ in said)
            if self._ended and not self.dropped:
                self.drop("another rank can't use it")
            if self.dropped or len(set(said)) > 1 or said[0][0] == ABSENT:
                return  # ranks that saw different batches have nothing to compare in this update
            if self.trained:
                self._audit(prompts, rewards, self.peers.gather(torch.as_tensor(own_scores)).numpy())
            if not self.dropped and self._every_updates > 0 and updates % self._every_updates == 0:
                self._learn()
        except Exception as error:
            self.drop(f"{type(error).__name__}: {error}")

    def _standing(self, own_scores) -> tuple:
        """What the ranks must agree on before they exchange anything: rows, weights, trained or not."""
        if self.dropped:
            return DROPPED, 0, 0
        if self.lora is None or own_scores is None:
            return ABSENT, 0, 0
        return len(own_scores), sum(tensor.numel() for tensor in self.lora.tensors()), int(self.trained)

    def _audit(self, prompts, rewards, scores) -> None:
        """Within-group Spearman of both signals over kept rows of AUDIT_UPDATES updates; the same on all ranks."""
        if len(scores) == len(prompts):
            self._audits.append(group_spearmans(prompts, rewards, scores))
        found = [pair for update in self._audits for pair in update]
        if len(found) < AUDIT_GROUPS_MIN:
            return
        own, preview = np.mean(found, axis=0)
        if own <= preview:
            self.drop(f"within-group Spearman {own:.3f} against the preview's {preview:.3f} "
                      f"on {len(found)} groups of kept rows")

    def metrics(self) -> dict:
        found = [pair for update in self._audits for pair in update]
        own, preview = np.mean(found, axis=0) if found else (None, None)
        numbers = {"within_spearman": own, "preview_within_spearman": preview, **self.errors}
        known = {f"distilled/{name}": float(value) for name, value in numbers.items() if value is not None}
        return {**known, "distilled/active": int(self.speaks())}

    def _learn(self) -> None:
        """Trains on this rank's pairs for the seconds allowed, then takes the mean over the ranks by steps done."""
        started = time.perf_counter()
        failure, steps = None, 0
        try:
            with previews.generators_untouched():
                steps = self.train(self._seconds)
        except Exception as error:  # the others are waiting for this rank's part of the mean
            failure = error
        some_trained = self.peers.average(self.lora.tensors(), 0 if failure else steps)
        if failure is not None:
            raise failure
        if not some_trained:
            return
        begins = "" if self.trained else "; from here on it speaks for itself, no preview stands in for it"
        self.trained = True
        with previews.generators_untouched():
            self._measure()
        errors = ", ".join(f"{name} {value:.4f}" for name, value in self.errors.items())
        self._runtime.log_info(
            f"distilled: {steps} steps on {len(self.pairs)} pairs in {time.perf_counter() - started:.1f} s"
            + (f"; held-out {errors}" if errors else "") + begins)
        if self._runtime.rank == 0:
            self.lora.save(self._runtime.run_dir / "distilled")

    def train(self, seconds: float, steps_max: int | None = None) -> int:
        """Steps done on this rank's pairs. Only the adapter's tensors get gradients: no parameter of the host does."""
        pairs = self.pairs.trained()
        if not pairs:
            return 0
        tensors = self.lora.tensors()
        if self._optimiser is None:
            self._optimiser = torch.optim.AdamW(tensors, lr=LEARNING_RATE, weight_decay=0.0)
        limit = max(1, PASSES_MAX * len(pairs) // self._batch_rows) if steps_max is None else steps_max
        deadline = time.perf_counter() + seconds
        steps = 0
        while steps < limit and time.perf_counter() < deadline:
            picked = torch.randint(len(pairs), (min(self._batch_rows, len(pairs)),), generator=self._generator)
            try:
                self._step([pairs[index] for index in picked.tolist()], tensors)
            except torch.OutOfMemoryError:
                if self._batch_rows == 1:
                    raise
                self._batch_rows //= 2
                continue
            steps += 1
        return steps

    def _step(self, pairs: list, tensors: list) -> None:
        for tensor in tensors:
            tensor.requires_grad_(True)
        try:
            with torch.inference_mode(False), torch.enable_grad(), self.lora.on(self.template.module):
                finals = self.template.stack([pair.final for pair in pairs])
                loss = (self.template.x0(pairs) - finals).square().mean()
                gradients = torch.autograd.grad(loss * LOSS_SCALE, tensors)
        finally:
            for tensor in tensors:
                tensor.requires_grad_(False)
        if all(bool(torch.isfinite(gradient).all()) for gradient in gradients):
            for tensor, gradient in zip(tensors, gradients):
                tensor.grad = gradient / LOSS_SCALE
            self._optimiser.step()
            self._optimiser.zero_grad(set_to_none=True)

    def error(self, pairs: list) -> float:
        """Mean squared error of the adapter's x0 against the final latents of some pairs."""
        total = 0.0
        with torch.no_grad(), self.lora.on(self.template.module):
            for start in range(0, len(pairs), self._batch_rows):
                part = pairs[start: start + self._batch_rows]
                finals = self.template.stack([pair.final for pair in part])
                total += float((self.template.x0(part) - finals).square().mean()) * len(part)
        return total / len(pairs)

    def _measure(self) -> None:
        held = self.pairs.held()[-4 * self._batch_rows:]
        if held:
            self.errors = {"x0_error": self.error(held),
                           "preview_x0_error": sum(pair.preview_error for pair in held) / len(held)}


def _ordinary(value):
    """The value, or a copy that autograd takes where the host made it in inference mode."""
    if isinstance(value, dict):
        return {name: _ordinary(entry) for name, entry in value.items()}
    if not isinstance(value, torch.Tensor) or not value.is_inference():
        return value
    with torch.inference_mode(False):
        return value.clone()


def _is_sharded(module) -> bool:
    """FSDP or ZeRO-3: each forward is a collective of all ranks there."""
    if any(type(part).__name__ == "FullyShardedDataParallel" for part in module.modules()):
        return True
    return any(hasattr(part, "ds_id") or type(part).__name__ == "DTensor" for part in module.parameters())


def group_spearmans(prompts, rewards, scores) -> list:
    """[(ρ of the first score, ρ of the second)] of each group with enough kept rows whose rewards differ."""
    groups = np.unique(np.asarray(prompts), return_inverse=True)[1].reshape(-1)
    rewards, scores = np.asarray(rewards, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    known = np.isfinite(rewards) & np.isfinite(scores).all(axis=1)
    found = []
    for group in range(groups.max() + 1 if len(groups) else 0):
        rows = known & (groups == group)
        if rows.sum() >= 3 and np.ptp(rewards[rows]) > 0:
            found.append(tuple(_spearman(scores[rows, column], rewards[rows]) for column in (0, 1)))
    return found


def _spearman(a, b) -> float:
    """Rank correlation with mean ranks for ties; 0 where one of both does not vary."""
    a, b = _ranks(a), _ranks(b)
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / scale) if scale > 0 else 0.0


def _ranks(values):
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]
