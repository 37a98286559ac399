"""The table of a provider in Python: ctypes mirrors of grpo_accel/compute/compute.h and a small wrapper."""
import ctypes
import os
from collections.abc import Callable
from ctypes import POINTER, Structure, byref, c_bool, c_char, c_char_p, c_float, c_int32, c_int64, c_size_t, c_void_p

import torch

DIMS_MAX = 6
DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}


class Error(Structure):
    _fields_ = [("status", c_int32), ("line", c_int32), ("file", c_char_p), ("message", c_char * 512)]


class Tensor(Structure):
    _fields_ = [("data", c_void_p), ("shape", c_int64 * DIMS_MAX), ("strides", c_int64 * DIMS_MAX), ("dims", c_int32),
                ("dtype", c_int32), ("device", c_int32), ("device_index", c_int32), ("stream", c_void_p)]


class Conv(Structure):
    _fields_ = [(name, c_int32) for name in
                ("rows", "in_channels", "out_channels", "height", "width", "kernel", "stride")]


class GroupNorm(Structure):
    _fields_ = [*((name, c_int32) for name in ("rows", "channels", "groups", "positions")), ("epsilon", c_float)]


class AdamW(Structure):
    _fields_ = [("step", c_int64),
                *((name, c_float) for name in ("learning_rate", "beta1", "beta2", "epsilon", "weight_decay"))]


class Attention(Structure):
    _fields_ = [*((name, c_int32) for name in ("rows", "heads", "image_tokens", "text_tokens", "head_size")),
                ("query", POINTER(Tensor)), ("key_image", POINTER(Tensor)), ("key_text", POINTER(Tensor)),
                ("content", c_void_p), ("row_index", c_void_p), ("statistics", ctypes.c_uint32)]


class Info(Structure):
    _fields_ = [*((name, c_char_p) for name in ("path", "version", "backport", "missing")),
                ("functions_found", c_int32), ("functions_wanted", c_int32), ("live_handles", c_int64),
                ("open", c_bool)]


ENTRIES = ["sgemm", "conv_workspace_floats", "conv_forward", "conv_backward", "group_norm_forward",
           "group_norm_backward", "silu_forward", "silu_backward", "linear_forward", "linear_backward",
           "mean_pool_forward", "mean_pool_backward", "channel_shift_forward", "channel_shift_backward", "accumulate",
           "adamw"]
ENTRIES_2 = ["allocate", "release", "upload", "download", "zero", "run", "channel_scale_forward",
             "channel_scale_backward", "copy_columns", "lerp", "attention"]


class Compute(Structure):
    _fields_ = [("version", ctypes.c_uint32), ("name", c_char_p), *((name, c_void_p) for name in ENTRIES),
                ("device", c_int32), ("device_index", c_int32), *((name, c_void_p) for name in ENTRIES_2)]


JOB = ctypes.CFUNCTYPE(c_int32, c_void_p, POINTER(Error))


def address(tensor: torch.Tensor | None) -> c_void_p:
    return c_void_p(None if tensor is None else tensor.data_ptr())


def view(tensor: torch.Tensor) -> Tensor:
    """A ga_tensor that shows `tensor`, whatever its strides."""
    made = Tensor(data=tensor.data_ptr(), dims=tensor.dim(), dtype=DTYPES[tensor.dtype],
                  device=1 if tensor.is_cuda else 0, device_index=tensor.get_device() if tensor.is_cuda else 0)
    for dim in range(tensor.dim()):
        made.shape[dim] = tensor.shape[dim]
        made.strides[dim] = tensor.stride(dim)
    return made


class Table:
    """A provider; calls raise where it says no."""

    def __init__(self, kind: int, device: str = "cpu") -> None:
        library = ctypes.CDLL(os.environ["GA_PROVIDER_LIBRARY"])
        library.provider_open.argtypes = [
            c_int32, c_int32, c_int32, c_char_p, POINTER(POINTER(Compute)), POINTER(Error)]
        library.provider_info.restype = POINTER(Info)
        library.provider_schemas.restype = c_char_p
        self.loaded = library
        table = POINTER(Compute)()
        error = Error()
        status = library.provider_open(kind, 1 if device == "cuda" else 0, 0, None, byref(table), byref(error))
        if status:
            raise RuntimeError(error.message.decode())
        self.compute = table.contents

    def info(self) -> Info:
        return self.loaded.provider_info().contents

    def schemas(self) -> dict[str, str]:
        lines = self.loaded.provider_schemas().decode().splitlines()
        return dict(line.split("\t") for line in lines)

    def workspace(self, conv: Conv) -> torch.Tensor:
        entry = ctypes.CFUNCTYPE(c_size_t, c_void_p)(self.compute.conv_workspace_floats)
        return torch.zeros(entry(byref(conv)))

    def _call(self, name: str, arguments: tuple) -> None:
        types = {int: c_int32, float: c_float}
        converted = [address(a) if a is None or isinstance(a, torch.Tensor) else a for a in arguments]
        signature = [types.get(type(a), type(a) if isinstance(a, ctypes._SimpleCData) else c_void_p) for a in converted]
        passed = [ctypes.cast(byref(a), c_void_p) if isinstance(a, Structure) else a for a in converted]
        entry = ctypes.CFUNCTYPE(c_int32, *signature, POINTER(Error))(getattr(self.compute, name))
        error = Error()
        if entry(*passed, byref(error)):
            raise RuntimeError(error.message.decode())

    def run(self, work: Callable[[], None]) -> None:
        """Runs `work` as a job of the provider; what it raises comes back here."""
        raised: list[BaseException] = []

        def job(_: object, __: object) -> int:
            try:
                work()
            except BaseException as failure:  # a job must not unwind through C
                raised.append(failure)
            return 0

        kept = JOB(job)
        error = Error()
        entry = ctypes.CFUNCTYPE(c_int32, JOB, c_void_p, POINTER(Error))(self.compute.run)
        status = entry(kept, None, byref(error))
        if raised:
            raise raised[0]
        assert status == 0, error.message.decode()

    def job(self, name: str, *arguments: object) -> None:
        """One operation as a job of its own. Integers are int32, wrap others in ctypes; tensors are pointers."""
        self.run(lambda: self._call(name, arguments))
