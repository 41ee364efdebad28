"""XML as far as routers write it: names and texts, and nothing that may expand, fetch or nest into something large."""

from xml.parsers import expat

MOST_ELEMENTS = 4096


def elements(data: bytes) -> list[tuple[str, str]]:
    """Name, without a prefix, and text of each element, in the order in which they end. Whatever `data` says of its
    encoding, it is read as UTF-8. Raises `ValueError`."""
    found: list[tuple[str, str]] = []
    around: list[tuple[str, list[str]]] = []

    def begin(name: str, _attributes: object) -> None:
        if len(found) + len(around) >= MOST_ELEMENTS:
            raise ValueError(f"more than {MOST_ELEMENTS} elements")
        around.append((name.rpartition(":")[2], []))

    def end(_name: str) -> None:
        name, text = around.pop()
        found.append((name, "".join(text).strip()))

    def read(text: str) -> None:
        if around:
            around[-1][1].append(text)

    def refuse(*_: object) -> None:
        raise ValueError("a document type, which may declare entities")

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = begin, end, read
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    try:
        parser.Parse(data.decode("utf-8", "replace").strip("\0\ufeff \t\r\n"), True)
    except expat.ExpatError as error:
        raise ValueError(f"no XML: {error}") from error
    return found
