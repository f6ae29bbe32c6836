"""What commands print for a person: a value in, lines out."""

import json
import textwrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lora_deploy.bench.result import BenchResult
    from lora_deploy.checkup import Checkup
    from lora_deploy.doctor import Diagnosis
    from lora_deploy.evaluate import Evaluation, Measured
    from lora_deploy.model.survey import Survey
    from lora_deploy.proof.certificate import Certificate
    from lora_deploy.train.push import Plan


def visible(text: str) -> str:
    """Text that a terminal shows and does not obey: what can't be printed is written as in Python.

    Labels, names and sentences come from folders that strangers made.
    """
    return "".join(
        sign if sign.isprintable() or sign == "\n" else repr(sign)[1:-1] for sign in text
    )


def line(text: str) -> str:
    """As `visible`, and of one line, so that no part of a stranger's looks like another part."""
    return visible(text).replace("\n", "\\n")


def as_json(values: Any, *, indent: int | None = 1) -> str:
    """JSON for people and programs: what can't be printed is escaped, all else is as it is."""
    text = json.dumps(values, ensure_ascii=False, indent=indent)
    return "".join(
        sign if sign.isprintable() or sign == "\n" else json.dumps(sign)[1:-1] for sign in text
    )


def certificate(found: "Certificate") -> str:
    """A line per proof."""
    lines = []
    if found.liveness is not None:
        lines.append(
            f"adapter on ≠ off: logits change by up to {found.liveness.largest_logit_difference:.3g} "
            f"(needed {found.liveness.needed:.2g})"
        )
    lines += [
        f"{' = '.join(link.forms)}: same label on {link.agreement:.0%} of {found.clips} clips, "
        f"{len(link.flips)} flips, probabilities differ by at most {link.largest_probability_difference:.1e}"
        + (f", {', '.join(link.kept)} kept in float32" if link.kept else "")
        for link in found.links
    ]
    lines += [
        f"{' beside '.join(speed.forms)}: {speed.ratio:.1f} times as fast here"
        for speed in found.speeds
    ]
    lines += [f"{one.form}: built, not run ({one.reason})" for one in found.unrun]
    return "\n".join(lines)


def push_plan(found: "Plan") -> str:
    """What would go where, and what stays."""
    who = "everybody can read it" if found.public else "private"
    lines = [f"to {found.repo} ({who}), {_bytes(found.bytes)}:"]
    lines += [f"  {line(name):<54} {_bytes(path.stat().st_size):>10}" for name, path in found.files]
    lines += [line(text) for text in found.kept_here]
    lines += [f"! {line(text)}" for text in found.told]
    return "\n".join(lines)


def _bytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 100_000 else f"{count / 1e3:,.1f} kB"


def measured(found: "Measured") -> str:
    """The figures, then each extra set, then each class; at most 80 columns wide."""
    lines = [*_figures(found.main), ""]
    if found.sets:
        lines += [*_sets(found), ""]
    lines += _classes(found.main)
    lines += _confused(found.main)
    for name, one in {"": found.main, **found.sets}.items():
        if one.learned:
            of_set = f" of {line(name)}" if name else ""
            lines.append(
                f"! {one.learned}{of_set} are clips that the model learned from: no test of it"
            )
    return "\n".join(lines)


def _figures(found: "Evaluation") -> list[str]:
    low, high = found.interval
    lines = [
        f"accuracy {found.accuracy:.3f} on {found.clips} clips "
        f"(95% interval {low:.3f} to {high:.3f}; chance {found.chance:.3f})"
    ]
    more = {} if found.top_k is None else {f"top-{found.top_k[0]}": found.top_k[1]}
    more |= {
        "mean class accuracy": found.mean_class_accuracy,
        "mean F1": found.mean_f1,
        "calibration error": found.calibration_error,
    }
    lines.append(", ".join(f"{name} {value:.3f}" for name, value in more.items()))
    resampled = found.bootstrap()
    if resampled.resampled == "groups":
        interval = resampled.intervals["accuracy"]
        told = f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else "one group tells nothing"
        lines.append(f"resampling whole groups ({resampled.units}): accuracy {told}")
    views = found.views
    if views.count > 1:
        looks = "clip" if views.clips == 1 else "clips"
        lines.append(
            f"mean of {views.count} views: {views.clips} {looks} × {views.crops} "
            + ("crop" if views.crops == 1 else "crops")
        )
    if found.unknown:
        lines.append(f"{found.unknown} clips are called unknown; counted here by their best label")
    return lines


