"""freehold inspect: how open a model is, what its licence asks, whether its files can be trusted, what it costs."""

from collections.abc import Callable
from threading import Lock

import click

from freehold.cli.common import download_progress, print_json, to_examine

Progress = Callable[[str, int, int], None]  # (what, bytes done, bytes in all)


@click.command(name="inspect")
@click.argument("models", metavar="MODEL...", nargs=-1, required=True)
@click.option("--for", "use", metavar="USE", help='Is it allowed? As in "commercial service, 2M monthly users, EU".')
@click.option("--no-hash", is_flag=True, help="Compute no sha256: that needs all of the files read.")
@click.option("--measure", is_flag=True, help="Run the model for some seconds: what its tokens cost on this machine.")
@click.option("--power-price", type=click.FloatRange(0, 1000), metavar="USD", help="Of a kWh [default: 0.30].")
@click.option("--machine-price", type=click.FloatRange(0, 1e6), metavar="USD", help="Of an hour [default: 0.09].")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--md", "as_markdown", is_flag=True, help="Print Markdown.")
@click.option("--html", "as_html", is_flag=True, help="Print one HTML file that needs nothing else.")
def command(
    models: tuple[str, ...],
    use: str | None,
    no_hash: bool,
    measure: bool,
    power_price: float | None,
    machine_price: float | None,
    as_json: bool,
    as_markdown: bool,
    as_html: bool,
) -> None:
    """A one-page report on MODEL (a folder, a file or a catalogue name); several are compared.

    Each finding names the file and line on which it rests. What the files do not show is "not evidenced".
    """
    if as_json + as_markdown + as_html > 1:
        raise click.UsageError("--json, --md and --html: expected at most one of them")
    from freehold.inspection.cost import Rates
    from freehold.inspection.report import inspect
    from freehold.store.references import resolve

    prices = {"power_usd_per_kwh": power_price, "machine_usd_per_hour": machine_price}
    rates = Rates(**{name: price for name, price in prices.items() if price is not None})

    with download_progress() as progress:
        stored = [resolve(model, progress=progress) for model in models]
        told = _of_all(progress)
        options = {"use": use, "hash_files": not no_hash, "measure": measure, "rates": rates, "progress": told}
        reports = [inspect(to_examine(each), **options) for each in stored]
    if as_json:
        dicts = [report.to_dict() for report in reports]
        print_json(dicts[0] if len(dicts) == 1 else dicts)
    elif as_markdown:
        from freehold.inspection.render.markdown import markdown

        click.echo(markdown(reports), nl=False)
    elif as_html:
        from freehold.inspection.render.html import html

        click.echo(html(reports), nl=False)
    else:
        from rich.console import Console

        from freehold.inspection.render.terminal import show

        show(reports, Console(highlight=False))


def _of_all(progress: Progress | None) -> Progress | None:
    """One bar for the files that are read side by side; their names are not shown, for they may hold anything."""
    if progress is None:
        return None
    lock, done, sizes = Lock(), {}, {}

    def update(name: str, num_done: int, num_bytes: int) -> None:
        with lock:
            done[name], sizes[name] = num_done, num_bytes
            progress("sha256", sum(done.values()), sum(sizes.values()))

    return update
