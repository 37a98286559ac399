"""The report as one HTML page: sections that are left out where a run has nothing for them."""

import base64
from html import escape
from itertools import groupby
from pathlib import Path

from experiments.demo.charts import Chart, padded, stacked_bars
from experiments.demo.figures import PHASES, centred, mode_by_update

TEMPLATE = Path(__file__).with_name("page.html")
SCATTER_POINTS = 1500
PREVIEW_PROMPTS = 6
PREVIEWS_A_SIDE = 6
PHASE_NAMES = {
    "rollout": "rollout",
    "signal": "previews (forwards, decode, score)",
    "reward": "reward",
    "train": "training",
    "accel": "grpo_accel itself",
}
COLOURS = {"rollout": "blue", "signal": "violet", "reward": "green", "train": "grey", "accel": "orange"}


def figure_text(value, digits=2):
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def interval_text(bounds):
    return "" if not bounds else f"95 % interval {figure_text(bounds[0])} to {figure_text(bounds[1])}"


def percent(part, whole, digits=0):
    return f"{100 * part / whole:.{digits}f} %" if whole else "–"


# ------------------------------------------------------------------------------------------------ headline


def tile(value, text):
    return f'<div class="tile"><b>{escape(value)}</b><span>{escape(text)}</span></div>'


def seconds_tile(seconds):
    totals = {mode: sum(parts.values()) for mode, parts in seconds.items() if parts}
    if len(totals) < 2:
        return tile("–", "seconds an update, shadow → prune: the run had only one of the two")
    return tile(f"{totals['shadow']:.1f} → {totals['prune']:.1f} s", "an update, shadow → prune (mean)")


def headline(run, summary):
    probe, reward, overhead = summary["probe"], summary["reward"], summary["overhead_fraction"]
    saved = summary["row_steps_full"] - summary["row_steps_run"]
    modes = mode_by_update(run.record)
    counts = {mode: sum(m == mode for m in modes.values()) for mode in ("shadow", "prune")}
    tiles = [
        tile(
            percent(summary["rows_pruned"], summary["rows_total"]),
            f"of {summary['rows_total']:,} rollouts stopped early",
        ),
        tile(percent(saved, summary["row_steps_full"]), "of all denoising row-steps not run"),
        seconds_tile(summary["seconds"]),
        tile(
            figure_text(probe["within_spearman"]),
            f"Spearman within groups, {probe['n_groups']} groups. {interval_text(probe['within_ci95'])}",
        ),
        tile(f"{figure_text(reward['start'])} → {figure_text(reward['end'])}", "held-out reward, first → last"),
        tile("–" if overhead is None else f"{100 * overhead:.1f} %", "own overhead, as a share of the rollout"),
    ]
    subtitle = (
        f"{summary['updates']} updates on {summary['ranks']} ranks: "
        f"{counts['shadow']} in shadow, {counts['prune']} with pruning."
    )
    return f'<h1>Demo run</h1><p class="sub">{escape(subtitle)}</p><div class="tiles">{"".join(tiles)}</div>'


# ------------------------------------------------------------------------------------------------ sections


def prune_spans(updates, modes):
    """(start, end) in seconds of wall-clock of runs of pruning updates."""
    ends = [line["elapsed"] for line in updates]
    starts = [0.0, *ends[:-1]]
    pruning = [modes.get(line["update"]) == "prune" for line in updates]
    spans = []
    for is_pruning, members in groupby(zip(pruning, starts, ends), key=lambda item: item[0]):
        members = list(members)
        if is_pruning:
            spans.append((members[0][1], members[-1][2]))
    return spans


def reward_section(run):
    updates = [line for line in run.updates if "elapsed" in line]
    trained = [(line["elapsed"], line["reward"]) for line in updates if "reward" in line]
    held = [(line["elapsed"], line["eval_reward"]) for line in updates if "eval_reward" in line]
    if not trained:
        return ""
    chart = Chart(
        x_range=(0, max(x for x, _ in trained + held) * 1.02 or 1.0),
        y_range=padded([y for _, y in trained + held]),
        x_label="wall-clock, seconds",
        y_label="reward",
        title="Reward against wall-clock",
    )
    for start, end in prune_spans(updates, mode_by_update(run.record)):
        chart.band(start, end, "band-prune")
    chart.line(trained, "train")
    if held:
        chart.line(held, "held")
        chart.dots(held, "held", radius=3)
    return (
        "<h2>Reward against wall-clock</h2>"
        f"<figure>{chart.svg()}<ul class='key'>"
        "<li><i style='background:var(--blue)'></i>held-out prompts, nothing pruned</li>"
        "<li><i style='background:var(--grey)'></i>training rollouts</li>"
        "<li><i style='background:var(--band);outline:1px solid var(--hair)'></i>pruning in force</li></ul>"
        "<figcaption>In training means, a stopped rollout counts with its predicted reward. The held-out line is "
        "the one to judge by.</figcaption></figure>"
    )


