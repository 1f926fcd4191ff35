"""freehold inspect: how open a model is, what its licence asks, whether its files can be trusted, what it costs."""

import click

from freehold.cli.common import download_progress, print_json


@click.command(name="inspect")
@click.argument("models", metavar="MODEL...", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--md", "as_markdown", is_flag=True, help="Print Markdown.")
@click.option("--html", "as_html", is_flag=True, help="Print one HTML file that needs nothing else.")
def command(models: tuple[str, ...], as_json: bool, as_markdown: bool, as_html: bool) -> None:
    """A one-page report on MODEL (a folder, a file or a catalogue name); several are compared.

    Each finding names the file and line on which it rests. What the files do not show is "not evidenced".
    """
    if as_json + as_markdown + as_html > 1:
        raise click.UsageError("--json, --md and --html: expected at most one of them")
    from freehold.inspect.report import inspect
    from freehold.store.references import resolve

    with download_progress() as progress:
        paths = [resolve(model, progress=progress).path for model in models]
    reports = [inspect(path) for path in paths]
    if as_json:
        dicts = [report.to_dict() for report in reports]
        print_json(dicts[0] if len(dicts) == 1 else dicts)
    elif as_markdown:
        from freehold.inspect.render.markdown import markdown

        click.echo(markdown(reports), nl=False)
    elif as_html:
        from freehold.inspect.render.html import html

        click.echo(html(reports), nl=False)
    else:
        from rich.console import Console

        from freehold.inspect.render.terminal import show

        show(reports, Console(highlight=False))
