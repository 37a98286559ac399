"""The small trainer's modules, one by one."""

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
for package in ("diffusers", "accelerate", "peft", "absl", "ml_collections"):
    pytest.importorskip(package)

sys.path.insert(0, str(Path(__file__).parent))
import mini_flow_grpo  # noqa: E402

mini_flow_grpo.use_its_modules()
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline  # noqa: E402
from flow_grpo.diffusers_patch import sd3_pipeline_with_logprob as sde_pipeline  # noqa: E402
from flow_grpo.diffusers_patch import sd3_pipeline_with_logprob_fast as window_pipeline  # noqa: E402
from flow_grpo.diffusers_patch.sd3_sde_with_logprob import sde_step_with_logprob  # noqa: E402
from flow_grpo.diffusers_patch.train_dreambooth_lora_sd3 import encode_prompt  # noqa: E402
from flow_grpo.rewards import multi_score  # noqa: E402
from flow_grpo.stat_tracking import PerPromptStatTracker  # noqa: E402


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    folder = mini_flow_grpo.build_model(tmp_path_factory.mktemp("model") / "sd3")
    return StableDiffusion3Pipeline.from_pretrained(folder)


def scheduler(steps=10):
    made = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0)
    made.set_timesteps(steps)
    return made


def encoders(pipeline):
    return (
        [pipeline.text_encoder, pipeline.text_encoder_2, pipeline.text_encoder_3],
        [pipeline.tokenizer, pipeline.tokenizer_2, pipeline.tokenizer_3],
    )


def text_arguments(pipeline, prompts):
    with torch.no_grad():
        embeds, pooled = encode_prompt(*encoders(pipeline), prompts, 16)
        negative, negative_pooled = encode_prompt(*encoders(pipeline), [""] * len(prompts), 16)
    return {
        "prompt_embeds": embeds,
        "pooled_prompt_embeds": pooled,
        "negative_prompt_embeds": negative,
        "negative_pooled_prompt_embeds": negative_pooled,
        "output_type": "pt",
        "height": 32,
        "width": 32,
    }


class TestTracker:
    prompts = ["a", "b", "a", "b", "a"]
    rewards = np.array([[1.0, 1.0], [0.0, 0.0], [2.0, 2.0], [4.0, 4.0], [6.0, 6.0]])

    def test_group_mean_and_one_deviation_for_all(self):
        advantages = PerPromptStatTracker(global_std=True).update(self.prompts, self.rewards)
        means = np.array([3.0, 2.0, 3.0, 2.0, 3.0])[:, None]
        assert advantages.dtype == np.float64
        np.testing.assert_allclose(advantages, (self.rewards - means) / (self.rewards[:, 0].std() + 1e-4))

    def test_the_groups_own_deviation(self):
        advantages = PerPromptStatTracker(global_std=False).update(self.prompts, self.rewards)
        own = self.rewards[[0, 2, 4], 0]
        np.testing.assert_allclose(advantages[[0, 2, 4], 0], (own - own.mean()) / (own.std() + 1e-4))

    def test_equal_rewards_give_exactly_zero(self):
        assert not PerPromptStatTracker(True).update(["a", "a", "b"], [[0.5], [0.5], [1.0]]).any()

    def test_statistics_and_clear(self):
        tracker = PerPromptStatTracker()
        tracker.update(self.prompts, self.rewards)
        assert tracker.get_stats() == (2.5, 2)
        tracker.update(["a"], [[0.0, 0.0]])
        assert tracker.get_stats() == (3.0, 2)  # groups grow until they are cleared
        tracker.clear()
        assert tracker.get_stats() == (0, 2)

    def test_other_types_are_refused(self):
        with pytest.raises(ValueError, match="dpo"):
            PerPromptStatTracker().update(["a"], [[1.0]], type="dpo")


class TestSampler:
    def batches(self, epoch, ranks=3, rows=4, k=6):
        sampler_class = mini_flow_grpo.load("train_sd3").DistributedKRepeatSampler
        batches = []
        for rank in range(ranks):
            sampler = sampler_class(range(50), rows, k, ranks, rank, seed=7)
            sampler.set_epoch(epoch)
            batches.append(next(iter(sampler)))
        return batches

    def test_every_prompt_k_times_over_all_ranks(self):
        batches = self.batches(epoch=0)
        assert [len(batch) for batch in batches] == [4, 4, 4]
        counts = Counter(index for batch in batches for index in batch)
        assert sorted(counts.values()) == [6, 6]
        # 6 members on ranks of 4 rows: a group can't sit on one rank.
        assert all(sum(index in batch for batch in batches) > 1 for index in counts)

    def test_epochs_differ_and_repeat(self):
        assert self.batches(1) != self.batches(2)
        assert self.batches(1) == self.batches(1)

    def test_groups_that_do_not_fit_are_refused(self):
        with pytest.raises(ValueError, match="groups of 5"):
            self.batches(0, k=5)


