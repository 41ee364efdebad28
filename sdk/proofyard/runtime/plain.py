"""Text of others, fit for a terminal."""


def plain(text: str, keep: str = "\n\t") -> str:
    """`text` without what a terminal would obey: reasons, labels and names come from peers, and go before people."""
    return "".join(each if each.isprintable() or each in keep else "\N{REPLACEMENT CHARACTER}" for each in text)
