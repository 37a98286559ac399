"""The C library through ctypes: structs, signatures, and a check that both sides mean the same.

Only this module knows ctypes. Every call releases the GIL (ctypes.CDLL), so the host's reward threads run
while a rank waits for its peers.
"""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path

ABI_VERSION = 4
INPUTS = ("attention", "x0", "cfg", "hidden", "prompt", "preview", "lookahead", "distilled")
MODES = ("off", "shadow", "prune", "pass-through")
LOG_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)
TENSOR_DIMS_MAX = 6
DTYPES = {"torch.float32": 0, "torch.float16": 1, "torch.bfloat16": 2, "torch.float64": 3, "torch.int64": 4}


class GrpoAccelError(RuntimeError):
    """An error of the C library: `status` is its word ("config", "late", …), the text says what and where."""

    def __init__(self, status: str, message: str):
        super().__init__(message)
        self.status = status


class _Error(ctypes.Structure):
    _fields_ = [
        ("status", ctypes.c_int),
        ("line", ctypes.c_int),
        ("file", ctypes.c_char_p),
        ("message", ctypes.c_char * 512),
    ]


class Tensor(ctypes.Structure):
    """ga_tensor: a view of memory that the host's tensor owns."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("shape", ctypes.c_int64 * TENSOR_DIMS_MAX),
        ("strides", ctypes.c_int64 * TENSOR_DIMS_MAX),
        ("dims", ctypes.c_int32),
        ("dtype", ctypes.c_int32),
        ("device", ctypes.c_int32),
        ("device_index", ctypes.c_int32),
        ("stream", ctypes.c_void_p),
    ]


class _SessionOptions(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("config_path", ctypes.c_char_p),
        ("overrides", ctypes.POINTER(ctypes.c_char_p)),
        ("override_count", ctypes.c_size_t),
        ("log", LOG_FUNCTION),
        ("log_user", ctypes.c_void_p),
    ]


class SessionInfo(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("mode", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("world_size", ctypes.c_int32),
        ("decision_step", ctypes.c_int32),
        ("inputs", ctypes.c_uint32),
        ("probe_version", ctypes.c_uint32),
        ("std_kind", ctypes.c_int32),
        ("updates", ctypes.c_int32),
        ("wandb", ctypes.c_int32),
        ("run_dir", ctypes.c_char_p),
        ("preview_scorers", ctypes.c_char_p),
        ("preview_decoder", ctypes.c_char_p),
        ("lookahead_steps", ctypes.c_int32),
        ("lookahead_guided", ctypes.c_int32),
        ("hidden_block", ctypes.c_char_p),
        ("distilled_lora", ctypes.c_char_p),
        ("distilled", ctypes.c_int32),
        ("distilled_rank", ctypes.c_int32),
        ("distilled_every_updates", ctypes.c_int32),
        ("distilled_pairs", ctypes.c_int32),
        ("distilled_seconds", ctypes.c_double),
        ("finals", ctypes.c_int32),
        ("drop_stopped_rows", ctypes.c_int32),
    ]


class _BatchOptions(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("rows", ctypes.c_int32),
        ("steps_total", ctypes.c_int32),
        ("model", ctypes.c_char_p),
        ("sigmas", ctypes.POINTER(ctypes.c_double)),
        ("prompts", ctypes.POINTER(ctypes.c_char_p)),
        ("latent_channels", ctypes.c_int32),
        ("latent_height", ctypes.c_int32),
        ("latent_width", ctypes.c_int32),
        ("token_height", ctypes.c_int32),
        ("token_width", ctypes.c_int32),
        ("block_count", ctypes.c_int32),
        ("text_tokens", ctypes.c_int32),
        ("block_names", ctypes.POINTER(ctypes.c_char_p)),
        ("hidden_values", ctypes.c_int32),
        ("prompt_values", ctypes.c_int32),
        ("scores_per_preview", ctypes.c_int32),
        ("noise_begin_step", ctypes.c_int32),
        ("noise_end_step", ctypes.c_int32),
    ]


class _Decision(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("rows", ctypes.c_int32),
        ("kept_count", ctypes.c_int32),
        ("kept", ctypes.POINTER(ctypes.c_int32)),
        ("prediction", ctypes.POINTER(ctypes.c_float)),
        ("audited", ctypes.c_int32),
        ("pruned", ctypes.c_int32),
        ("reason", ctypes.c_char_p),
        ("next_step", ctypes.c_int32),
    ]


class _UpdateOptions(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("count", ctypes.c_int64),
        ("groups", ctypes.POINTER(ctypes.c_int64)),
        ("rewards", ctypes.POINTER(ctypes.c_double)),
        ("host_advantages", ctypes.POINTER(ctypes.c_double)),
        ("host_std", ctypes.c_int32),
        ("prunable", ctypes.c_int32),
    ]


def find_library() -> Path:
    """Path of libgrpo_accel.so: $GRPO_ACCEL_LIBRARY, beside this package, or in the build folder of its checkout."""
    here = Path(__file__).resolve().parent
    named = os.environ.get("GRPO_ACCEL_LIBRARY")
    candidates = [Path(named)] if named else []
    candidates += [here / "libgrpo_accel.so", here.parents[1] / "build" / "grpo_accel" / "session" / "libgrpo_accel.so"]
    for path in candidates:
        if path.is_file():
            return path
    tried = ", ".join(str(path) for path in candidates)
    raise GrpoAccelError("missing", f"libgrpo_accel.so was not found (tried {tried}); build it or set GRPO_ACCEL_LIBRARY")


def _declare(library: ctypes.CDLL) -> None:
    handle, error, tensor = ctypes.c_void_p, ctypes.POINTER(_Error), ctypes.POINTER(Tensor)
    status = ctypes.c_int
    signatures = {
        "ga_status_text": (ctypes.c_char_p, [status]),
        "ga_version": (ctypes.c_char_p, []),
        "ga_abi_version": (ctypes.c_int32, []),
        "ga_session_open": (status, [ctypes.POINTER(_SessionOptions), ctypes.POINTER(handle), error]),
        "ga_session_close": (None, [ctypes.POINTER(handle), ctypes.c_int32]),
        "ga_session_get_info": (status, [handle, ctypes.POINTER(SessionInfo)]),
        "ga_session_set_host": (status, [handle, ctypes.c_int32, ctypes.c_int32, error]),
        "ga_session_metrics_json": (ctypes.c_char_p, [handle]),
        "ga_batch_begin": (status, [handle, ctypes.POINTER(_BatchOptions), ctypes.POINTER(handle), error]),
        "ga_batch_blocks": (status, [handle, ctypes.POINTER(ctypes.POINTER(ctypes.c_int32)), ctypes.POINTER(ctypes.c_int32)]),
        "ga_batch_observe_attention": (status, [handle, ctypes.c_int32, tensor, tensor, tensor, ctypes.c_void_p, error]),
        "ga_batch_observe_latent": (status, [handle, tensor, tensor, ctypes.c_double, error]),
        "ga_batch_get_steps": (status, [handle, ctypes.POINTER(ctypes.POINTER(ctypes.c_int32)), ctypes.POINTER(ctypes.c_int32)]),
        "ga_batch_decision_step": (ctypes.c_int32, [handle]),
        "ga_batch_observe_guidance": (status, [handle, tensor, tensor, error]),
        "ga_batch_observe_vectors": (status, [handle, ctypes.c_int32, tensor, error]),
        "ga_batch_observe_scores": (status, [handle, ctypes.c_int32, ctypes.c_int32, ctypes.POINTER(ctypes.c_double), error]),
        "ga_batch_observe_preview": (status, [handle, ctypes.POINTER(ctypes.c_double), error]),
        "ga_batch_state": (status, [handle, tensor, error]),
        "ga_batch_final": (status, [handle, ctypes.POINTER(ctypes.c_int32), ctypes.c_int32, tensor, error]),
        "ga_batch_decide": (status, [handle, ctypes.POINTER(_Decision), error]),
        "ga_batch_reward": (status, [handle, ctypes.c_char_p, ctypes.POINTER(ctypes.c_int32),
                                     ctypes.POINTER(ctypes.c_double), ctypes.c_int32, error]),
        "ga_batch_seconds": (status, [handle, ctypes.c_int32, ctypes.c_double]),
        "ga_batch_abandon": (None, [handle]),
        "ga_batch_missed": (None, [handle]),
        "ga_update_end": (status, [handle, ctypes.POINTER(_UpdateOptions), ctypes.POINTER(ctypes.c_double), error]),
        "ga_update_again": (status, [handle, ctypes.POINTER(_UpdateOptions), ctypes.POINTER(ctypes.c_double), error]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments


def load() -> ctypes.CDLL:
    """The library, opened RTLD_LOCAL so that none of its symbols can meet the host's; refuses another ABI."""
    path = find_library()
    try:
        library = ctypes.CDLL(str(path))
        library.ga_abi_version.restype = ctypes.c_int32
        found = library.ga_abi_version()
    except (OSError, AttributeError) as error:
        raise GrpoAccelError("missing", f"{path} can't be used: {error}") from None
    if found != ABI_VERSION:
        raise GrpoAccelError("mismatch", f"{path} has interface version {found}, this Python package needs {ABI_VERSION}")
    _declare(library)
    return library


