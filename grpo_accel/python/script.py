"""What a training script would get from grpo_accel, read from its text: nothing of it is run or imported.

Known by their names are the modules of flow-grpo whose functions are replaced, and the host's own line that leaves
rows without advantage out of training. What a script does in other words is not seen; `off` and `shadow` tell then.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from pathlib import Path

HOST = "flow_grpo"
REWARDS = "flow_grpo.rewards"
TRACKER = "flow_grpo.stat_tracking"
PACKAGES = ("flow_grpo", "flow_grpo.diffusers_patch", "diffusers")  # what is imported from them is a module or a class
SCRIPT_BYTES_MAX = 4 << 20


@dataclass
class Findings:
    """Modules of the host by what happens to them, and what stopping a rollout saves here."""

    replaced: list[str] = field(default_factory=list)
    unknown_rollouts: list[str] = field(default_factory=list)  # sampling functions that nothing is known of
    left_alone: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)  # modules of hosts whose rollouts can't be stopped
    has_mask: bool = False  # rows without advantage leave training
    other_kind: bool = False  # advantages of another type than grpo: nothing is ever pruned
    plain_pipelines: list[str] = field(default_factory=list)  # diffusers classes in a script that is not flow-grpo's

    @property
    def saves_rollout(self) -> bool:
        return TRACKER in self.replaced and not self.other_kind and any(_is_rollout(name) for name in self.replaced)

    @property
    def saves_reward(self) -> bool:
        return self.saves_rollout and REWARDS in self.replaced

    @property
    def saves_training(self) -> bool:
        return self.saves_rollout and self.has_mask


def _is_rollout(module: str) -> bool:
    return "pipeline_with_logprob" in module.rsplit(".", 1)[-1]


def imports(tree: ast.AST) -> set[str]:
    """Modules of the host that are imported anywhere, and "diffusers.NAME" of what diffusers gives."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            inside = node.module in PACKAGES
            names.update([f"{node.module}.{alias.name}" for alias in node.names] if inside else [node.module])
    return names - set(PACKAGES)


def _is_kind(node: ast.AST) -> bool:
    """tracker.update(…, type="sft"): advantages of another kind than those that kept rows can tell."""
    if _calls(node, "update") is None:
        return False
    kinds = [word.value for word in node.keywords if word.arg == "type"]
    return any(not (isinstance(kind, ast.Constant) and kind.value == "grpo") for kind in kinds)


def _calls(node: ast.AST, name: str) -> ast.AST | None:
    """What `.name(…)` is called on in node; None where node is no such call."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == name:
        return node.func.value
    return None


def _is_mask(node: ast.AST) -> bool:
    """x.abs().sum(…) != 0 or > 0, where x speaks of advantages."""
    if not isinstance(node, ast.Compare) or len(node.ops) != 1 or not isinstance(node.ops[0], (ast.NotEq, ast.Gt)):
        return False
    right = node.comparators[0]
    if not isinstance(right, ast.Constant) or right.value != 0:
        return False
    for reduction in ("sum", "amax", "any"):
        inner = _calls(node.left, reduction)
        inner = _calls(inner, "abs") if inner is not None else None
        if inner is not None and "advantage" in ast.unparse(inner).lower():
            return True
    return False


def examine(path: str | Path, seam_modules, pipelines=(), refused=()) -> Findings:
    """Reads a script. Raises OSError where it can't be read, SyntaxError where it is no Python, ValueError otherwise.

    seam_modules: names of the host's modules that are replaced; pipelines: diffusers classes that can be watched;
    refused: packages of the host that can't be accelerated.
    """
    source = Path(path).read_bytes()
    if len(source) > SCRIPT_BYTES_MAX:
        raise ValueError(f"{len(source)} bytes are more than a script has")
    tree = ast.parse(source, filename=str(path))
    names = imports(tree)
    found = Findings(
        has_mask=any(_is_mask(node) for node in ast.walk(tree)),
        other_kind=any(_is_kind(node) for node in ast.walk(tree)),
        plain_pipelines=sorted(name for name in pipelines if f"diffusers.{name}" in names),
    )
    for module in sorted(name for name in names if name == HOST or name.startswith(HOST + ".")):
        if any(module == name or module.startswith(name + ".") for name in refused):
            found.refused.append(module)
        elif module in seam_modules:
            found.replaced.append(module)
        elif _is_rollout(module):
            found.unknown_rollouts.append(module)
        else:
            found.left_alone.append(module)
    return found
