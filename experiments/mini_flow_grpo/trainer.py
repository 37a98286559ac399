"""Group-relative policy optimisation of a diffusers pipeline: all that does not depend on the model.

``train_sd3.py``, ``train_flux.py``, ``train_qwenimage.py`` and ``train_sdxl.py`` each add what their model needs.
Unlike flow-grpo's scripts, a run ends after ``config.num_epochs`` updates.

Writes ``<save_dir>/progress.jsonl``, one line an update (see ``Trainer.write_progress``), the single rewards
of each evaluation into ``evaluations.jsonl`` beside it, and the trained weights under
``<save_dir>/checkpoints``.
"""

import contextlib
import json
import sys
import time
from abc import ABC, abstractmethod
from concurrent import futures
from pathlib import Path

HERE = Path(__file__).resolve().parent
for folder in (HERE, HERE.parents[1]):  # the packages flow_grpo and experiments
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

import torch
from absl import app, flags
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers.utils.logging import disable_progress_bar as disable_diffusers_progress_bar
from ml_collections import config_flags
from peft import LoraConfig, get_peft_model
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers.utils.logging import disable_progress_bar as disable_transformers_progress_bar

import flow_grpo.rewards
from flow_grpo.diffusers_patch.sd3_sde_with_logprob import sde_step_with_logprob
from flow_grpo.stat_tracking import PerPromptStatTracker

FLAGS = flags.FLAGS
config_flags.DEFINE_config_file("config", f"{HERE / 'config.py'}:shapes_window", "Training configuration.")


class TextPromptDataset(Dataset):
    """Prompts of ``<folder>/<split>.txt``, one a line."""

    def __init__(self, folder, split):
        self.prompts = (Path(folder) / f"{split}.txt").read_text().splitlines()

    def __len__(self):
        return len(self.prompts)

    def __getitem__(self, index):
        return {"prompt": self.prompts[index], "metadata": {"index": index}}

    @staticmethod
    def collate_fn(examples):
        return [e["prompt"] for e in examples], [e["metadata"] for e in examples]


class DistributedKRepeatSampler(Sampler):
    """Deals groups of k equal prompts over all ranks.

    Each epoch draws ``num_replicas * batch_size / k`` different prompts, repeats each k times, shuffles the
    whole world's rows and cuts them into one batch a rank. All ranks compute the same permutation.
    """

    def __init__(self, dataset, batch_size, k, num_replicas, rank, seed=0):
        rows = num_replicas * batch_size
        if rows % k != 0:
            raise ValueError(f"{num_replicas} ranks x {batch_size} rows can't be cut into groups of {k}")
        if rows // k > len(dataset):
            raise ValueError(f"a batch needs {rows // k} different prompts, the dataset has {len(dataset)}")
        self.dataset, self.batch_size, self.k = dataset, batch_size, k
        self.num_replicas, self.rank, self.seed = num_replicas, rank, seed
        self.epoch = 0

    def __iter__(self):
        while True:
            generator = torch.Generator().manual_seed(self.seed + self.epoch)
            groups = self.num_replicas * self.batch_size // self.k
            prompts = torch.randperm(len(self.dataset), generator=generator)[:groups]
            rows = prompts.repeat_interleave(self.k)
            rows = rows[torch.randperm(len(rows), generator=generator)]
            yield rows.view(self.num_replicas, self.batch_size)[self.rank].tolist()

    def set_epoch(self, epoch):
        self.epoch = epoch


class RowCounter:
    """Counts the rows that pass through the denoiser, sampling and training apart."""

    def __init__(self, denoiser):
        self.reset()
        denoiser.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, module, args, kwargs):
        rows = len(args[0] if args else kwargs.get("hidden_states", kwargs.get("sample")))
        if torch.is_grad_enabled():
            self.trained += rows
        else:
            self.sampled += rows

    def reset(self):
        self.sampled = self.trained = 0


@contextlib.contextmanager
def timed(seconds, name):
    """Adds the block's wall-clock to ``seconds[name]``."""
    started = time.perf_counter()
    yield
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - started


def rows_per_rank(config, num_processes):
    """Rows of a rollout batch on each rank."""
    sample = config.sample
    if sample.train_batch_size:
        return sample.train_batch_size
    rows = sample.num_groups * sample.num_image_per_prompt
    parts = sample.num_batches_per_epoch * num_processes
    if rows % parts != 0:
        raise ValueError(f"{rows} rollouts an update can't be dealt to {parts} batches of all ranks")
    return rows // parts