def tensor_view(tensor) -> Tensor:
    """View of a torch tensor [≤ 6 dims]; it must outlive the call that the view is passed to."""
    view = Tensor()
    view.data = tensor.data_ptr()
    view.dims = tensor.dim()
    view.shape[: tensor.dim()] = list(tensor.shape)
    view.strides[: tensor.dim()] = list(tensor.stride())
    view.dtype = DTYPES[str(tensor.dtype)]
    if tensor.is_cuda:
        import torch

        view.device = 1
        view.device_index = tensor.device.index or 0
        view.stream = torch.cuda.current_stream(tensor.device).cuda_stream
    return view


def _on_cpu(tensor):
    """The tensor itself, or its copy on the CPU, where all but attention is computed."""
    return tensor if tensor.device.type == "cpu" else tensor.detach().cpu()


def _text_array(texts):
    return (ctypes.c_char_p * max(len(texts), 1))(*[text.encode("utf-8", "replace") for text in texts])


class Session:
    """A ga_session. Methods raise GrpoAccelError; collective ones must be called by every rank."""

    def __init__(self, config_path: str, overrides=(), log=None):
        self._library = load()
        self._lock = threading.Lock()  # of handles that reward threads use and the main thread ends
        self._handle = ctypes.c_void_p()
        self.attention_on_cpu = False  # q and k are copied from their device first
        self._log = LOG_FUNCTION(lambda _user, level, line: log(level, line.decode(errors="replace"))) if log else LOG_FUNCTION()
        options = _SessionOptions(
            ctypes.sizeof(_SessionOptions), str(config_path).encode(), _text_array(overrides), len(overrides), self._log, None
        )
        self._call("ga_session_open", ctypes.byref(options), ctypes.byref(self._handle))

    def _call(self, name, *arguments):
        error = _Error()
        status = getattr(self._library, name)(*arguments, ctypes.byref(error))
        if status != 0:
            word = self._library.ga_status_text(status).decode()
            raise GrpoAccelError(word, error.message.decode(errors="replace") or word)

    def info(self) -> SessionInfo:
        info = SessionInfo(ctypes.sizeof(SessionInfo))
        self._library.ga_session_get_info(self._handle, ctypes.byref(info))
        return info

    def set_host(self, host_std: int, prunable: bool) -> None:
        """What the host divides advantages by (0 one σ, 1 the group's) and that it may be pruned from the first batch on;
        flow-grpo's scripts show both in their first update."""
        self._call("ga_session_set_host", self._handle, host_std, 1 if prunable else 0)

    def metrics_json(self) -> str:
        return (self._library.ga_session_metrics_json(self._handle) or b"{}").decode()

    def close(self, in_step: bool, batches=()) -> None:
        """`batches`: those still open; late reports of their rewards are ignored from here on."""
        if self._handle:
            self._end(batches)
            self._library.ga_session_close(ctypes.byref(self._handle), 1 if in_step else 0)

    def _end(self, batches) -> None:
        with self._lock:
            for batch in batches:
                batch.ended = True

    def missed_batch(self) -> None:
        """A batch that this rank rolls out but could not begin: keeps it in step with the others."""
        self._library.ga_batch_missed(self._handle)

    def begin_batch(self, *, rows, steps_total, model, sigmas, prompts, latent_shape, token_shape, block_names, text_tokens,
                    hidden_values=0, prompt_values=0, scores_per_preview=1, noise_window=(-1, -1)):
        """Begins a batch of `rows` rollouts; latent_shape (channels, height, width), token_shape (height, width).

        noise_window: the steps [begin, end) that add noise, (-1, -1) where that is not known or all do.
        """
        options = _BatchOptions(
            ctypes.sizeof(_BatchOptions), rows, steps_total, model.encode(), (ctypes.c_double * len(sigmas))(*sigmas),
            _text_array(prompts), *latent_shape, *token_shape, len(block_names), text_tokens, _text_array(block_names),
            hidden_values, prompt_values, scores_per_preview, *noise_window,
        )
        handle = ctypes.c_void_p()
        self._call("ga_batch_begin", self._handle, ctypes.byref(options), ctypes.byref(handle))
        return Batch(self, handle, rows)

    def end_update(self, groups, rewards, host_advantages, host_std: int, prunable: bool, batches=()):
        """Whole-group advantages: numpy int64, float64, float64 arrays [count] → float64 [count].

        Ends `batches`. After an error the host's own advantages are to be used, with 0 for stopped rows.
        """
        self._end(batches)
        return self._advantages("ga_update_end", groups, rewards, host_advantages, host_std, prunable)

    def advantages_again(self, groups, rewards, host_advantages, host_std: int, prunable: bool):
        """The same for the rows of the update that ended last, under other rewards; as often as the host asks."""
        return self._advantages("ga_update_again", groups, rewards, host_advantages, host_std, prunable)

    def _advantages(self, name: str, groups, rewards, host_advantages, host_std: int, prunable: bool):
        import numpy as np

        groups = np.ascontiguousarray(groups, dtype=np.int64)
        rewards = np.ascontiguousarray(rewards, dtype=np.float64)
        host_advantages = np.ascontiguousarray(host_advantages, dtype=np.float64)
        advantages = host_advantages.copy()
        options = _UpdateOptions(
            ctypes.sizeof(_UpdateOptions), len(groups), groups.ctypes.data_as(ctypes.POINTER(ctypes.c_int64)),
            rewards.ctypes.data_as(ctypes.POINTER(ctypes.c_double)),
            host_advantages.ctypes.data_as(ctypes.POINTER(ctypes.c_double)), host_std, 1 if prunable else 0,
        )
        target = advantages.ctypes.data_as(ctypes.POINTER(ctypes.c_double))
        self._call(name, self._handle, ctypes.byref(options), target)
        return advantages


