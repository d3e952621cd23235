"""``svip-search models``: what comes with the package."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any


def add_command(commands: Any) -> None:
    """Add the command to the parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "models",
        help="list the embedded models",
        description="List the policies and reward models that come with the package. "
        "Any model folder or hub id works in their place.",
    )
    parser.add_argument("--json", action="store_true", help="print the list as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the list."""
    from rich.table import Table

    from ..models import zoo
    from ._show import console

    cards = zoo.list_models()
    if arguments.json:
        print(json.dumps([asdict(card) for card in cards], indent=1, default=str))
        return 0
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("name", "kind", "parameters", "description"):
        table.add_column(name, justify="right" if name == "parameters" else "left")
    for card in cards:
        table.add_row(card.name, card.kind, f"{card.parameters:,}", card.description)
    console().print(table)
    return 0