def _sets(found: "Measured") -> list[str]:
    top_k = "" if found.main.top_k is None else f"top-{found.main.top_k[0]}"
    lines = [
        f"{'set':<26} {'clips':>6} {'accuracy':>9}  {'95% interval':<14} {top_k:>6} {'mean class':>11}"
    ]
    for name, one in {"(the data)": found.main, **found.sets}.items():
        low, high = one.interval
        part = "" if one.top_k is None else f"{one.top_k[1]:.3f}"
        lines.append(
            f"{_cell(name, 26)} {one.clips:>6} {one.accuracy:>9.3f}  {low:.3f} to {high:.3f} "
            f"{part:>6} {one.mean_class_accuracy:>11.3f}"
        )
    return lines


def _classes(found: "Evaluation") -> list[str]:
    def figure(value: float | None) -> str:
        return "–" if value is None else f"{value:.3f}"

    lines = [f"{'label':<36} {'clips':>6} {'precision':>10} {'recall':>8} {'F1':>8}"]
    lines += [
        f"{_cell(label, 36)} {one.clips:>6} {figure(one.precision):>10} {figure(one.recall):>8} "
        f"{figure(one.f1):>8}"
        for label, one in found.classes.items()
        if one.clips or one.answered
    ]
    return lines


_MOST_CONFUSIONS = 5


def _confused(found: "Evaluation") -> list[str]:
    most = found.confusions[:_MOST_CONFUSIONS]
    if not most:
        return []
    return ["", "most confused:"] + [
        f"  {_cell(truth, 28).rstrip()} → {_cell(answer, 28).rstrip()}  {clips} of {of}"
        for truth, answer, clips, of in most
    ]


def _cell(text: str, columns: int) -> str:
    """A name in a table: cut where it is too long, and filled up; some signs take two columns."""
    from rich.cells import cell_len, set_cell_size

    name = line(text)
    if cell_len(name) > columns:
        name = f"{set_cell_size(name, columns - 1).rstrip()}…"
    return set_cell_size(name, columns)


def survey(found: "Survey") -> str:
    """The base, then what each word hits on it."""
    contract = found.contract
    width = max(len(word) for word in ("word", *found.words))
    title = f"LoRA parameters at r={found.r}"
    lines = [
        f"{found.base_id}: {found.architecture} of {found.hidden_layers} hidden layers, "
        f"{contract.frames} frames of {contract.crop_width}×{contract.crop_height} pixels, "
        f"licence {found.licence or 'not stated'}",
        f"{found.total_parameters:,} parameters: {found.base_parameters:,} of the base, "
        f"{found.head_parameters:,} of a head ({', '.join(found.head_modules)}) "
        f"for {found.labels} labels",
        "",
        f"{'word':<{width}}  layers  {title}  kinds of layers",
    ]
    lines += [
        f"{word:<{width}}  {len(reach.layers):>6}  "
        f"{reach.lora_parameters:>{len(title)},}  {reach.kinds}"
        for word, reach in found.words.items()
    ]
    if (together := found.together) is not None:
        lines += [
            "",
            f"together {len(together.layers)} layers, {together.lora_parameters:,} LoRA parameters:",
            *(f"  {name}" for name in together.layers),
        ]
    return "\n".join(lines)


def diagnosis(found: "Diagnosis") -> str:
    """What is here, what was seen to work, and what should be mended."""
    versions = dict(found.versions)
    own = f"lora-deploy {versions.pop('lora-deploy', '(not installed)')}"
    lines = [
        f"{own} on Python {versions.pop('python')}",
        *_folded("packages", [f"{package} {version}" for package, version in versions.items()]),
        f"processor  {found.hardware.processor}",
        f"GPU        {found.hardware.nvidia or 'no NVIDIA driver'}",
        *_folded("for GPUs", str(found.on_cards).split(", ")),
        *_folded("room", [str(room) for room in found.rooms if room.trouble is None]),
        "",
    ]
    decoding = found.decoding
    for finding in decoding.findings:
        if finding.is_right:
            ffmpeg = decoding.ffmpeg.get(finding.distribution.partition(" ")[0])
            lines.append(f"ok {finding}{f', FFmpeg {ffmpeg}' if ffmpeg else ''}")
    if decoding.fence is not None and not decoding.fence.missing:
        lines.append("ok the fence around the decoder is whole")
    lines += [f" ! {one} ({one.trap})" for one in found.traps if one.serious]
    lines += [f" - {one} ({one.trap})" for one in found.traps if not one.serious]
    if not found.traps:
        lines.append("ok none of the known traps")
    return "\n".join(lines)


