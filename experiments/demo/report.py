"""Writes ``summary.json`` and ``report.html`` of a demo run, and prints the summary as a table.

    python -m experiments.demo.report runs/demo [--verified yes|no] [--quiet]

``report.html`` needs no network: charts are inline SVG, images are inline PNG. ``--verified`` says what
``grpo-accel verify`` found. Exit status: 0 written, 3 the run's files can't be read.
"""

import argparse
import json
import sys
from pathlib import Path

from experiments.demo import page
from experiments.demo.figures import PHASES, summarise
from experiments.demo.load import read_run


def number(value, digits=3):
    return "–" if value is None else f"{value:.{digits}f}"


def interval(bounds):
    return "" if bounds is None else f" (95 % {bounds[0]:.2f} to {bounds[1]:.2f})"


def share(part, whole):
    return f"{100 * part / whole:.1f} %" if whole else "–"


def terminal_table(summary):
    """(label, text) lines of what a run came to."""
    probe, record, reward = summary["probe"], summary["record"], summary["reward"]
    stopped = summary["rows_pruned"]
    saved = summary["row_steps_full"] - summary["row_steps_run"]
    lines = [
        ("ranks, updates", f"{summary['ranks']}, {summary['updates']}"),
        ("rollouts stopped", f"{stopped:,} of {summary['rows_total']:,} ({share(stopped, summary['rows_total'])})"),
        ("row-steps saved", f"{saved:,} of {summary['row_steps_full']:,} ({share(saved, summary['row_steps_full'])})"),
        ("reward, held out", f"{number(reward['start'])} → {number(reward['end'])}"),
        (
            "prediction within groups",
            f"Spearman {number(probe['within_spearman'], 2)}{interval(probe['within_ci95'])}, "
            f"{probe['n_groups']} groups, after step {probe['step']}",
        ),
        ("  pooled, for comparison", f"Spearman {number(probe['pooled_spearman'], 2)}, AUC {number(probe['auc'], 2)}"),
    ]
    for mode, seconds in summary["seconds"].items():
        if seconds:
            parts = ", ".join(f"{phase} {seconds[phase]:.2f}" for phase in PHASES)
            lines.append((f"seconds an update, {mode}", f"{sum(seconds.values()):.2f} = {parts}"))
    overhead = summary["overhead_fraction"]
    verified = {True: "verified", False: "damaged", None: "not verified"}[record["verified"]]
    return lines + [
        ("own overhead", "–" if overhead is None else f"{100 * overhead:.2f} % of the rollout"),
        ("record", f"{record['rows']:,} rows, {record['segments']} segments, {record['bytes'] / 1e6:.1f} MB, {verified}"),
    ]


def print_table(summary):
    lines = terminal_table(summary)
    width = max(len(name) for name, _ in lines)
    for name, text in lines:
        print(f"{name:<{width}}  {text}")


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(description="Summary and report of a demo run.")
    parser.add_argument("run", type=Path, help="the run's folder, e.g. runs/demo")
    parser.add_argument("--verified", choices=["yes", "no"], help="what `grpo-accel verify` said of the record")
    parser.add_argument("--quiet", action="store_true", help="write the files, print nothing")
    return parser.parse_args(arguments)


def main(arguments=None):
    options = parse_arguments(arguments)
    verified = {"yes": True, "no": False, None: None}[options.verified]
    try:
        run = read_run(options.run)
        summary, judged = summarise(run, verified)
    except (OSError, ValueError) as error:
        print(f"report: {error}", file=sys.stderr)
        return 3
    (options.run / "summary.json").write_text(json.dumps(summary, indent=1, allow_nan=False) + "\n")
    (options.run / "report.html").write_text(page.render(run, summary, judged))
    if not options.quiet:
        print_table(summary)
        print(f"report: {options.run / 'report.html'}")
    for problem in run.problems:
        print(f"report: {problem}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
