"""Layouts, guidance and decoding of every family against what its real pipeline does in one run."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")
sys.path.insert(0, str(Path(__file__).parent))
import diffusers  # noqa: E402
import tiny_models  # noqa: E402
import torch  # noqa: E402
from tiny_models import MODELS, PIPELINES, PIXELS, ROWS, noise  # noqa: E402

from grpo_accel.taps import CONTENT  # noqa: E402

STEPS = 2


class Run:
    """What a pipeline asks of its denoiser, tells its scheduler and hands to its decoder."""

    def __init__(self, taps, pipeline, arguments):
        self.taps, self.pipeline, self.arguments = taps, pipeline, {"guidance_rescale": 0.0, **arguments}
        self.calls, self.outputs, self.predictions, self.states, self.decoded = [], [], [], [], []
        denoiser = getattr(pipeline, taps.DENOISER)
        denoiser.register_forward_pre_hook(self._ask, with_kwargs=True)
        denoiser.register_forward_hook(lambda module, args, output: self.outputs.append(output[0]))
        step, decode = pipeline.scheduler.step, pipeline.vae.decode

        def stepped(prediction, time, state, *args, **kwargs):
            output = step(prediction, time, state, *args, **kwargs)
            self.predictions.append(prediction)
            self.states.append(output[0])
            return output

        def decoded(latents, *args, **kwargs):
            output = decode(latents, *args, **kwargs)
            self.decoded.append((latents, output[0]))
            return output

        pipeline.scheduler.step, pipeline.vae.decode = stepped, decoded
        pipeline.set_progress_bar_config(disable=True)
        size = {} if "height" in arguments else dict(height=PIXELS[0], width=PIXELS[1])
        if tiny_models.takes(pipeline.__call__, "num_images_per_prompt"):
            size["num_images_per_prompt"] = 1
        self.images = pipeline(
            **size, **arguments, output_type="pt", return_dict=False, generator=torch.Generator().manual_seed(3))[0]
        self.geometry = taps.geometry(denoiser, self.calls[0])

    def _ask(self, module, args, kwargs):
        self.calls.append({**dict(zip(self.taps.POSITIONAL, args)), **kwargs})

    def branches(self, step: int):
        """(conditional, unconditional) of a step, read with what the family says of its host."""
        taps, each = self.taps, len(self.outputs) // STEPS
        answers = [taps.image_part(output, self.geometry) for output in self.outputs[step * each : (step + 1) * each]]
        if each == 2:
            return answers[taps.CONDITIONAL_CALL], answers[1 - taps.CONDITIONAL_CALL]
        if answers[0].shape[0] == ROWS:
            return answers[0], None
        halves = answers[0].chunk(2)
        return halves[taps.CONDITIONAL_HALF], halves[1 - taps.CONDITIONAL_HALF]


@pytest.fixture(scope="module", params=PIPELINES)
def run(request):
    taps, build = PIPELINES[request.param]
    torch.set_num_threads(1)
    return Run(taps, *build(STEPS))


def close(found, expected, relative=1e-6):
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= relative * expected.abs().max()


def test_pipelines_are_of_the_classes_that_the_family_names_and_can_be_followed(run):
    assert {kind.__name__ for kind in type(run.pipeline).__mro__} & set(run.taps.PIPELINES)
    assert run.taps.why_not(run.pipeline) is None


def test_the_guided_prediction_is_the_one_that_the_pipeline_steps_with(run):
    for step in range(STEPS):
        conditional, unconditional = run.branches(step)
        guided = conditional
        if unconditional is not None:
            guided = run.taps.guided(run.pipeline, conditional, unconditional, run.arguments)
        close(guided, run.predictions[step])
    says = run.taps.is_guided(run.pipeline)
    assert says is None or bool(says) == (unconditional is not None)


def test_a_map_has_the_pipelines_own_layout_and_back(run):
    state, geometry = run.states[-1], run.geometry
    latent = run.taps.map_of(state, geometry)
    assert latent.shape == (ROWS, geometry.channels, geometry.height, geometry.width)
    assert torch.equal(run.taps.state_of(latent, geometry), state)
    if hasattr(run.pipeline, "_unpack_latents"):
        height, width = run.arguments.get("height", PIXELS[0]), run.arguments.get("width", PIXELS[1])
        own = run.pipeline._unpack_latents(state, height, width, run.pipeline.vae_scale_factor)
        assert torch.equal(latent, own[:, :, 0] if own.dim() == 5 else own)


def test_the_part_that_is_denoised_can_be_replaced_without_the_rest(run):
    asked, geometry = run.calls[0][run.taps.STATE], run.geometry
    part = run.taps.image_part(asked, geometry)
    assert part.shape[1:] == run.states[0].shape[1:]
    changed = run.taps.with_image_part(asked, part + 1.0, geometry)
    assert torch.equal(run.taps.image_part(changed, geometry), part + 1.0)
    assert torch.equal(run.taps.with_image_part(changed, part, geometry), asked)


def test_the_decoder_gets_what_the_pipeline_gives_it_and_its_images_are_the_same(run):
    (given, decoded), state = run.decoded[-1], run.states[-1]
    close(run.taps.decoder_input(run.pipeline.vae, state, run.geometry), given)
    close(run.taps.state_of_decoder_input(run.pipeline.vae, given, run.geometry), state.float(), 1e-5)
    images = run.taps.images(run.pipeline, decoded)
    assert torch.equal(images, torch.as_tensor(run.images))
    assert images.shape[0] == ROWS and images.shape[-3] == 3 and 0 <= images.min() and images.max() <= 1
    with torch.no_grad():
        close(run.taps.decode(run.pipeline, run.pipeline.vae, state, run.geometry), images, 1e-5)


def test_the_process_makes_the_pipelines_own_steps(run):
    process = run.taps.PROCESS(run.pipeline.scheduler)
    levels, each = process.levels(), len(run.calls) // STEPS
    assert len(levels) == STEPS + 1 and levels == sorted(levels, reverse=True)
    before = run.taps.image_part(run.calls[0][run.taps.STATE], run.geometry)[:ROWS]
    after = run.taps.image_part(run.calls[each][run.taps.STATE], run.geometry)[:ROWS]
    close(process.move(before, run.predictions[0], levels[0], levels[1]), after, 1e-4)
    last = process.move(after, run.predictions[1], levels[1], levels[2])
    scale = run.states[-1].abs().max()
    assert (last - run.states[-1]).abs().max() < 1e-4 * scale


def test_the_denoiser_is_told_the_processs_time(run):
    process = run.taps.PROCESS(run.pipeline.scheduler)
    for step, level in enumerate(process.levels()[:-1]):
        told = run.calls[step * (len(run.calls) // STEPS)][run.taps.TIME]
        assert float(told.flatten()[0]) * run.taps.TIME_DIVISOR == pytest.approx(process.time(level), abs=0.6)


@pytest.mark.parametrize("name", MODELS)
def test_the_prompt_as_a_vector_has_a_row_each_and_leaves_padding_out(name):
    model = MODELS[name]
    call = model.call()
    pooled, valid = model.taps.pooled(call), model.taps.valid_tokens(call)
    assert pooled.shape[0] == ROWS and pooled.dim() == 2 and pooled.dtype == torch.float32
    if valid is not None:
        call[model.taps.TEXT] = call[model.taps.TEXT].clone()
        for row, count in enumerate(valid.tolist()):
            call[model.taps.TEXT][row, count:] *= 5.0
        assert torch.equal(model.taps.pooled(call), pooled)


def test_valid_tokens_are_those_of_the_mask_or_those_that_are_not_zero():
    assert MODELS["qwen"].taps.valid_tokens(MODELS["qwen"].call()).tolist() == [7, 4, 5]
    assert MODELS["qwen_unpadded"].taps.valid_tokens(MODELS["qwen_unpadded"].call()) is None
    assert MODELS["wan"].taps.valid_tokens(MODELS["wan"].call()).tolist() == [7, 4, 7]


def test_the_coarsest_grid_of_a_unet_is_told():
    for name, tokens in (("sdxl", (4, 2)), ("sd15", (4, 2))):
        model = MODELS[name]
        geometry = model.taps.geometry(model.denoiser(), model.call())
        assert (geometry.channels, geometry.height, geometry.width, geometry.tokens) == (4, 16, 8, tokens)


def test_frames_lie_below_each_other():
    model = MODELS["wan"]
    call = model.call()
    geometry = model.taps.geometry(model.denoiser(), call)
    assert (geometry.frames, geometry.height, geometry.width, geometry.tokens) == (3, 12, 6, (6, 3))
    assert torch.equal(model.taps.map_of(call["hidden_states"], geometry)[:, :, 4:8], call["hidden_states"][:, :, 1])


def test_a_decoder_that_overflows_in_half_precision_is_used_as_the_pipeline_uses_it():
    taps, build = PIPELINES["sdxl"]
    pipeline, _ = build(STEPS)
    pipeline.vae.to(torch.float16)
    pipeline.vae.register_to_config(force_upcast=True)
    geometry = taps.geometry(pipeline.unet, MODELS["sdxl"].call())
    state = noise(ROWS, 4, 16, 8)
    with torch.no_grad():
        images = taps.decode(pipeline, pipeline.vae, state, geometry)
        assert pipeline.vae.dtype == torch.float16 and images.dtype == torch.float32
        expected = pipeline.vae.to(torch.float32).decode(state / 0.13, return_dict=False)[0]
    close(images, (expected / 2 + 0.5).clamp(0, 1), 1e-6)


# ---------------------------------------------------------------------- pipelines that can't be followed

def test_a_unet_that_is_shown_a_mask_is_refused():
    taps, build = PIPELINES["sd15"]
    pipeline, _ = build(STEPS)
    pipeline.unet = tiny_models.sd15_denoiser(in_channels=9)
    assert "takes 9 channels and returns 4" in taps.why_not(pipeline)


@pytest.mark.parametrize("name, scheduler, words", [
    ("sd15", "HeunDiscreteScheduler", "order 2"),
    ("sd15", "PNDMScheduler", "one step twice"),
    ("flux", "FlowMatchHeunDiscreteScheduler", "order 2"),
])
def test_schedulers_whose_steps_cannot_be_told_apart_are_refused(name, scheduler, words):
    taps, build = PIPELINES[name]
    pipeline, _ = build(STEPS)
    pipeline.scheduler = tiny_models.named(scheduler)()
    assert words in taps.why_not(pipeline) and scheduler in taps.why_not(pipeline)


def test_a_scheduler_of_another_kind_is_refused_with_its_name_and_the_version():
    taps, build = PIPELINES["sd15"]
    pipeline, _ = build(STEPS)
    pipeline.scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    reason = taps.why_not(pipeline)
    assert "FlowMatchEulerDiscreteScheduler" in reason and diffusers.__version__ in reason


def test_an_image_prompt_is_refused():
    from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0

    taps, build = PIPELINES["sd15"]
    pipeline, _ = build(STEPS)
    name, attention = taps.blocks(pipeline.unet)[0]
    attention.set_processor(IPAdapterAttnProcessor2_0(hidden_size=8, cross_attention_dim=tiny_models.TEXT_WIDTH))
    assert "IPAdapterAttnProcessor2_0" in taps.why_not(pipeline)


def test_a_second_transformer_is_refused():
    taps, build = PIPELINES["wan"]
    pipeline, _ = build(STEPS)
    pipeline.transformer_2 = pipeline.transformer
    assert "two transformers" in taps.why_not(pipeline)


# ---------------------------------------------------------------------- the prompt's own words

def words_of(*, end: str | None = None):
    """A tokenizer of whole words, padded on the right, with an end token where asked for."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors

    names = "<pad> <unk> <end> <s> </s> system user assistant draw a red cat".split()
    tokenizer = Tokenizer(models.WordLevel({name: place for place, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"<[^>]+>|\w+"), behavior="removed", invert=True)
    if end is not None:
        special = [(end, names.index(end))]
        tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {end}", special_tokens=special)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="<end>", model_max_length=64)


class Texts:
    """The parts of a pipeline that the families read a prompt with."""

    prompt_template_encode = "<s> system draw </s> <s> user {} </s> <s> assistant"
    prompt_template_encode_start_idx = 6

    def __init__(self, **parts):
        self.__dict__.update(parts)


@pytest.mark.parametrize("name, attribute", [("flux", "tokenizer_2"), ("wan", "tokenizer"), ("sdxl", "tokenizer")])
def test_content_is_the_prompts_words_without_the_end_and_the_padding(name, attribute):
    texts = Texts(**{"tokenizer": None, "tokenizer_2": None, attribute: words_of(end="<end>")})
    content = MODELS[name].taps.content
    assert content(texts, "a red cat", 6, 6, None) == [CONTENT] * 3 + [0] * 3
    assert content(texts, "a red cat a red cat", 4, 4, None) == [CONTENT] * 3 + [0]


def test_content_of_sdxl_without_a_first_tokenizer_comes_from_the_second():
    texts = Texts(tokenizer=None, tokenizer_2=words_of(end="<end>"))
    assert MODELS["sdxl"].taps.content(texts, "cat", 3, 0, None) == [CONTENT, 0, 0]


def test_content_of_qwen_stands_between_what_is_left_of_the_template():
    texts = Texts(tokenizer=words_of())
    content = MODELS["qwen"].taps.content
    assert content(texts, "a red cat", 8, 0, 6) == [CONTENT] * 3 + [0] * 5
    assert content(texts, "a red cat", 6, 0, None) == [CONTENT] * 3 + [0] * 3
    assert content(texts, "a red cat a red cat", 4, 4, 4) == [CONTENT] * 4  # cut: the template's end is gone
    texts.prompt_template_encode_start_idx = 5  # one token of the template is left in front
    assert content(texts, "a red cat", 8, 0, 7) == [0] + [CONTENT] * 3 + [0] * 4


def test_content_of_qwen_edit_stands_behind_the_references_tokens():
    texts = Texts(tokenizer=words_of(), processor=object())
    # what a row shows after the cut: four tokens of the reference, the prompt, three of the template, padding
    assert MODELS["qwen_edit"].taps.content(texts, "red cat", 11, 0, 9) == [0] * 4 + [CONTENT] * 2 + [0] * 5
    assert MODELS["qwen_edit"].taps.content(texts, "red cat", 9, 0, None) == [0] * 4 + [CONTENT] * 2 + [0] * 3


def test_content_of_sd3_is_that_of_clip_then_of_t5():
    texts = Texts(tokenizer=words_of(end="<end>"), tokenizer_3=words_of(end="</s>"))
    assert MODELS["sd3"].taps.content(texts, "red cat", 9, 4, None) == [1, 1, 0, 0, 0, 1, 1, 0, 0]