def prediction_section(summary, judged):
    prediction, reward = centred(judged)
    if len(reward) == 0:
        return ""
    stride = max(1, len(reward) // SCATTER_POINTS)
    points = list(zip(prediction[::stride], reward[::stride]))
    chart = Chart(
        x_range=padded(prediction),
        y_range=padded(reward),
        x_label="predicted, minus the group's mean prediction",
        y_label="actual, minus the group's mean",
        title="Predicted against actual reward inside groups",
    )
    low = max(chart.x_range[0], chart.y_range[0])
    high = min(chart.x_range[1], chart.y_range[1])
    chart.line([(low, low), (high, high)], "identity")
    chart.dots(points, "rows")
    probe = summary["probe"]
    caption = (
        f"{len(reward):,} {judged.source} in groups of three or more. Within-group Spearman "
        f"{figure_text(probe['within_spearman'])} ({interval_text(probe['within_ci95'])}, {probe['n_groups']} groups "
        "in which both vary). Dashed: perfect prediction."
    )
    return (
        "<h2>Predicted against actual, inside groups</h2>"
        "<p class='note'>A policy gradient sees only differences inside a prompt's group. These rows were kept "
        "by chance, whatever was predicted for them.</p>"
        f"<figure>{chart.svg()}<figcaption>{escape(caption)}</figcaption></figure>"
    )


def probe_over_time(metrics):
    """(update, low, value, high) of the lines in which the runtime knew its prediction's worth."""
    names = ("prune/update", "probe/spearman_group_low", "probe/spearman_group", "probe/spearman_group_high")
    lines = [[line.get(name) for name in names] for line in metrics]
    return [values for values in lines if None not in values]


def probe_time_section(run):
    points = probe_over_time(run.metrics)
    if len(points) < 2:
        return ""
    chart = Chart(
        x_range=(points[0][0], points[-1][0]),
        y_range=padded([value for _, *values in points for value in values] + [0.0]),
        x_label="update",
        y_label="Spearman within groups",
        title="Within-group Spearman over the run",
    )
    chart.spread([(update, low, high) for update, low, _, high in points], "spread")
    chart.line([(update, value) for update, _, value, _ in points], "held")
    return (
        "<h2>The prediction over the run</h2>"
        f"<figure>{chart.svg()}<figcaption>What the runtime itself goes by: Spearman within groups on the newest "
        "audited rows, with its interval, at each update.</figcaption></figure>"
    )


def preview_image(preview):
    source = base64.b64encode(preview.png).decode()
    text = f"predicted {figure_text(preview.prediction)}"
    return f'<figure><img alt="preview" src="data:image/png;base64,{source}"><figcaption>{text}</figcaption></figure>'


def preview_side(previews, title, style):
    ordered = sorted(previews, key=lambda p: -p.prediction)
    last = len(ordered) - 1
    shown = min(len(ordered), PREVIEWS_A_SIDE)
    # Evenly over the side's range: both of its ends are there.
    chosen = [ordered[round(i * last / max(shown - 1, 1))] for i in range(shown)]
    images = "".join(preview_image(p) for p in chosen)
    return f'<div class="{style}"><h4>{title}</h4><div class="images">{images}</div></div>'


def preview_groups(previews):
    """The newest (update, prompt) groups that have both kept and stopped rows."""
    groups = {}
    for preview in previews:
        groups.setdefault((preview.update, preview.prompt), []).append(preview)
    both = [(key, found) for key, found in groups.items() if len({p.kept for p in found}) == 2]
    return sorted(both, key=lambda item: item[0], reverse=True)[:PREVIEW_PROMPTS]


def preview_section(run):
    parts = []
    for (update, prompt), previews in preview_groups(run.previews):
        kept = preview_side([p for p in previews if p.kept], "went on", "kept")
        stopped = preview_side([p for p in previews if not p.kept], "stopped here", "stopped")
        parts.append(
            f'<h3>{escape(prompt)} <span class="sub">update {update}</span></h3><div class="sides">{kept}{stopped}</div>'
        )
    if not parts:
        return ""
    return (
        "<h2>Kept and stopped, as they looked at the decision</h2>"
        "<p class='note'>Previews of the finished image at the decision step. Both ends of a group are worth "
        "keeping: what sits in the middle teaches least.</p>" + "".join(parts)
    )


def seconds_section(summary):
    bars = {mode: parts for mode, parts in summary["seconds"].items() if parts}
    if not bars:
        return ""
    key = "".join(
        f"<li><i style='background:var(--{COLOURS[phase]})'></i>{PHASE_NAMES[phase]}</li>" for phase in PHASES
    )
    head = "".join(f"<th>{mode}</th>" for mode in bars)
    rows = "".join(
        f"<tr><td>{PHASE_NAMES[phase]}</td>" + "".join(f"<td>{parts[phase]:.2f}</td>" for parts in bars.values()) + "</tr>"
        for phase in PHASES
    )
    return (
        "<h2>Where the seconds go</h2>"
        f"<figure>{stacked_bars(bars, PHASES, 's')}<ul class='key'>{key}</ul></figure>"
        f"<div class='scroll'><table><tr><th>seconds an update, mean</th>{head}</tr>{rows}</table></div>"
    )


def evaluation_row(name, found):
    within = (found.get("within") or {}).get("spearman") or {}
    pooled = found.get("pooled") or {}
    return (
        f"<tr><td>{escape(name)}</td><td>{figure_text(within.get('value'))}</td>"
        f"<td class='range'>{escape(interval_text(within.get('ci95')).removeprefix('95 % interval '))}</td>"
        f"<td>{found.get('n_groups', '–')}</td>"
        f"<td class='pooled'>{figure_text(pooled.get('spearman'))}</td><td class='pooled'>{figure_text(pooled.get('auc'))}</td></tr>"
    )


def probe_section(run, summary, judged):
    probe = summary["probe"]
    in_run = {
        "within": {"spearman": {"value": probe["within_spearman"], "ci95": probe["within_ci95"]}},
        "pooled": {"spearman": probe["pooled_spearman"], "auc": probe["auc"]},
        "n_groups": probe["n_groups"],
    }
    rows = evaluation_row(f"in this run, after step {probe['step']}: {judged.source}", in_run)
    rows += "".join(evaluation_row(name, found) for name, found in run.evaluations.items())
    return (
        "<h2>The prediction in figures</h2><div class='scroll'><table>"
        "<tr><th></th><th>within groups: Spearman</th><th>95 % interval</th><th>groups</th>"
        f"<th class='pooled'>pooled: Spearman</th><th class='pooled'>pooled: AUC</th></tr>{rows}</table></div>"
        "<p class='note'>Pooled figures mix prompts: knowing the prompt alone makes them high. They are here to compare "
        "with publications; decisions rest on the figures within groups.</p>"
    )


def record_section(run, summary):
    record = summary["record"]
    attributes = run.record.attributes
    verified = {True: "no gap, no damage", False: "damage found", None: "not checked"}[record["verified"]]
    facts = [
        ("rows", f"{record['rows']:,}"),
        ("segments", f"{record['segments']:,}"),
        ("size", f"{record['bytes'] / 1e6:.1f} MB, {record['bytes'] / max(record['rows'], 1):,.0f} bytes a row"),
        ("verify", verified),
        ("rows the record had to drop", last_metric(run.metrics, "record/dropped")),
        ("late batches, rank 0", f"{sum(line.get('comm/late_batches', 0) for line in run.metrics)}"),
        ("run", attribute_text(attributes.get("run_id", "–"))),
        ("model", attribute_text(attributes.get("model", "–"))),
        ("schema", attribute_text(attributes.get("schema_version", "–"))),
        ("configuration", attribute_text(attributes.get("config_fingerprint", "–"))),
    ]
    rows = "".join(f"<tr><td>{name}</td><td>{escape(text)}</td></tr>" for name, text in facts)
    return f"<h2>The record</h2><div class='scroll'><table>{rows}</table></div>"


def last_metric(metrics, name):
    return f"{metrics[-1][name]}" if metrics and name in metrics[-1] else "–"


def attribute_text(value):
    return value.decode() if isinstance(value, bytes) else str(value)


def problem_section(run):
    if not run.problems:
        return ""
    items = "".join(f"<li>{escape(problem)}</li>" for problem in run.problems)
    return f"<h2>Left out</h2><ul class='note'>{items}</ul>"


def render(run, summary, judged):
    """The whole page as text."""
    sections = [
        headline(run, summary),
        reward_section(run),
        prediction_section(summary, judged),
        probe_time_section(run),
        preview_section(run),
        seconds_section(summary),
        probe_section(run, summary, judged),
        record_section(run, summary),
        problem_section(run),
    ]
    return TEMPLATE.read_text().replace("<!-- content -->", "\n".join(section for section in sections if section))
