"""Our lines among progress bars: on a terminal and in a pipe a line is whole, and so is the bar."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

pytest.importorskip("tqdm")
pytest.importorskip("torch")  # the package brings it
from grpo_accel import terminal  # noqa: E402

FOLDER = str(Path(__file__).resolve().parents[2] / "grpo_accel" / "python")
HOST = """
import sys, threading
sys.path.insert(0, {folder!r})  # the file alone: the package would bring PyTorch
import terminal
from tqdm import tqdm
write = terminal.write
bar = tqdm(total=4, desc="host", file=sys.stderr, ncols=60, mininterval=0)
bar.update(1)
writers = [threading.Thread(target=write, args=(f"grpo_accel: warning: line {i} of ours",)) for i in range(3)]
for writer in writers: writer.start()
for writer in writers: writer.join()
bar.update(3)
bar.close()
write("grpo_accel: info: after the bar")
""".replace("{folder!r}", repr(FOLDER))


def on_terminal(program):
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))  # tqdm hides bars on a screen of no lines
    process = subprocess.Popen([sys.executable, "-c", program], stdout=follower, stderr=follower)
    os.close(follower)
    text = b""
    while True:
        try:
            block = os.read(leader, 65536)
        except OSError:
            break
        if not block:
            break
        text += block
    os.close(leader)
    assert process.wait(timeout=60) == 0, text
    return text.decode()


def in_pipe(program):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stderr.decode()


def screen(text):
    """Lines as a terminal shows them: what follows a carriage return overwrites the line from its start."""
    lines = []
    for line in re.sub(r"\x1b\[[0-9;]*m", "", text).replace("\r\n", "\n").split("\n"):
        shown = ""
        for part in line.split("\r"):
            shown = part + shown[len(part):]
        lines.append(shown.rstrip())
    return lines


@pytest.mark.parametrize("run", [on_terminal, in_pipe])
def test_lines_and_bars_stay_whole(run):
    lines = [line for line in screen(run(HOST)) if line]
    ours = [line for line in lines if "grpo_accel" in line]
    assert sorted(ours[:3]) == [f"grpo_accel: warning: line {i} of ours" for i in range(3)]
    assert ours[3] == "grpo_accel: info: after the bar"
    bars = [line for line in lines if "host" in line]
    assert len(bars) == 1 and "100%" in bars[0] and "4/4" in bars[0]


def test_a_line_that_is_merely_printed_tears_the_bar():
    """The control: what the test above would see without us."""
    torn = HOST.replace("write = terminal.write", "write = lambda line: print(line, file=sys.stderr, flush=True)")
    lines = [line for line in screen(on_terminal(torn)) if "of ours" in line]
    assert any(not line.startswith("grpo_accel") for line in lines)


@pytest.mark.parametrize("broken", ["sys.stderr.close()", "sys.modules['tqdm'] = object()", "tqdm._instances = None"])
def test_a_line_never_raises(broken):
    program = HOST.replace("bar.update(3)", f"{broken}; write('x'); write('y'); import os; os._exit(0)")
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60).returncode == 0


def test_nothing_is_imported_for_it():
    program = f"import sys\nsys.path.insert(0, {FOLDER!r})\nimport terminal\nterminal.write('x')\nsys.exit('tqdm' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "x\n")


@pytest.mark.parametrize("chosen, wanted, inside", [(None, True, "error"), (None, False, None), ("debug", True, "debug")])
def test_a_quiet_command_leaves_the_log_level_as_it_was(monkeypatch, chosen, wanted, inside):
    monkeypatch.delenv(terminal.LOG_LEVEL, raising=False)
    if chosen is not None:
        monkeypatch.setenv(terminal.LOG_LEVEL, chosen)
    with pytest.raises(ValueError), terminal.errors_only(wanted):
        assert os.environ.get(terminal.LOG_LEVEL) == inside
        raise ValueError("the command failed")
    assert os.environ.get(terminal.LOG_LEVEL) == chosen