class TestTrainedRows:
    def count(self, nonzero, num_batches, rows=12):
        advantages = torch.zeros(rows, 2)
        advantages[:nonzero] = 1.0
        mask = mini_flow_grpo.load("train_sd3").trained_rows(advantages, num_batches)
        assert bool(mask[:nonzero].all())
        return int(mask.sum())

    @pytest.mark.parametrize(
        "nonzero, num_batches, trained", [(12, 4, 12), (8, 4, 8), (7, 4, 8), (0, 4, 4), (11, 3, 12), (1, 1, 1)]
    )
    def test_always_a_multiple_of_the_batches(self, nonzero, num_batches, trained):
        assert self.count(nonzero, num_batches) == trained


class TestPolicyLoss:
    def loss(self, change, advantage, clip=0.1):
        loss, _ = mini_flow_grpo.load("train_sd3").clipped_policy_loss(
            torch.tensor([change]), torch.tensor([0.0]), torch.tensor([advantage]), clip
        )
        return loss.item()

    def test_gain_is_capped_and_harm_is_not(self):
        assert self.loss(0.5, advantage=1.0) == pytest.approx(-1.1)
        assert self.loss(0.5, advantage=-1.0) == pytest.approx(np.exp(0.5))
        assert self.loss(-0.5, advantage=-1.0) == pytest.approx(0.9)
        assert self.loss(0.05, advantage=1.0) == pytest.approx(-np.exp(0.05))


class TestStep:
    def test_without_noise_it_is_the_schedulers_euler_step(self):
        ours, theirs = scheduler(), scheduler()
        sample, velocity = torch.randn(2, 8, 8, 8), torch.randn(2, 8, 8, 8)
        for t in ours.timesteps:
            stepped, log_prob, _, _ = sde_step_with_logprob(ours, velocity, t[None], sample, noise_level=0)
            expected = theirs.step(velocity, t, sample, return_dict=False)[0]
            torch.testing.assert_close(stepped, expected, rtol=1e-5, atol=1e-5)
            assert log_prob.tolist() == [0.0, 0.0]
            sample = stepped

    def test_a_taken_step_scores_the_same_again(self):
        schedule, sample, velocity = scheduler(), torch.randn(3, 8, 8, 8), torch.randn(3, 8, 8, 8)
        for t in schedule.timesteps[:9]:
            taken, log_prob, mean, _ = sde_step_with_logprob(schedule, velocity, t[None], sample)
            again = sde_step_with_logprob(schedule, velocity, t.repeat(3), sample, prev_sample=taken)
            assert torch.equal(again[0], taken)
            torch.testing.assert_close(again[1], log_prob, rtol=0, atol=1e-6)

    def test_log_probability_is_that_of_the_normal_distribution(self):
        schedule, sample, velocity = scheduler(), torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
        t, dt = schedule.timesteps[3], schedule.sigmas[4] - schedule.sigmas[3]
        taken, log_prob, mean, std = sde_step_with_logprob(schedule, velocity, t[None], sample)
        normal = torch.distributions.Normal(mean, (std * torch.sqrt(-dt)).expand_as(mean))
        torch.testing.assert_close(log_prob, normal.log_prob(taken).mean(dim=(1, 2, 3)))

    def test_the_marginal_stays(self):
        """With the exact velocity of normal data, noisy steps keep the variance that the ODE has."""
        schedule, count, spread = scheduler(steps=200), 4000, 0.5
        sample = torch.randn(count, 1, 1, 1, generator=torch.Generator().manual_seed(0))
        torch.manual_seed(0)
        for i, t in enumerate(schedule.timesteps[:190]):
            sigma = schedule.sigmas[i]
            variance = (1 - sigma) ** 2 * spread**2 + sigma**2
            velocity = sample * (sigma - (1 - sigma) * spread**2) / variance
            sample = sde_step_with_logprob(schedule, velocity, t[None], sample)[0]
        sigma = schedule.sigmas[190]
        expected = ((1 - sigma) ** 2 * spread**2 + sigma**2).sqrt().item()
        assert sample.std().item() == pytest.approx(expected, rel=0.05)


class TestText:
    prompts = ["a red circle", "two blue squares", "a red circle"]

    def test_the_same_as_diffusers(self, pipeline):
        with torch.no_grad():
            embeds, pooled = encode_prompt(*encoders(pipeline), self.prompts, 16)
            expected = pipeline.encode_prompt(
                self.prompts, None, None, do_classifier_free_guidance=False, max_sequence_length=16
            )
        torch.testing.assert_close(embeds, expected[0])
        torch.testing.assert_close(pooled, expected[2])
        assert torch.equal(embeds[0], embeds[2])

    def test_a_single_string(self, pipeline):
        embeds, pooled = encode_prompt(*encoders(pipeline), "a red circle", 16)
        assert len(embeds) == len(pooled) == 1


