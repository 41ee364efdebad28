import importlib.util
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "protocol_docs.py"


def test_the_protocol_page_shows_every_message_as_it_is():
    spec = importlib.util.spec_from_file_location("protocol_docs", SCRIPT)
    assert spec is not None and spec.loader is not None
    docs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(docs)
    assert docs.PAGE.read_text() == docs.page(), "run `python scripts/protocol_docs.py`"
