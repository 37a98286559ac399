"""Low-rank adapters that are on a model only inside a `with`: no module is added, no parameter is registered.

Files are peft's (adapter_config.json beside adapter_model.safetensors), so an adapter that a user has can be read,
and one that was learned here can be used elsewhere.
"""

from __future__ import annotations

import json
import math
import os
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.nn import functional

PREFIXES = ("base_model.model.", "transformer.", "unet.")
WEIGHT_NAMES = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors")
SUFFIXES = {
    ".lora_A.weight": 0, ".lora_A.default.weight": 0, ".lora.down.weight": 0, ".lora_down.weight": 0,
    ".lora_B.weight": 1, ".lora_B.default.weight": 1, ".lora.up.weight": 1, ".lora_up.weight": 1,
}


def plain_name(name: str) -> str:
    """A module's name in the bare model, whatever wraps it."""
    changed = True
    while changed:
        changed = False
        for prefix in ("module.", *PREFIXES):
            if name.startswith(prefix):
                name, changed = name[len(prefix):], True
    return name


def linears(model, targets=None) -> dict:
    """Linear layers of a model by plain name, those whose names end with a target; peft's wrappers count as layers."""
    found = {}
    for name, module in model.named_modules():
        plain = plain_name(name)
        wanted = targets is None or any(plain == target or plain.endswith("." + target) for target in targets)
        if wanted and hasattr(module, "in_features") and hasattr(module, "out_features"):
            found[plain] = module
    return found


class Lora:
    """Adapter weights: by module name A [rank, in] and B [out, rank], fp32, and the factor of B(A(x))."""

    def __init__(self, pairs: dict, factors: dict):
        self.pairs = pairs
        self.factors = factors

    @classmethod
    def fresh(cls, model, targets, rank: int, seed: int) -> "Lora":
        """An adapter that changes nothing yet: A from a generator of its own, B zero."""
        generator = torch.Generator().manual_seed(seed)
        pairs = {}
        for name, module in linears(model, targets).items():
            device = next(module.parameters()).device
            down = torch.randn((rank, module.in_features), generator=generator) / math.sqrt(module.in_features)
            pairs[name] = (down.to(device), torch.zeros((module.out_features, rank), device=device))
        if not pairs:
            raise ValueError("the model has none of the layers that an adapter is put on")
        return cls(pairs, {name: 1.0 for name in pairs})

    @classmethod
    def load(cls, path, model) -> "Lora":
        """An adapter from a folder or a .safetensors file, for the layers of `model`; ValueError says what is wrong."""
        from safetensors.torch import load_file

        file = _weight_file(Path(path))
        pairs, alphas = _pairs_of(load_file(str(file)))
        layers = linears(model)
        missing = sorted(set(pairs) - set(layers))
        if missing:
            count = f"{len(missing)} of {len(pairs)} are missing"
            raise ValueError(f"{file}: the model has no layer {missing[0]} ({count})")
        for name, (down, up) in pairs.items():
            shapes = (down.shape[1], up.shape[0], down.shape[0])
            if shapes != (layers[name].in_features, layers[name].out_features, up.shape[1]):
                raise ValueError(f"{file}: the weights of {name} do not fit the model's layer")
        factors = _factors(file.parent / "adapter_config.json", pairs, alphas)
        placed = {}
        for name, (down, up) in pairs.items():
            device = next(layers[name].parameters()).device
            placed[name] = (down.float().to(device), up.float().to(device))
        return cls(placed, factors)

    def save(self, folder) -> None:
        """Writes peft's two files, each beside its name first; readers never see half a file."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {}
        for name, (down, up) in self.pairs.items():
            tensors[f"base_model.model.{name}.lora_A.weight"] = down.detach().cpu().contiguous()
            # peft has one factor for all: what differs from it goes into B
            tensors[f"base_model.model.{name}.lora_B.weight"] = (up * self.factors[name]).detach().cpu().contiguous()
        ranks = {name: down.shape[0] for name, (down, _) in self.pairs.items()}
        rank = max(ranks.values())
        config = {
            "peft_type": "LORA", "r": rank, "lora_alpha": rank, "lora_dropout": 0.0, "bias": "none",
            "target_modules": sorted(self.pairs), "rank_pattern": {n: r for n, r in ranks.items() if r != rank},
            "alpha_pattern": {n: r for n, r in ranks.items() if r != rank}, "init_lora_weights": True,
        }
        partial = folder / f"adapter_model.{os.getpid()}.tmp"
        save_file(tensors, str(partial), metadata={"format": "pt"})
        os.replace(partial, folder / "adapter_model.safetensors")
        partial.write_text(json.dumps(config, indent=2) + "\n")
        os.replace(partial, folder / "adapter_config.json")

    def tensors(self) -> list:
        """All weights in a fixed order, the same on every rank."""
        return [tensor for name in sorted(self.pairs) for tensor in self.pairs[name]]

    @contextmanager
    def on(self, model):
        """Inside: the model's chosen layers add the adapter's output to their own. Afterwards no hook is left."""
        layers = linears(model)
        handles = []
        try:
            for name, (down, up) in self.pairs.items():
                handles.append(layers[name].register_forward_hook(_hook(down, up, self.factors[name])))
            yield
        finally:
            for handle in handles:
                handle.remove()


def _hook(down, up, factor: float):
    def add(module, args, output):
        inside = functional.linear(args[0], down.to(args[0].dtype))
        return output + (factor * functional.linear(inside, up.to(inside.dtype))).to(output.dtype)

    return add


def _weight_file(path: Path) -> Path:
    candidates = [path] if path.is_file() else [path / name for name in WEIGHT_NAMES]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise ValueError(f"{path}: no adapter there (expected a .safetensors file or one of {', '.join(WEIGHT_NAMES)})")


def _pairs_of(tensors: dict) -> tuple:
    """({name: (A, B)}, {name: alpha}) of a file's tensors."""
    halves, alphas = {}, {}
    for key, tensor in tensors.items():
        if key.endswith(".alpha"):
            alphas[plain_name(key[: -len(".alpha")])] = float(tensor)
            continue
        suffix = next((suffix for suffix in SUFFIXES if key.endswith(suffix)), None)
        if suffix is None or tensor.dim() != 2:
            raise ValueError(f"tensor {key} does not belong to a plain LoRA of linear layers")
        halves.setdefault(plain_name(key[: -len(suffix)]), {})[SUFFIXES[suffix]] = tensor
    if not halves or any(len(pair) != 2 for pair in halves.values()):
        raise ValueError("the adapter's file lacks one of the two matrices of a layer")
    return {name: (pair[0], pair[1]) for name, pair in halves.items()}, alphas


def _factors(config_path: Path, pairs: dict, alphas: dict) -> dict:
    """alpha / rank of each layer, as peft reads it; 1 where nothing is said."""
    config = json.loads(config_path.read_text()) if config_path.is_file() else {}
    if config.get("use_dora") or config.get("bias", "none") != "none":
        raise ValueError(f"{config_path}: only plain LoRA without biases can be used (no DoRA)")
    factors = {}
    for name, (down, _) in pairs.items():
        rank = down.shape[0]
        alpha = alphas.get(name, _pattern(config.get("alpha_pattern") or {}, name, config.get("lora_alpha", rank)))
        factors[name] = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return factors


def _pattern(pattern: dict, name: str, default):
    for key, value in pattern.items():
        if name == key or name.endswith("." + key):
            return value
    return default
