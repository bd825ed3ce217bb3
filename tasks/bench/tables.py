"""Markdown tables, printed line by line while a measurement runs."""


def heading(*cells: object) -> None:
    """An empty line, the names of the columns, and the rule below them."""
    print()
    show(*cells)
    show(*["---"] * len(cells))


def show(*cells: object) -> None:
    """A row."""
    print(f"| {' | '.join(map(str, cells))} |", flush=True)
