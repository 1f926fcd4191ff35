"""How figures are told: the line printed for a row, and the sections of RESULTS.md."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")
OURS, NATIVE, WHEEL, MAPPED, OPENVINO = "freehold", "llama.cpp", "xllamacpp", "llama.cpp without repack", "openvino"


def machine(doctor, versions):
    """Where and of what the figures are; `doctor` is what `freehold doctor --json` says."""

    def git(*words):
        return subprocess.run(["git", *words], cwd=RESULTS.parent.parent, capture_output=True, text=True).stdout.strip()

    changed = "+changes" if git("status", "--porcelain", "src", "csrc") else ""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": git("rev-parse", "--short", "HEAD") + changed,
        "cores": os.cpu_count(),
        **{key: doctor[key] for key in ("cpu", "features", "instruction_set", "huge_pages")},
        "versions": [f"Python {platform.python_version()}", *versions],
    }


def number(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def cell(figures):
    """Median, spread and the setting that gave them."""
    names = {True: "on", False: "off"}
    settings = ", ".join(f"{key} {value if key == 'threads' else names.get(value, value)}"
                         for key, value in figures["settings"].items())  # fmt: skip
    spread = f"{number(figures['low'])} to {number(figures['high'])}"
    return f"{number(figures['median'])} ({'; '.join(filter(None, (spread, settings)))})"


def verdict(row):
    """(what is required, whether it is reached)."""
    if row["required"] is None:
        return "–", ""
    return f"{'≥' if row['unit'] == 'tok/s' else '≤'} {row['required']}", "yes" if row["reached"] else "no"


def figures_line(title, row):
    cells = ", ".join(f"{name} {cell(figures)}" for name, figures in row["engines"].items())
    return f"  {title}, {row['unit']}: {cells}: ratio {row['ratio']:.2f}, required {' '.join(verdict(row))}"


def where(facts):
    """A sentence on the machine, the commit and the versions."""
    cpu = f"{facts['cores']} cores of {facts['cpu']} ({', '.join(facts['features'])})"
    place = f"{cpu}, huge pages {facts['huge_pages']}"
    return f"{facts['date']}, commit {facts['commit']}, {place}. {', '.join(facts['versions'])}."


def section(result, facts, mark):
    """One model's part of RESULTS.md."""
    lines = [
        *(f"## {result['model']}, {facts['instruction_set']}", ""),
        where(facts),
        *(f"sha256 `{result['sha256']}`.", ""),
        "| work | freehold | peers | ratio | required | reached | stolen |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for work, row in result["rows"].items():
        peers = "<br>".join(f"{name} {cell(figures)}" for name, figures in row["engines"].items() if name != OURS)
        cells = (f"{work}, {row['unit']}", cell(row["engines"][OURS]), peers, f"{row['ratio']:.2f}", *verdict(row))
        lines.append(f"| {' | '.join(cells)} | {row['stolen']:.0%} |")
    if used := result.get("bandwidth"):
        share = f"{used['used_gb_per_s'] / used['measured_gb_per_s']:.0%} of the {used['measured_gb_per_s']:.1f} GB/s"
        wanted = f" (required: {used['required_share']:.0%})" if used["required_share"] else ""
        decoding = f"Decode reads {used['used_gb_per_s']:.1f} GB/s of weights, {share} that `doctor` measures{wanted}."
        lines += ["", decoding]
    lines += [
        *("", "What each replies, greedily:", ""),
        *(f"- {name}: {reply!r}" for name, reply in result["replies"].items()),
    ]
    return "\n".join([f"<!-- begin {mark} -->", *lines, f"<!-- end {mark} -->"])


def write(result, facts):
    """Renew the section of this model on this kind of machine."""
    mark = f"{result['model']} {facts['instruction_set']}"
    renew(mark, section(result, facts, mark))


def renew(mark, section):
    """Put a section in the place of the one that is marked so; everything else in RESULTS.md stays."""
    before, found, rest = RESULTS.read_text().partition(f"<!-- begin {mark} -->")
    after = rest.partition(f"<!-- end {mark} -->")[2] if found else ""
    RESULTS.write_text(before.rstrip() + "\n\n" + section + (after or "\n"))
