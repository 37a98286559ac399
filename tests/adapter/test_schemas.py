"""The guard against a PyTorch whose operators have changed."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
grpo_accel = pytest.importorskip("grpo_accel")
sys.path.insert(0, str(Path(__file__).parent))
import mini_flow_grpo  # noqa: E402
import watched_session  # noqa: E402
from grpo_accel import schemas  # noqa: E402

SOURCE = mini_flow_grpo.ROOT / "grpo_accel" / "compute" / "torch_check.c"


def listing():
    """What the library lists, read from its source: the literals up to the first semicolon."""
    body = SOURCE.read_text().split("schemas[] =", 1)[1].split(";\n", 1)[0]
    return "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', body)).replace("\\t", "\t").replace("\\n", "\n")


def test_the_listed_operators_are_this_pytorchs():
    lines = listing().splitlines()
    assert len(lines) > 10 and all("\taten::" in line for line in lines)
    assert schemas.changed(listing()) == []


def test_an_operator_that_changed_or_is_gone_is_named():
    text = listing().replace("mm\taten::mm(Tensor self, Tensor mat2)", "mm\taten::mm(Tensor self, Tensor other)", 1)
    text += "no_such_operator.out\taten::no_such_operator.out(Tensor self) -> Tensor\n"
    assert schemas.changed(text) == ["mm", "no_such_operator.out"]


@pytest.mark.parametrize("given, wanted", [("mm\taten::mm(Tensor self, Tensor mat2) -> Tensor\n", []),
                                           ("mm\tanother signature\n", ["probe.provider=native"])])
def test_a_session_then_computes_natively(monkeypatch, tmp_path, capfd, given, wanted):
    module = sys.modules["grpo_accel.attach"]
    asked = []

    def session(config, overrides, log):
        asked.append(overrides)
        return watched_session.Session(tmp_path, ["x0"])

    monkeypatch.setattr(module, "Session", session)
    monkeypatch.setattr(module, "load", lambda: SimpleNamespace(ga_torch_schemas=lambda: given.encode()))
    grpo_accel.attach("unused", ["mode=shadow"]).detach()
    assert asked == [["mode=shadow", *wanted]]
    assert ("other signatures of mm" in capfd.readouterr().err) == bool(wanted)


def test_a_library_without_a_list_is_trusted():
    assert schemas.expected(SimpleNamespace()) == "" and schemas.changed("") == []