def _folded(title: str, words: list[str]) -> list[str]:
    """Words with commas between them, in lines that a terminal shows whole."""
    margin = " " * 11
    unbroken = ", ".join(word.replace(" ", "\u00a0") for word in words) or "none"
    lines = textwrap.wrap(
        unbroken, 100 - len(margin), break_long_words=False, break_on_hyphens=False
    )
    return (
        textwrap.indent("\n".join(lines).replace("\u00a0", " "), margin)
        .replace(margin, f"{title:<11}", 1)
        .splitlines()
    )


def checkup(found: "Checkup") -> str:
    """A line per part: ok, ! for what is wrong, ? for what can't be told."""
    marks = {True: "ok", False: "! ", None: "? "}
    width = max(len(line(finding.part)) for finding in found.findings)
    lines = [f"{found.path}: {found.kind}"]
    for finding in found.findings:
        name = f" [{finding.error}]" if finding.error else ""
        lines.append(
            f"{marks[finding.passed]} {line(finding.part):<{width}}  {line(finding.text)}{name}"
        )
    return "\n".join(lines)


def bench(found: "BenchResult") -> str:
    """Where and what, then a table each for speed, stages, and start and memory."""
    name = max(len("cold start, seconds"), *(len(form.name) for form in found.forms)) + 1
    return "\n".join(
        [
            *_bench_facts(found),
            "",
            *_bench_speed(found, name),
            "",
            *_bench_stages(found, name),
            "",
            *_bench_start(found, name),
            *(f"skipped: {one.name}: {one.reason}" for one in found.skipped),
        ]
    )


def _bench_facts(found: "BenchResult") -> list[str]:
    computer = found.computer
    flop = "" if found.flop_per_clip is None else f", {found.flop_per_clip / 1e9:.3g} GFLOP each"
    lines = [
        found.model,
        computer.processor,
        f"load {computer.load_before:.1f} before, {computer.load_after:.1f} after",
        f"{computer.threads} of {computer.cores} cores, {found.rounds} rounds of turns, "
        f"{found.clips} clips of {found.frames} frames of {found.width}×{found.height}{flop}",
        f"clips: {found.clips_source}",
    ]
    if found.matrix_peak:
        reached = ", ".join(
            f"{precision} {peak.flop_per_second.p50 / 1e9:,.0f} GFLOP/s ({peak.package})"
            for precision, peak in found.matrix_peak.items()
        )
        lines.append(f"matrix peak: {reached}")
    return lines


def _bench_speed(found: "BenchResult", name: int) -> list[str]:
    times = f"times {found.reference}"
    lines = [
        f"{'infer, ms':<{name}}{'p50':>8}{'p95':>9}{'p99':>9}{'n':>6}  {times:<23}{'of peak':>10}"
        f"{'same label':>12}"
    ]
    for form in found.forms:
        infer = form.stages_ms["infer"]
        ratio, part = form.times_reference, form.fraction_of_peak
        kind = "fp32" if form.precision in ("fp32", "fp16") else "bf16"
        lines.append(
            f"{form.name:<{name}}{infer.p50:>8.2f}{infer.p95:>9.2f}{infer.p99:>9.2f}{infer.n:>6}  "
            + (f"{ratio.p50:>5.2f} ({ratio.p5:.2f}–{ratio.p95:.2f})" if ratio else "").ljust(23)
            + (f"{part.p50:.2f} {kind}" if part else "").rjust(10)
            + "{} of {}".format(*form.same_label).rjust(12)
        )
    return lines


def _bench_stages(found: "BenchResult", name: int) -> list[str]:
    stages = list(found.forms[0].stages_ms)
    lines = [
        f"{'stages, p50 ms':<{name}}"
        + "".join(f"{stage:>11}" for stage in stages)
        + f"{'clips/s':>9}"
    ]
    for form in found.forms:
        cells = "".join(f"{form.stages_ms[stage].p50:>11.2f}" for stage in stages)
        lines.append(f"{form.name:<{name}}{cells}{form.clips_per_second:>9.2f}")
    return lines


def _bench_start(found: "BenchResult", name: int) -> list[str]:
    parts = list(found.forms[0].cold_seconds)
    lines = [
        f"{'cold start, seconds':<{name}}"
        + "".join(f"{part.replace('_', ' '):>13}" for part in parts)
        + f"{'peak memory':>14} + decoder"
    ]
    for form in found.forms:
        cells = "".join(f"{form.cold_seconds[part].p50:>13.2f}" for part in parts)
        memory = form.peak_memory_bytes
        lines.append(
            f"{form.name:<{name}}{cells}{memory.process / 1e6:>11,.0f} MB + {memory.decoder / 1e6:.0f} MB"
        )
    return lines
