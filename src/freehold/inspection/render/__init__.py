"""A report as text for a terminal, as Markdown and as HTML. In each, what a card says is shown and does nothing."""