class Decision:
    """Which rows go on after one step of a batch.

    `kept`: their indices in the whole batch; `prediction`: the newest of each row of the batch, NaN where none;
    `pruned`, `audited`, `reason`; `next_step`: denoising steps done before the batch's next decision, -1: none follows.
    """

    def __init__(self, raw: _Decision):
        self.rows = raw.rows
        self.kept = raw.kept[: raw.kept_count]
        self.prediction = raw.prediction[: raw.rows]
        self.pruned = raw.kept_count < raw.rows
        self.audited = bool(raw.audited)
        self.reason = raw.reason.decode()
        self.next_step = raw.next_step


class Batch:
    """A ga_batch; valid until the session's update ends.

    What is observed holds `running` rows: those that the decisions so far kept, in ascending order.
    """

    def __init__(self, session: Session, handle, rows: int):
        self._session = session
        self._handle = handle
        self.rows = rows
        self.running = rows
        self.ended = False  # under the session's lock
        self.decision_step = session._library.ga_batch_decision_step(handle)

    def blocks(self) -> list[int]:
        return self._indices("ga_batch_blocks")

    def steps(self) -> list[int]:
        """Denoising steps done before each decision of this batch, ascending; empty: it rests, nothing is observed."""
        return self._indices("ga_batch_get_steps")

    def _indices(self, name: str) -> list[int]:
        indices, count = ctypes.POINTER(ctypes.c_int32)(), ctypes.c_int32()
        getattr(self._session._library, name)(self._handle, ctypes.byref(indices), ctypes.byref(count))
        return indices[: count.value]

    def observe_attention(self, tap: int, query, key_image, key_text, content) -> None:
        """query, key_image [rows, heads, image tokens, d], key_text [rows, heads, text tokens, d]; content uint8 [rows, text tokens]."""
        tensors = [query, key_image, key_text]
        if not self._session.attention_on_cpu and query.device.type in ("cpu", "cuda"):
            try:
                return self._observe_attention(tap, tensors, content)
            except GrpoAccelError as error:
                if error.status != "missing" or not query.is_cuda:
                    raise
                self._session.attention_on_cpu = True  # no provider for the device: copied from here on
        return self._observe_attention(tap, [tensor if tensor is None else _on_cpu(tensor) for tensor in tensors], content)

    def _observe_attention(self, tap: int, tensors, content) -> None:
        views = [tensor_view(tensor) if tensor is not None else Tensor() for tensor in tensors]
        mask = content.data_ptr() if content is not None else None
        self._session._call("ga_batch_observe_attention", self._handle, tap, *[ctypes.byref(view) for view in views], mask)

    def observe_latent(self, latent, velocity, sigma: float) -> None:
        """latent, velocity [rows, channels, height, width]."""
        tensors = [_on_cpu(latent), _on_cpu(velocity)]
        views = [tensor_view(tensor) for tensor in tensors]
        self._session._call("ga_batch_observe_latent", self._handle, *[ctypes.byref(view) for view in views], sigma)

    def observe_guidance(self, conditional, unconditional) -> None:
        """Velocities [rows, channels, height, width] with and without the prompt."""
        self._with_tensors("ga_batch_observe_guidance", conditional, unconditional)

    def observe_vectors(self, name: str, vectors) -> None:
        """Input "hidden" or "prompt": [rows, values]."""
        tensor = _on_cpu(vectors)
        self._session._call("ga_batch_observe_vectors", self._handle, INPUTS.index(name), ctypes.byref(tensor_view(tensor)))

    def observe_scores(self, name: str, scores) -> None:
        """Input "preview", "lookahead" or "distilled": scores [running] or [running, scorers], NaN where there is none."""
        import numpy as np

        scores = np.ascontiguousarray(scores, dtype=np.float64)
        if scores.ndim not in (1, 2) or scores.shape[0] != self.running:
            raise GrpoAccelError("data", f"the scorers gave {list(scores.shape)} values for {self.running} previews")
        count = scores.size // self.running
        values = scores.ctypes.data_as(ctypes.POINTER(ctypes.c_double))
        self._session._call("ga_batch_observe_scores", self._handle, INPUTS.index(name), count, values)

    def observe_preview(self, scores) -> None:
        """Scores [rows] of the previews."""
        self.observe_scores("preview", scores)

    def state(self, latent) -> None:
        """The state at the decision step, [rows, channels, height, width]; kept where finals are latents."""
        self._with_tensors("ga_batch_state", latent)

    def final(self, rows, finals) -> None:
        """How `rows` ended: latents [rows, channels, height, width] or images [rows, 3, height, width] in 0 … 1.

        From any thread, ignored once the update has ended.
        """
        count = len(rows)
        tensor, indices = _on_cpu(finals), (ctypes.c_int32 * count)(*rows)
        with self._session._lock:
            if not self.ended:
                self._session._call("ga_batch_final", self._handle, indices, count, ctypes.byref(tensor_view(tensor)))

    def _with_tensors(self, name: str, *tensors) -> None:
        copies = [_on_cpu(tensor) for tensor in tensors]  # they must outlive the call
        self._session._call(name, self._handle, *[ctypes.byref(tensor_view(copy)) for copy in copies])

    def decide(self) -> Decision:
        raw = _Decision(ctypes.sizeof(_Decision))
        self._session._call("ga_batch_decide", self._handle, ctypes.byref(raw))
        decision = Decision(raw)
        self.running = len(decision.kept)
        return decision

    def reward(self, scorer: str, rows, values) -> None:
        """Final values of `rows`; from any thread, ignored once the update has ended."""
        count = len(rows)
        arrays = (ctypes.c_int32 * count)(*rows), (ctypes.c_double * count)(*values)
        with self._session._lock:
            if not self.ended:
                self._session._call("ga_batch_reward", self._handle, scorer.encode(), *arrays, count)

    def seconds(self, phase: int, seconds: float) -> None:
        """Seconds of a phase (0 denoise, 1 signal, 2 reward, 3 preview, 4 lookahead, 5 distilled, 6 features).

        From any thread, ignored once the update has ended.
        """
        with self._session._lock:
            if not self.ended:
                self._session._library.ga_batch_seconds(self._handle, phase, seconds)

    def abandon(self) -> None:
        with self._session._lock:
            self.ended = True
        self._session._library.ga_batch_abandon(self._handle)
