"""Writes the table of the dial in `docs/verification.md`: what a stake and a reputation mean for work in flight.

python scripts/dial_docs.py          rewrite the part between the markers
python scripts/dial_docs.py --check  exit 1 when it is out of date
"""

import sys
from itertools import groupby
from pathlib import Path

from proofyard.protocol.deterrence import REPUTATIONS, Row, table
from proofyard.protocol.dial import WAD

PAGE = Path(__file__).parent.parent / "docs" / "verification.md"
BEGIN, END = "<!-- Written by scripts/dial_docs.py. -->\n", "<!-- measured -->\n"
TOKEN = 10**18


def markdown(rows: list[Row]) -> str:
    """A line for each stake and work, a column for each reputation."""
    head = ["stake", "tasks", "reward of each", *(f"{n:,} valid audits" for n in REPUTATIONS)]
    lines = [head, ["---"] * len(head)]
    order = sorted(rows, key=lambda row: (row.stake, row.asked * row.task_reward, row.asked, row.consecutive_valid))
    for _, cells in groupby(order, key=lambda row: (row.stake, row.asked, row.task_reward)):
        line = list(cells)
        first = line[0]
        tasks = f"{first.tasks:,}" + (f" (of {first.asked:,})" if first.tasks < first.asked else "")
        lines.append([f"{first.stake // TOKEN:,}", tasks, f"{first.task_reward / TOKEN:,g}", *map(_cell, line)])
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _cell(row: Row) -> str:
    gain = float(row.gain)
    return (
        f"{row.odds.wad / WAD:.4g}, {row.odds.segments}, {gain:.1e}"
        if gain > -1e-3
        else (f"{row.odds.wad / WAD:.4g}, {row.odds.segments}, {gain:,.3g}")
    )


def render(page: str) -> str:
    """The page with its table renewed."""
    before, _, rest = page.partition(BEGIN)
    return before + BEGIN + markdown(table()) + rest[rest.index(END) :]


def main() -> None:
    page = PAGE.read_text()
    if sys.argv[1:] == ["--check"]:
        if render(page) != page:
            sys.exit("docs/verification.md is out of date; run python scripts/dial_docs.py")
        return
    PAGE.write_text(render(page))


if __name__ == "__main__":
    main()
