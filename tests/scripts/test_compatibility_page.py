import re
from pathlib import Path

import pytest
from scripts.compatibility import PAGE, TABLES, page, section

TESTS = Path(__file__).parents[1]
NAMES = sorted(path.stem for path in TABLES.glob("*.toml"))


def test_the_page_is_what_the_tables_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m scripts.compatibility"


@pytest.mark.parametrize("name", NAMES)
def test_every_row_has_its_test(name: str) -> None:
    """It names one that there is, or a test works through the table."""
    reader = re.compile(rf'section\("{name}"\)\.rows')
    is_read = any(reader.search(path.read_text(encoding="utf-8")) for path in TESTS.rglob("test_*.py"))
    for row in section(name).rows:
        module, _, function = row.get("test", "").partition("::")
        found = bool(module) and f"def {function}(" in (TESTS / module).read_text(encoding="utf-8")
        assert found or (is_read and not module), row
