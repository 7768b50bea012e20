"""The prediction, and a run beside its plan, as tables on a terminal."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .compare import Comparison
from .verdict import Check, Prediction

NAMES = {
    "array": "array",
    "battery": "battery",
    "radiator": "radiator",
    "downlink": "downlink",
    "card": "card itself",
}


def show(console: Console, prediction: Prediction) -> None:
    """Print everything but the trajectory."""
    console.print(_figures(prediction))
    console.print(_checks(prediction.checks))
    console.print(_gains(prediction))
    for note in prediction.notes:
        console.print(f"[dim]note     {escape(note)}[/dim]", highlight=False)
    style = "green" if prediction.fits else "bold red"
    console.print(f"verdict  [{style}]{escape(prediction.verdict)}[/]", highlight=False, soft_wrap=True)


def show_comparison(console: Console, found: Comparison) -> None:
    """Print plan against measurement, and where the difference comes from."""
    title = f"{found.name} · {found.length_s / 60:.0f} min of {found.orbit} · the plan against the run"
    table = Table(title=escape(title), pad_edge=False, title_justify="left")
    for heading in ("", "plan", "run", "difference", "of the plan"):
        table.add_column(heading, justify="right" if heading else "left")
    for row in found.quantities:
        unit = f" {row.unit}" if row.unit else ""
        gap = {"°C": " K", "%": " points"}.get(row.unit, unit)
        relative = "" if row.relative is None else f"{row.relative:+.1%}"
        table.add_row(
            row.label,
            f"{row.planned:.5g}{unit}",
            f"{row.measured:.5g}{unit}",
            f"{row.difference:+.4g}{gap}",
            relative,
        )
    console.print(table)
    causes = Table(pad_edge=False)
    for heading in ("the missing work", "h", "in min"):
        causes.add_column(heading, justify="left" if heading == "the missing work" else "right")
    for cause in found.when:
        causes.add_row(escape(cause.cause), f"{cause.hours:+.4f}", f"{cause.time_s / 60:.1f}")
    causes.add_section()
    for cause in found.margins:
        causes.add_row(f"of it: {escape(cause.cause)}", f"{cause.hours:+.4f}", "")
    console.print(causes)
    for note in found.notes:
        console.print(f"[dim]note     {escape(note)}[/dim]", highlight=False)


def _figures(prediction: Prediction) -> Table:
    orbit, compute, energy, heat = (
        prediction.orbit,
        prediction.compute,
        prediction.energy,
        prediction.temperature,
    )
    title = f"{prediction.name} · {orbit['orbits']:.3g} orbits of {orbit['name']} · {prediction.card['name']}"
    table = Table(title=escape(title), show_header=False, box=None, pad_edge=False, title_justify="left")
    work = (
        f"{compute['compute_share']:.3f} of the card, {compute['gpu_hours_per_orbit']:.3f} GPU-hours an orbit, "
        f"{compute['gpu_hours_per_day']:.2f} a day"
    )
    amounts = [
        f"{compute[key]:.4g} {label}"
        for key, label in (("train_steps", "steps"), ("tokens", "tokens"))
        if compute[key]
    ]
    binds = ", ".join(
        f"{NAMES[name]} {minutes:.0f} min" for name, minutes in prediction.binding_min.items() if minutes >= 0.5
    )
    rows = [
        (
            "orbit",
            f"{orbit['period_s'] / 60:.1f} min, {orbit['eclipse_s'] / 60:.1f} min of it in eclipse, "
            f"{orbit['contact_s'] / 60:.1f} min in contact",
        ),
        ("compute", work + (f"; over the horizon {', '.join(amounts)}" if amounts else "")),
        (
            "energy",
            f"an orbit: array {energy['array_wh']:.0f} Wh, GPU {energy['gpu_wh']:.0f}, bus {energy['bus_wh']:.0f}, "
            f"not taken {energy['spilled_wh']:.0f}; GPU {energy['gpu_sun_w']:.0f} W in sun, "
            f"{energy['gpu_eclipse_w']:.0f} W in eclipse",
        ),
        (
            "battery",
            f"depth of discharge {energy['dod']:.1%}, least charge {energy['soc_min']:.1%}; "
            f"{energy['cycles_per_year']:.0f} cycles a year, {energy['full_cycles_per_year']:.0f} full ones",
        ),
        (
            "heat",
            f"GPU {heat['gpu_min_degc']:.1f} to {heat['gpu_max_degc']:.1f} °C, {heat['gpu_at_limit_min']:.0f} min "
            f"of an orbit at its limit; radiator {heat['radiator_min_degc']:.1f} to "
            f"{heat['radiator_max_degc']:.1f} °C",
        ),
        ("binds", binds or "nothing"),
    ]
    for name, text in rows:
        table.add_row(f"[dim]{name}[/dim]", escape(text))
    return table


def _checks(checks: list[Check]) -> Table:
    table = Table(pad_edge=False)
    for heading in ("", "requirement", "plan", "limit"):
        table.add_column(heading, justify="right" if heading in ("plan", "limit") else "left")
    for check in checks:
        word = "[green]holds[/]" if check.ok else "[bold red]broken[/]"
        unit = f" {check.unit}" if check.unit else ""
        table.add_row(word, escape(check.requirement), f"{check.value:.5g}{unit}", f"{check.limit:.5g}{unit}")
    return table


def _gains(prediction: Prediction) -> Table:
    table = Table(pad_edge=False)
    for heading in ("more of", "buys, h an orbit", "of the work", "constraint"):
        table.add_column(heading, justify="left" if heading in ("more of", "constraint") else "right")
    for gain in prediction.gains:
        hours = gain.gpu_hours / prediction.orbit["orbits"]
        share = f"{gain.share:+.2%}" if gain.share or prediction.compute["gpu_hours"] else "–"
        table.add_row(gain.label, f"{hours:+.4f}", share, NAMES.get(gain.binding, gain.binding))
    return table