class TestRollout:
    prompts = ["a red circle", "two blue squares"]

    def test_all_steps(self, pipeline):
        images, latents, log_probs = sde_pipeline.pipeline_with_logprob(
            pipeline, **text_arguments(pipeline, self.prompts), num_inference_steps=3, guidance_scale=1.0
        )
        assert images.shape == (2, 3, 32, 32) and 0 <= images.min() and images.max() <= 1
        assert [x.shape for x in latents] == [(2, 8, 8, 8)] * 4
        assert [x.shape for x in log_probs] == [(2,)] * 3

    def test_window(self, pipeline):
        arguments = text_arguments(pipeline, self.prompts)
        for first in (0, 2):
            images, latents, log_probs, times = window_pipeline.pipeline_with_logprob(
                pipeline,
                **arguments,
                num_inference_steps=5,
                guidance_scale=1.0,
                sde_window_size=2,
                sde_window_range=(first, first + 2),
            )
            assert (len(latents), len(log_probs), images.shape[0]) == (3, 2, 2)
            assert torch.stack(times).tolist() == pipeline.scheduler.timesteps[first : first + 2].tolist()

    def test_both_follow_the_ode_alike(self, pipeline):
        arguments = {**text_arguments(pipeline, self.prompts), "num_inference_steps": 3, "noise_level": 0}
        for scale in (1.0, 3.0):
            images = [
                module.pipeline_with_logprob(
                    pipeline, **arguments, guidance_scale=scale, generator=torch.Generator().manual_seed(1)
                )[0]
                for module in (sde_pipeline, window_pipeline)
            ]
            assert torch.equal(*images)

    def test_guidance_puts_unconditional_rows_first_and_calls_by_keyword(self, pipeline):
        arguments = text_arguments(pipeline, self.prompts)
        calls = []

        class Proxy:
            """Forwards everything but the transformer's calls, as a guest's pipeline does."""

            def __getattr__(self, name):
                return getattr(pipeline, name)

            @property
            def transformer(self):
                def call(**kwargs):
                    calls.append(kwargs)
                    return pipeline.transformer(**kwargs)

                call.config = pipeline.transformer.config
                return call

        sde_pipeline.pipeline_with_logprob(Proxy(), **arguments, num_inference_steps=2, guidance_scale=2.0)
        assert len(calls) == 2
        assert set(calls[0]) == {
            "hidden_states",
            "timestep",
            "encoder_hidden_states",
            "pooled_projections",
            "joint_attention_kwargs",
            "return_dict",
        }
        assert calls[0]["hidden_states"].shape[0] == calls[0]["timestep"].shape[0] == 4
        assert torch.equal(calls[0]["encoder_hidden_states"][:2], arguments["negative_prompt_embeds"])
        assert torch.equal(calls[0]["pooled_projections"][2:], arguments["pooled_prompt_embeds"])


class TestRewards:
    def test_weighted_sum(self):
        score = multi_score("cpu", {"shapes": 0.5, "jpeg_compressibility": 2.0})
        images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        scores, extra = score(images, ["a red circle"] * 3, [{}] * 3, only_strict=True)
        assert set(scores) == {"shapes", "jpeg_compressibility", "avg"} and extra == {}
        expected = 0.5 * np.array(scores["shapes"]) + 2 * np.array(scores["jpeg_compressibility"])
        np.testing.assert_allclose(scores["avg"], expected)

    def test_a_subset_of_rows_scores_the_same(self):
        score = multi_score("cpu", {"shapes": 1.0, "jpeg_compressibility": 1.0})
        images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        prompts = ["a red circle", "two blue squares", "a red circle", "a green cross"]
        whole, part = (
            score(images[rows], [prompts[i] for i in rows], [{}] * len(rows))[0]["avg"]
            for rows in ([0, 1, 2, 3], [1, 3])
        )
        assert part == [whole[1], whole[3]]

    def test_flat_images_compress_better(self):
        images = torch.stack([torch.rand(3, 32, 32), torch.full((3, 32, 32), 0.5)])
        noisy, flat = multi_score("cpu", {"jpeg_compressibility": 1.0})(images, ["", ""], [{}, {}])[0]["avg"]
        assert noisy < flat < 0


class TestConfig:
    def test_names(self):
        config = mini_flow_grpo.load("config")
        assert config.get_config().sample.sde_window_size == 2
        assert config.get_config("shapes_sde").sample.sde_window_size == 0
        with pytest.raises(ValueError, match="test_window"):
            config.get_config("unknown")

    def test_rows_per_rank(self):
        rows_per_rank = mini_flow_grpo.load("train_sd3").rows_per_rank
        config = mini_flow_grpo.load("config").get_config()
        assert rows_per_rank(config, 2) == 24
        with pytest.raises(ValueError, match="can't be dealt"):
            rows_per_rank(config, 5)
        config.sample.train_batch_size = 9
        assert rows_per_rank(config, 5) == 9
