"""Prompt optimisation on a small model: rounds, thresholds, events, completion, endpoints and lines of requests."""

from __future__ import annotations

import argparse
import http.server
import io
import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import grpo_accel
from grpo_accel import prompt_command, prompts
from grpo_accel import GrpoAccelError
from grpo_accel.prompts import PromptSearch, Threshold
from grpo_accel.rewriters import ChatRewriter, RewriterFailed, checked, rewriter_of

CALL = {"num_inference_steps": 6, "guidance_scale": 1.0, "max_sequence_length": 16, "height": 32, "width": 32, "output_type": "pt"}
SHAPES = Path(__file__).resolve().parents[2] / "experiments" / "shapes" / "models" / "sd3"
WORDINGS = ["a red circle", "a green square", "a blue cross", "two red circles", "a yellow cross", "a red square"]


def score(images, prompts):
    return [float(image[0].mean() - image[2].mean()) for image in images]


def next_wording(prompt, tried):
    return WORDINGS[len(tried)]


@pytest.fixture(scope="module")
def pipeline():
    from diffusers import StableDiffusion3Pipeline

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pipeline = StableDiffusion3Pipeline.from_pretrained(SHAPES, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    yield pipeline
    torch.set_num_threads(threads)


def traces(pipeline):
    hooks = [len(getattr(module, name)) for module in (*pipeline.transformer.modules(), *pipeline.vae.modules())
             for name in ("_forward_hooks", "_forward_pre_hooks")]
    return sum(hooks), "__call__" in vars(pipeline), sorted(vars(pipeline)), type(pipeline.transformer).__name__


def optimise(pipeline, threshold, rewriter=next_wording, prompt="a red circle", **settings):
    settings = {"step": 2, "scorer": score, "lookahead_steps": 1, **settings}
    return grpo_accel.optimize_prompt(pipeline, prompt, rewriter, threshold, **settings, **CALL)


def test_rounds_are_bounded_and_every_event_is_logged(pipeline, tmp_path):
    log = tmp_path / "log.jsonl"
    found = optimise(pipeline, 9.0, rounds=2, log=log)
    assert [one.prompt for one in found.tries] == WORDINGS[:3] and found.reason == "rounds"
    assert [one.decision for one in found.tries] == ["rewrite", "rewrite", "rounds"]
    best = max(value for one in found.tries for value in one.predictions)
    assert found.prediction == best and found.prompt in WORDINGS[:3] and found.asked == "a red circle"
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert [event["event"] for event in events] == [
        "early", "decision", "rewrite", "early", "decision", "rewrite", "early", "decision", "finished"]
    assert events[0]["predictions"] == found.tries[0].predictions
    assert events[-1]["score"] == found.score == pytest.approx(score([found.image], [""])[0])
    # three tries of two rows with a look-ahead of one forward; the completion of one row
    assert found.row_steps == 3 * 2 * (3 + 1) + 3


def test_a_good_prompt_is_not_rewritten_and_its_image_is_a_plain_run_s(pipeline):
    def never(prompt, tried):
        raise AssertionError("asked")

    found = optimise(pipeline, -9.0, never, seeds=[7])
    assert found.reason == "accepted" and len(found.tries) == 1
    plain = pipeline(prompt=["a red circle"], generator=[torch.Generator().manual_seed(7)], **CALL).images[0]
    assert torch.equal(found.image, plain)


def test_a_budget_is_kept(pipeline):
    one_try, completion = 2 * (3 + 1), 3
    found = optimise(pipeline, f"budget:{2 * one_try + completion}")
    assert len(found.tries) == 2 and found.reason == "budget" and found.row_steps == 2 * one_try + completion
    assert len(optimise(pipeline, "budget:1").tries) == 1


def test_thresholds(tmp_path):
    assert Threshold.of("0.25", None) == Threshold("value", 0.25) and Threshold.of("budget:60", None) == Threshold("budget", 60.0)
    for wrong in ("", "q", "q1.5", "budget:0", "budget:x", "nan", "inf"):
        with pytest.raises(GrpoAccelError):
            Threshold.of(wrong, tmp_path / "none")
    with pytest.raises(GrpoAccelError, match="no probe"):
        Threshold.of("q0.5", None)
    with pytest.raises(GrpoAccelError, match="quantiles"):
        Threshold.of("q0.5", tmp_path / "none")
    from safetensors.numpy import save_file

    reference = np.zeros((1, 2, 20), np.float32)
    reference[0, 0, :10] = [50, *np.arange(1, 10)]
    save_file({"reference": reference}, tmp_path / "probe.safetensors")
    assert Threshold.of("q0.55", tmp_path / "probe.safetensors").value == pytest.approx(5.5)
    save_file({"reference": np.zeros((1, 2, 20), np.float32)}, tmp_path / "empty.safetensors")
    with pytest.raises(GrpoAccelError, match="quantiles"):
        Threshold.of("q0.5", tmp_path / "empty.safetensors")


def test_the_scorer_is_given_the_prompt_as_asked_also_by_prompts_that_meet_in_one_wording(pipeline):
    seen = []

    def scorer(images, asked):
        seen.append(list(asked))
        return score(images, asked)

    found = optimise(pipeline, 9.0, lambda prompt, tried: "a blue cross", ["a red circle", "two red circles"], scorer=scorer, rounds=1)
    assert {text for some in seen for text in some} == {"a red circle", "two red circles"}
    assert found[0].tries[1].predictions == pytest.approx(found[1].tries[1].predictions)
    assert [one.asked for one in found] == ["a red circle", "two red circles"]


def test_a_wording_that_comes_again_costs_nothing(pipeline):
    found = optimise(pipeline, 9.0, lambda prompt, tried: "a red circle", rounds=3)
    assert len(found.tries) == 4 and [one.row_steps for one in found.tries[1:]] == [0.0, 0.0, 0.0]


def test_a_rewriter_that_gives_nothing_ends_the_search_and_the_best_is_completed(pipeline):
    for answer in (None, "  ", 7, "x" * 9000):
        found = optimise(pipeline, 9.0, lambda prompt, tried, answer=answer: answer)
        assert found.reason == "rewriter" and found.image is not None and len(found.tries) == 1


def test_errors_pass_unchanged_and_nothing_stays(pipeline):
    before = traces(pipeline)

    def broken(prompt, tried):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        optimise(pipeline, 9.0, broken)
    with pytest.raises(ZeroDivisionError):
        optimise(pipeline, 9.0, scorer=lambda images, prompts: 1 / 0)
    with pytest.raises(ValueError):
        grpo_accel.optimize_prompt(pipeline, "a red circle", next_wording, 0.5, step=2, scorer=score, **{**CALL, "height": 33})
    for rounds in (-1, 1000):
        with pytest.raises(GrpoAccelError, match="rounds"):
            optimise(pipeline, 9.0, rounds=rounds)
    assert traces(pipeline) == before


# ---------------------------------------------------------------------- an endpoint


class Endpoint(http.server.BaseHTTPRequestHandler):
    answers: list = []  # (status, body, seconds between two bytes)
    asked: list = []

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append((self.path, json.loads(body), self.headers.get("Authorization")))
        status, answer, pause = self.answers.pop(0)
        self.send_response(status)
        if status == 302:
            self.send_header("Location", f"http://127.0.0.1:{self.server.server_port}/elsewhere")
        self.end_headers()
        try:
            for part in [answer[i: i + 1] for i in range(len(answer))] if pause else [answer]:
                self.wfile.write(part)
                self.wfile.flush()
                time.sleep(pause)
        except OSError:
            pass  # the other side had enough

    def log_message(self, *_):
        pass


@pytest.fixture
def endpoint(monkeypatch):
    monkeypatch.setattr(Endpoint, "answers", [])
    monkeypatch.setattr(Endpoint, "asked", [])
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def completion(text):
    return json.dumps({"choices": [{"message": {"content": text}}]}).encode()


def ask(url, **settings):
    return ChatRewriter(url, **{"pause_seconds": 0.0, "timeout_seconds": 20.0, **settings})("circle, red", [])


def test_an_endpoint_is_asked_for_other_words(endpoint, monkeypatch):
    monkeypatch.setenv("GRPO_ACCEL_REWRITER_KEY", "for-the-test")
    Endpoint.answers[:] = [(200, completion(' "a red circle" '), 0)]
    assert ask(endpoint, model="small") == "a red circle"
    path, body, key = Endpoint.asked[0]
    assert path == "/v1/chat/completions" and body["model"] == "small" and key == "Bearer for-the-test"
    assert json.loads(body["messages"][1]["content"]) == {"prompt": "circle, red", "tried": []}


def test_an_endpoint_in_trouble_is_asked_again_and_not_for_ever(endpoint):
    Endpoint.answers[:] = [(503, b"", 0), (429, b"", 0), (200, completion("better"), 0)]
    assert ask(endpoint) == "better"
    Endpoint.answers[:] = [(500, b"", 0)] * 3
    with pytest.raises(RewriterFailed, match="HTTP 500.*3 times"):
        ask(endpoint)
    assert len(Endpoint.asked) == 6
    Endpoint.answers[:] = [(401, b"", 0)]
    with pytest.raises(RewriterFailed, match="HTTP 401"):
        ask(endpoint)


def test_an_endpoint_that_redirects_gets_no_key_elsewhere(endpoint):
    Endpoint.answers[:] = [(302, b"", 0)]
    with pytest.raises(RewriterFailed, match="HTTP 302"):
        ask(endpoint)
    assert len(Endpoint.asked) == 1


@pytest.mark.parametrize("answer", [b"", b"no json", b"[]", b'{"choices": []}', completion(""), completion(None), b"\xff\xfe",
                                    completion("x" * 9000), b"x" * ((1 << 20) + 1), b"[" * 100000])
def test_an_answer_that_is_none(endpoint, answer):
    Endpoint.answers[:] = [(200, answer, 0)]
    with pytest.raises(RewriterFailed):
        ask(endpoint)


def test_an_answer_that_comes_a_byte_at_a_time_has_a_deadline(endpoint):
    Endpoint.answers[:] = [(200, completion("a red circle"), 0.05)]
    with pytest.raises(RewriterFailed, match="within 0.2 s"):
        ask(endpoint, timeout_seconds=0.2, retries=0)


def test_nobody_listens():
    with pytest.raises(RewriterFailed):
        ask("http://127.0.0.1:9", retries=0)
    with pytest.raises(GrpoAccelError, match="rewriter"):
        rewriter_of("no_such_module_here:f")
    assert checked("  a ") == "a"


# ---------------------------------------------------------------------- lines of requests


def lines_of(pipeline, tmp_path, requests, monkeypatch, rewriter=next_wording):
    stream = io.StringIO()
    options = argparse.Namespace(threshold=None, out=str(tmp_path))
    events = prompt_command.Events(tmp_path / "events.jsonl", stream)
    search = PromptSearch(pipeline, rewriter, step=2, scorer=score, lookahead_steps=1, rounds=1, log=events, **CALL)
    assert prompt_command.answer_lines(requests, options, search, events) == 0
    written = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert (tmp_path / "events.jsonl").read_text() == stream.getvalue()
    return written


def test_requests_are_answered_as_they_come_and_bad_ones_are_told(pipeline, tmp_path, monkeypatch):
    events = lines_of(pipeline, tmp_path, [
        '{"id": "one", "prompt": "a red circle", "threshold": 9}\n', "nonsense\n", "\n", "[]\n", '{"prompt": 3}\n',
        '{"id": "x", "prompt": "a red circle"}\n', '{"prompt": "a red circle", "threshold": "qq"}\n', '{"prompt": "a", "seed": 1}\n',
        "[" * 100000 + "\n", '{"id": 7, "prompt": "a green square", "threshold": -9}\n'], monkeypatch)
    assert [event["event"] for event in events if event["id"] == "one"] == [
        "early", "decision", "rewrite", "early", "decision", "finished", "image"]
    assert [event["event"] for event in events].count("error") == 7
    last = events[-1]
    assert last["id"] == 7 and last["reason"] == "accepted" and Path(last["image"]).is_file()


def test_a_request_that_fails_does_not_stop_the_next(pipeline, tmp_path, monkeypatch):
    def broken(prompt, tried):
        raise KeyError("mine")

    events = lines_of(pipeline, tmp_path, ['{"prompt": "a red circle", "threshold": 9}', '{"prompt": "a red circle", "threshold": -9}'],
                      monkeypatch, broken)
    assert [event["event"] for event in events][2:] == ["error", "early", "decision", "finished", "image"]
    assert "KeyError" in events[2]["message"]


def test_the_command_refuses_what_it_cannot_do(tmp_path, capsys):
    common = ["--model", str(tmp_path / "none"), "--rewriter", "json:dumps", "--out", str(tmp_path / "out"), "--json"]
    assert prompt_command.main(common) == 2
    assert prompt_command.main([*common, "--prompt", "a", "--threshold", "q2"]) == 2
    assert prompt_command.main([*common, "--prompt", "a", "--threshold", "1"]) == 3
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["error"]["exit_code"] for answer in answers] == [2, 2, 3]


def test_what_is_not_finite_is_null():
    assert json.loads(prompts.json_line({"a": [float("nan"), 1.0], "b": float("inf")})) == {"a": [None, 1.0], "b": None}
