"""README's and docs/sdk.md's Python, the scripts and the notebook of docs/examples, on one `proofyard devnet --tiny`,
by the lines that it prints. `run_notebook` runs a notebook's cells in one process: no Jupyter is installed for it.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
READY_S, RUN_S = 120, 200


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The first lines that the network says to type next; its folder has a space in its name."""
    folder = tmp_path_factory.mktemp("a folder")
    proofyard = Path(sys.executable).with_name("proofyard")
    said = folder / "said"
    with said.open("w") as stream:
        call = [proofyard, "devnet", "--tiny", "--rpc-port", "0", "--dir", folder / "net"]
        network = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=stream)
    try:
        until = time.monotonic() + READY_S
        while "Ctrl-C stops" not in said.read_text():
            assert network.poll() is None, said.read_text()
            assert time.monotonic() < until
            time.sleep(0.2)
        yield [line.strip() for line in said.read_text().splitlines() if line.startswith(("  export ", "  cd "))]
    finally:
        network.send_signal(signal.SIGINT)
        network.wait(60)


def run(lines: list[str], *arguments: object) -> str:
    """What Python prints with these arguments, after the lines were typed."""
    script = "\n".join(["set -e", *lines, 'exec "$PYTHON" "$@"'])
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PROOFYARD_")}
    call = ["bash", "-c", script, "bash", *map(str, arguments)]
    done = subprocess.run(
        call, capture_output=True, text=True, timeout=RUN_S, env=environ | {"PYTHON": sys.executable}, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("page", ["README.md", "docs/sdk.md"])
def test_the_python_of_a_page_runs_as_it_stands(page: str, lines: list[str]) -> None:
    snippets = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert snippets
    for snippet in snippets:
        run(lines, "-c", snippet)


def test_the_scripts_run(lines: list[str], tmp_path: Path) -> None:
    assert "adapter:" in run(lines, EXAMPLES / "finetune.py", "model", "text.jsonl", tmp_path / "adapter")
    assert "cleaned:" in run(lines, EXAMPLES / "rows.py", tmp_path / "rows")
    assert len((tmp_path / "rows" / "data.jsonl").read_text().splitlines()) == 200
    assert "best:" in run(lines, EXAMPLES / "sweep.py", "model", "text.jsonl", tmp_path / "sweep")
    assert (tmp_path / "sweep.png").stat().st_size > 1000


def test_the_notebook_runs(lines: list[str]) -> None:
    shown = run(lines, __file__, EXAMPLES / "notebook.ipynb").splitlines()
    assert shown[0].startswith("<div><progress"), "a handle shows itself"
    assert "'done'" in shown
    assert "adapter_model.safetensors" in shown[-1]


def run_notebook(path: Path) -> None:
    """Run the code cells; of each print what its last expression shows, as HTML where it can."""
    import ast

    names: dict[str, object] = {}
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] != "code":
            continue
        tree = ast.parse("".join(cell["source"]))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, str(path), "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), str(path), "eval"), names)  # type: ignore[attr-defined]
            with contextlib.suppress(AttributeError):
                print(value._repr_html_().replace("\n", " "))
                continue
            print(repr(value).replace("\n", " "))


if __name__ == "__main__":
    run_notebook(Path(sys.argv[1]))