def trained_rows(advantages, num_batches):
    """Which rows enter training: those with an advantage, topped up to a multiple of ``num_batches``.

    Args:
        advantages: [N, T], N a multiple of ``num_batches``.

    Returns:
        bool [N]. The rows that top up are drawn from those without advantage; they add nothing to the
        policy gradient, but every rank must run the same number of micro-batches.
    """
    mask = advantages.abs().sum(dim=1) != 0
    count = int(mask.sum())
    missing = num_batches if count == 0 else -count % num_batches
    if missing:
        zeros = torch.where(~mask)[0]
        mask[zeros[torch.randperm(len(zeros))[:missing]]] = True
    return mask


def clipped_policy_loss(log_prob, old_log_prob, advantages, clip_range):
    """(loss, ratio [n]) of proximal policy optimisation for one denoising step of n rows."""
    ratio = torch.exp(log_prob - old_log_prob)
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    return torch.maximum(-advantages * ratio, -advantages * clipped).mean(), ratio


class Trainer(ABC):
    """A host's training loop; ``text`` is always a dict of [n, ...] tensors that become entries of the samples."""

    PIPELINE = None  # class of diffusers
    DENOISER = "transformer"
    LORA_TARGETS = ()

    @abstractmethod
    def rollout(self, prompts, num_steps, noise_level, generator=None):
        """Samples n images.

        Returns (images [n, 3, H, W], latents [n, w + 1, ...], log_probs [n, w], timesteps [w], text) of the
        w noisy steps.
        """

    @abstractmethod
    def velocity(self, sample, j):
        """The guided prediction [n, ...] at the step j of each row, by ``self.transformer``, with gradients."""

    def __init__(self, config):
        self.config = config
        if config.num_threads:
            torch.set_num_threads(config.num_threads)
        window = config.sample.sde_window_size
        self.num_train_timesteps = window or int(config.sample.num_steps * config.train.timestep_fraction)
        if config.sample.num_batches_per_epoch % config.train.gradient_accumulation_steps != 0:
            raise ValueError("gradient_accumulation_steps must divide num_batches_per_epoch")
        self.accelerator = Accelerator(
            # accelerate runs distributed on a CPU only when it is told to.
            cpu=not torch.cuda.is_available(),
            mixed_precision=config.mixed_precision,
            gradient_accumulation_steps=config.train.gradient_accumulation_steps * self.num_train_timesteps,
        )
        self.device = self.accelerator.device
        self.world_size, self.rank = self.accelerator.num_processes, self.accelerator.process_index
        self.batch_size = rows_per_rank(config, self.world_size)
        set_seed(config.seed, device_specific=True)

        self.pipeline = self.load_pipeline()
        self.counter = RowCounter(self.denoiser)
        parameters = [p for p in self.denoiser.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            parameters,
            lr=config.train.learning_rate,
            betas=(config.train.adam_beta1, config.train.adam_beta2),
            weight_decay=config.train.adam_weight_decay,
            eps=config.train.adam_epsilon,
        )
        self.reward_fn = flow_grpo.rewards.multi_score(self.device, config.reward_fn)
        self.eval_reward_fn = flow_grpo.rewards.multi_score(self.device, config.reward_fn)

        self.train_dataset = TextPromptDataset(config.dataset, "train")
        self.train_sampler = DistributedKRepeatSampler(
            self.train_dataset,
            self.batch_size,
            config.sample.num_image_per_prompt,
            self.world_size,
            self.rank,
            config.seed,
        )
        # No worker processes: they would draw batches before the sampler is told their epoch.
        self.train_iter = iter(
            DataLoader(
                self.train_dataset,
                batch_sampler=self.train_sampler,
                collate_fn=TextPromptDataset.collate_fn,
            )
        )
        test_prompts = TextPromptDataset(config.dataset, "test").prompts
        count = min(config.sample.test_prompts or len(test_prompts), len(test_prompts))
        test_prompts = [test_prompts[i * len(test_prompts) // count] for i in range(count)]
        self.test_prompts = test_prompts * config.sample.test_images_per_prompt

        self.stat_tracker = PerPromptStatTracker(config.sample.global_std)
        # Rollouts go through the pipeline's bare denoiser, training through the DDP wrapper around it.
        self.transformer, self.optimizer = self.accelerator.prepare(self.denoiser, optimizer)
        self.no_text = self.encode([""])
        self.executor = futures.ThreadPoolExecutor(max_workers=8)
        self.save_dir = Path(config.save_dir)

    # ---- sampling ----

    @property
    def denoiser(self):
        return getattr(self.pipeline, self.DENOISER)

    def load_pipeline(self):
        """The pipeline with its denoiser ready to be trained and everything else frozen, in fp32."""
        disable_diffusers_progress_bar()
        disable_transformers_progress_bar()
        config = self.config
        pipeline = self.PIPELINE.from_pretrained(config.pretrained.model).to(self.device)
        for part in pipeline.components.values():
            if isinstance(part, torch.nn.Module):
                part.requires_grad_(False)
        denoiser = getattr(pipeline, self.DENOISER)
        if config.use_lora:
            lora = LoraConfig(
                r=config.lora.rank,
                lora_alpha=config.lora.alpha,
                init_lora_weights="gaussian",
                target_modules=list(self.LORA_TARGETS),
            )
            setattr(pipeline, self.DENOISER, get_peft_model(denoiser, lora))
        else:
            for name, parameter in denoiser.named_parameters():
                parameter.requires_grad_(name.startswith(tuple(config.trained_modules)))
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def encode(self, prompts):
        """The text of n prompts where it is known before the rollout; see ``text``."""
        return {}

    def repeated(self, name, rows):
        """``no_text[name]`` for so many rows."""
        return self.no_text[name].expand(rows, *self.no_text[name].shape[1:])

    def sampler_arguments(self, num_steps, noise_level, generator):
        """Arguments that flow-grpo's sampling functions of all models have."""
        sample = self.config.sample
        arguments = {
            "num_inference_steps": num_steps,
            "output_type": "pt",
            "height": self.config.resolution,
            "width": self.config.resolution,
            "noise_level": noise_level,
            "generator": generator,
        }
        if sample.sde_window_size:
            arguments["sde_window_size"] = sample.sde_window_size if noise_level else 0
            arguments["sde_window_range"] = sample.sde_window_range
        return arguments

    def sample_batch(self, epoch, i):
        """One rollout batch; every entry has the rank's B rows first, ``rewards`` is a future."""
        config = self.config
        self.train_sampler.set_epoch(epoch * config.sample.num_batches_per_epoch + i)
        prompts, metadata = next(self.train_iter)
        images, latents, log_probs, timesteps, text = self.rollout(
            prompts, config.sample.num_steps, config.sample.noise_level
        )
        rewards = self.executor.submit(self.reward_fn, images, prompts, metadata, only_strict=True)
        time.sleep(0)  # lets the reward's thread start
        return {
            "prompt_index": torch.tensor([m["index"] for m in metadata], device=self.device),
            **text,
            "timesteps": timesteps.repeat(len(prompts), 1),
            "latents": latents[:, :-1],
            "next_latents": latents[:, 1:],
            "log_probs": log_probs,
            "rewards": rewards,
        }

    # ---- advantages ----

    def collate(self, batches):
        """Waits for the rewards and joins the batches: a dict of [N, ...] tensors, ``rewards`` by scorer."""
        for batch in batches:
            scores, _ = batch["rewards"].result()
            batch["rewards"] = {
                name: torch.as_tensor(values, device=self.device).float() for name, values in scores.items()
            }
        samples = {k: torch.cat([b[k] for b in batches]) for k in batches[0] if k != "rewards"}
        samples["rewards"] = {
            name: torch.cat([b["rewards"][name] for b in batches]) for name in batches[0]["rewards"]
        }
        return samples

    def assign_advantages(self, samples):
        """Replaces the rank's rewards [N] by advantages [N, T], normalised over all ranks' groups.

        Returns the rewards of all ranks by scorer, numpy [ranks * N].
        """
        rewards = {
            name: self.accelerator.gather(values).cpu().numpy()
            for name, values in samples.pop("rewards").items()
        }
        index = self.accelerator.gather(samples.pop("prompt_index")).tolist()
        prompts = [self.train_dataset.prompts[i] for i in index]
        # One column a trained step, all equal: the reward belongs to the whole trajectory.
        columns = rewards["avg"][:, None].repeat(self.num_train_timesteps, axis=1)
        advantages = torch.as_tensor(self.stat_tracker.update(prompts, columns))
        self.group_stats = self.stat_tracker.get_stats()
        self.stat_tracker.clear()
        mine = advantages.reshape(self.world_size, -1, advantages.shape[-1])[self.rank]
        samples["advantages"] = mine.to(self.device, torch.float32)
        return rewards

    # ---- training ----

    def step_log_prob(self, sample, j):
        """Log-probability [n] of the step j that each row took, under the current weights."""
        return sde_step_with_logprob(
            self.pipeline.scheduler,
            self.velocity(sample, j),
            sample["timesteps"][:, j],
            sample["latents"][:, j],
            noise_level=self.config.sample.noise_level,
            prev_sample=sample["next_latents"][:, j],
        )[1]

    def train_micro_batch(self, sample, statistics):
        """Gradients of all trained steps of n rows, and an optimizer step when enough are accumulated."""
        train = self.config.train
        for j in range(self.num_train_timesteps):
            with self.accelerator.accumulate(self.transformer):
                log_prob = self.step_log_prob(sample, j)
                advantages = sample["advantages"][:, j].clamp(-train.adv_clip_max, train.adv_clip_max)
                old_log_prob = sample["log_probs"][:, j]
                loss, ratio = clipped_policy_loss(log_prob, old_log_prob, advantages, train.clip_range)
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients:
                    self.accelerator.clip_grad_norm_(self.transformer.parameters(), train.max_grad_norm)
                self.optimizer.step()
                self.optimizer.zero_grad()
            with torch.no_grad():
                change = log_prob - old_log_prob
                clipped = ((ratio - 1).abs() > train.clip_range).float()
                statistics.append(torch.stack([loss, 0.5 * (change**2).mean(), clipped.mean()]))

    def train(self, samples):
        """One update from N rows. Returns the mean of (loss, approximate KL, clipped share), [3]."""
        num_batches = self.config.sample.num_batches_per_epoch
        self.denoiser.train()
        statistics = []
        for _ in range(self.config.train.num_inner_epochs):
            order = torch.randperm(len(samples["advantages"]), device=self.device)
            for rows in order.chunk(num_batches):
                self.train_micro_batch({k: v[rows] for k, v in samples.items()}, statistics)
        self.denoiser.eval()
        return torch.stack(statistics).mean(dim=0)

    # ---- evaluation and records ----

    @torch.no_grad()
    def evaluate(self):
        """Rewards of ODE samples of the held-out prompts, float64 [images per prompt, prompts], on all ranks.

        The initial noise of each image is always the same, so that evaluations can be compared pairwise.
        """
        config = self.config
        mine = list(range(self.rank, len(self.test_prompts), self.world_size))
        rewards = torch.zeros(len(self.test_prompts), device=self.device, dtype=torch.float64)
        for start in range(0, len(mine), config.sample.test_batch_size):
            rows = mine[start : start + config.sample.test_batch_size]
            prompts = [self.test_prompts[row] for row in rows]
            generators = [torch.Generator().manual_seed(1000 + row) for row in rows]
            images = self.rollout(prompts, config.sample.eval_num_steps, 0, generators)[0]
            scores, _ = self.executor.submit(
                self.eval_reward_fn, images, prompts, [{}] * len(rows), only_strict=False
            ).result()
            rewards[rows] = rewards.new_tensor(scores["avg"])
        rewards = self.accelerator.reduce(rewards)
        return rewards.view(config.sample.test_images_per_prompt, -1)

    def summarise_evaluation(self, epoch, rewards):
        """Mean and its standard error over the prompts; the main process keeps the single rewards."""
        if self.accelerator.is_main_process:
            rounded = [[round(reward, 4) for reward in image] for image in rewards.tolist()]
            with open(self.save_dir / "evaluations.jsonl", "a") as file:
                file.write(json.dumps({"update": epoch, "rewards": rounded}) + "\n")
        by_prompt = rewards.mean(dim=0)
        # A single prompt says nothing about the others; NaN would not be JSON.
        error = by_prompt.std().item() / len(by_prompt) ** 0.5 if len(by_prompt) > 1 else 0.0
        return {"eval_reward": by_prompt.mean().item(), "eval_reward_error": error}

    def write_progress(self, record):
        """Appends one line to ``progress.jsonl`` and prints its gist; main process only.

        ``update`` counts the updates that the policy has had when the line's rollouts and evaluation were
        made; ``elapsed`` is the wall-clock since the first update began, evaluations included;
        ``seconds`` are the main process's own; rows are summed over the ranks. The last line, with
        ``update`` = ``num_epochs``, holds the final evaluation alone.
        """
        if not self.accelerator.is_main_process:
            return
        with open(self.save_dir / "progress.jsonl", "a") as file:
            file.write(json.dumps(record) + "\n")
        parts = [f"update {record['update']}", f"elapsed {record['elapsed']:.1f} s"]
        parts += [f"{k} {record[k]:.4f}" for k in ("reward", "eval_reward") if k in record]
        print("  ".join(parts), flush=True)

    def save_checkpoint(self, update):
        if self.accelerator.is_main_process:
            folder = self.save_dir / "checkpoints" / f"checkpoint-{update}"
            model = self.accelerator.unwrap_model(self.transformer)
            model.save_pretrained(folder / ("lora" if self.config.use_lora else self.DENOISER))

    # ---- the loop ----

    def update(self, epoch, seconds):
        """Rollouts, advantages and training of one update; returns what ``progress.jsonl`` says of it."""
        num_batches = self.config.sample.num_batches_per_epoch
        self.counter.reset()
        with timed(seconds, "rollout"):
            batches = [self.sample_batch(epoch, i) for i in range(num_batches)]
        with timed(seconds, "reward"):
            samples = self.collate(batches)
            rewards = self.assign_advantages(samples)
        with timed(seconds, "train"):
            mask = trained_rows(samples["advantages"], num_batches)
            samples = {k: v[mask] for k, v in samples.items()}
            statistics = self.train(samples)
        return self.summarise(rewards, int(mask.sum()), statistics)

    def summarise(self, rewards, rows_trained, statistics):
        """Figures of the update over all ranks."""
        counts = [rows_trained, self.counter.sampled, self.counter.trained]
        counts = self.accelerator.reduce(torch.tensor(counts, device=self.device)).tolist()
        statistics = self.accelerator.reduce(statistics, reduction="mean").tolist()
        group_size, prompts_seen = self.group_stats
        return {
            "rows": len(rewards["avg"]),
            "rows_trained": counts[0],
            "transformer_rows": {"sampled": counts[1], "trained": counts[2]},
            "reward": float(rewards["avg"].mean()),
            "reward_std": float(rewards["avg"].std()),
            "group_size": group_size,
            "prompts_seen": prompts_seen,
            **dict(zip(("loss", "approx_kl", "clip_fraction"), statistics)),
        }

    def run(self):
        config = self.config
        self.save_dir.mkdir(parents=True, exist_ok=True)
        if self.accelerator.is_main_process:
            for name in ("progress.jsonl", "evaluations.jsonl"):
                (self.save_dir / name).write_text("")
            (self.save_dir / "config.json").write_text(config.to_json_best_effort(indent=1) + "\n")
        self.accelerator.wait_for_everyone()
        self.denoiser.eval()
        started = time.perf_counter()
        for epoch in range(config.num_epochs + 1):
            record, seconds = {"update": epoch}, {}
            last = epoch == config.num_epochs
            if config.eval_freq and (epoch % config.eval_freq == 0 or last):
                with timed(seconds, "eval"):
                    record |= self.summarise_evaluation(epoch, self.evaluate())
            if last or (config.save_freq and epoch and epoch % config.save_freq == 0):
                self.save_checkpoint(epoch)
            if not last:
                record |= self.update(epoch, seconds)
            self.write_progress({**record, "seconds": seconds, "elapsed": time.perf_counter() - started})
        self.finish()

    def finish(self):
        """Leaves the process group."""
        self.executor.shutdown()
        # The thread of a gloo group needs Python's lock to let go of its last collective's tensors. A group
        # that is destroyed before that waits for the thread with the lock held, for ever: let it run first.
        time.sleep(0.1)
        self.accelerator.end_training()


def start(trainer):
    """Runs a script: ``trainer`` is the class of its host."""
    app.run(lambda _: trainer(FLAGS.config).run())
