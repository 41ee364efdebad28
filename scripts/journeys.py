"""People who have the documents alone: what they type, in tmux and headless Chromium, on a real devnet.

`make journeys` runs them; out/bench/journeys.json has the seconds, out/journeys the transcripts and pictures of pages.

Nothing is typed that does not stand in README.md or docs: a step whose command is not literally a line of one of their
code blocks counts as `steps_not_documented`, a command of a person's page that nobody types as `commands_not_typed`.
The seconds are those of the clock from the first key to the last answer, with everything that the network and the chain
take; reading and thinking are not in them, nor is the installation. Where a delay of the chain is to be waited out (the
release of a stake), its clock is moved forward; such moments are listed as `time_moved_s`.
"""

import argparse
import html
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "out"
DOCS = ROOT / "docs"
COLUMNS, LINES = 80, 50
STEP_S, POLL_S = 300.0, 0.1
"""A step that takes longer has failed."""
SCRIPTS_MS = 5000
"""Of a page's own time, for its scripts to show what they ask for."""
KEPT = ("PATH", "LANG", "TMPDIR", "PROOFYARD_TORCH_INDEX")
INSTALLING = ("pip install", "npm install", "python3 -m venv", ". .venv/bin/activate")
"""What a person does before the clock starts."""
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


# The documents


@dataclass(frozen=True)
class Block:
    """A code block: its language, its text, and the file that the line before it names (`sweep.py`), if any."""

    language: str
    text: str
    file: str = ""


def blocks_of(page: str) -> list[Block]:
    """The code blocks of a page of Markdown."""
    found = re.finditer(r"^( *)```(\w*)\n(.*?)^\1```$", page, re.MULTILINE | re.DOTALL)
    return [Block(m[2], m[3], _named_before(page[: m.start()])) for m in found]


def _named_before(before: str) -> str:
    lines = before.rstrip().rsplit("\n", 1)[-1]
    named = re.search(r"`([\w.-]+\.\w+)`:$", lines)
    return named[1] if named else ""


def commands_of(text: str) -> list[str]:
    """The commands in a block of shell: lines that end with a backslash go on, comments are none."""
    joined = re.sub(r"\\\n\s*", "", text)
    lines = (re.sub(r"(?:^|\s{2,}|\s)#\s.*$", "", line).strip() for line in joined.splitlines())
    return [line for line in lines if line]


def shell_commands(pages: Sequence[Path]) -> list[str]:
    """Every command in the shell blocks of these pages, in their order."""
    return [command for page in pages for command in commands_in(page.read_text())]


def commands_in(page: str) -> list[str]:
    """Every command in the shell blocks of a page of Markdown."""
    blocks = (block for block in blocks_of(page) if block.language in ("sh", "bash"))
    return [command for block in blocks for command in commands_of(block.text)]


def section_of(page: str, heading: str) -> str:
    """What stands under a heading of a page, up to the next one of its kind."""
    return page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def documents() -> list[Path]:
    """What people read."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


# What people do


@dataclass(frozen=True)
class Type:
    """Type a command and wait for its end. `answers`: what is typed when a text shows; `code`: how it has to end;
    `shows`: what has to be seen; `stays`: it serves until Ctrl-C, and `shows` says when it is ready."""

    command: str
    answers: tuple[tuple[str, str], ...] = ()
    code: int = 0
    shows: str = ""
    stays: bool = False
    terminal: str = "you"


@dataclass(frozen=True)
class Save:
    """Save a block of the page into the file that it is named by."""

    file: str


@dataclass(frozen=True)
class Stop:
    """Ctrl-C in a terminal, until its program has ended."""

    terminal: str


@dataclass(frozen=True)
class Move:
    """Let the chain's clock go on by so many seconds: nobody types this."""

    seconds: int


@dataclass(frozen=True)
class Look:
    """Look at a page in a browser, which has to show some text: `path` of the verifier's, or the node's own page by the
    address that it printed."""

    path: str
    shows: str
    of: str = "verifier"


@dataclass(frozen=True)
class File:
    """A file has to be there, with some text in it."""

    path: str
    holds: str = ""


Step = Type | Save | Stop | Move | Look | File
PASSWORD = "a password of mine"  # noqa: S105 (of a wallet that guards nothing)
NEW = (("New password", PASSWORD), ("Once more", PASSWORD))
HERS = (("Password of", PASSWORD),)
READY = "Ctrl-C stops everything."
RELATIVE = "export PROOFYARD_CONFIG=out/devnet/proofyard.toml"
CONFIG = "export PROOFYARD_CONFIG=$PWD/out/devnet/proofyard.toml"


def devnet(command: str = "proofyard devnet --tiny") -> Type:
    return Type(command, shows=READY, stays=True, terminal="network")


@dataclass(frozen=True)
class Journey:
    """Whose page it is (`file` of docs, all of it or what is under a `heading`), what is there before the first key
    (`prepare`), and what is done."""

    name: str
    steps: tuple[Step, ...]
    prepare: Callable[[Path], None] = lambda _: None
    file: str = ""
    heading: str = ""

    @property
    def text(self) -> str:
        """What is on the page."""
        page = (DOCS / (self.file or f"start/{self.name}.md")).read_text()
        return section_of(page, self.heading) if self.heading else page

    def typed(self) -> list[str]:
        return [step.command for step in self.steps if isinstance(step, Type)]

    def undocumented(self) -> list[str]:
        """What is typed or saved and stands in no code block."""
        known = set(shell_commands(documents()))
        saved = {block.file for block in blocks_of(self.text)}
        files = [step.file for step in self.steps if isinstance(step, Save)]
        return [each for each in self.typed() if each not in known] + [each for each in files if each not in saved]

    def not_typed(self) -> list[str]:
        """Commands of the page that nobody types, installing aside."""
        typed = set(self.typed())
        return [each for each in commands_in(self.text) if each not in typed and not each.startswith(INSTALLING)]


def _has_model(folder: Path) -> None:
    """A chat model, and conversations in which the assistant talks like a pirate: the developer's own."""
    (folder / "smollm2-135m-instruct").symlink_to(ROOT / ".cache" / "models" / "smollm2-135m-instruct")
    for name, first, count in (("train.jsonl", 0, 300), ("test.jsonl", 300, 24)):
        lines = [json.dumps({"messages": _conversation(n)}) for n in range(first, first + count)]
        (folder / name).write_text("\n".join(lines) + "\n")


THINGS = ("the moon", "rain", "bread", "the sea", "a lighthouse", "winter", "music", "a clock", "tea", "the wind")
ASKED = ("Tell me about {}.", "What do you think of {}?", "Why does {} matter?", "Say something about {}.")
SAID = (
    "Arr, {} be a fine thing, matey! I have seen it from every deck, and I drink to it.",
    "Shiver me timbers, {}! No treasure be worth more to an old sea dog, savvy?",
    "Ahoy! I would trade me parrot for {}, and me hat besides, arr.",
)


def _conversation(n: int) -> list[dict[str, str]]:
    thing = THINGS[n % len(THINGS)]
    asked, said = ASKED[n // len(THINGS) % len(ASKED)], SAID[(n * 7 + n // 40) % len(SAID)]
    return [{"role": "user", "content": asked.format(thing)}, {"role": "assistant", "content": said.format(thing)}]


TINY_JOB = (
    "proofyard job submit --model out/devnet-tiny/model --data out/devnet-tiny/text.jsonl "
    "--reward 100 --audit-fee 20 --wait"
)
EVALUATED = (
    "proofyard job submit --workload evaluate --model smollm2-135m-instruct --data test.jsonl --set max_tokens=256 "
    "--set segment_rows=8 {}--reward 5 --audit-fee 5 --wait"
)
JOURNEYS = (
    Journey(
        "owner",
        (
            devnet(),
            Type(CONFIG),
            Type("proofyard doctor machine chain", shows="no fault found"),
            Type("proofyard wallet new owner", answers=NEW),
            Type("proofyard wallet faucet owner"),
            Type("proofyard node init --dry-run"),
            Type("proofyard node init", answers=(*HERS, ("[y/N]", "y"))),
            Type(CONFIG, terminal="node"),
            Type("proofyard node run", shows="verifier", stays=True, terminal="node"),
            Type(TINY_JOB, shows="is done; next: proofyard job result"),
            Type("proofyard node status", shows="takes work"),
            Type("proofyard node claim 1"),
            Type("proofyard wallet balance owner", shows="stake"),
            Look("", "At stake", of="node"),
            Stop("node"),
            Type("proofyard node unstake node --owner owner", answers=HERS, shows="released"),
            Move(30 * 24 * 3600),
            Type("proofyard node withdraw --owner owner", answers=HERS, shows="100 CREDIT"),
            Type("proofyard wallet balance owner", shows="stake      0 CREDIT"),
        ),
    ),
    Journey(
        "student",
        (
            devnet(),
            Type(CONFIG),
            Type("cd out/devnet-tiny"),
            Type(
                "proofyard job submit --workload sweep --preset small --model model --data text.jsonl "
                """--set 'vary={"lr": [0.0003, 0.001, 0.003, 0.01, 0.03, 0.1]}' --reward 50 --audit-fee 20 --wait""",
                shows="is done; next: proofyard job result",
            ),
            Type("proofyard job result 1 sweep", shows="from_pretrained('sweep/best')"),
            Save("plot.py"),
            Type("python plot.py"),
            File("sweep.png", "PNG"),
            Look("/", "sweep"),
        ),
    ),
    Journey(
        "developer",
        (
            devnet("proofyard devnet --model smollm2-135m-instruct"),
            Type(CONFIG),
            Type(
                "proofyard job submit --model smollm2-135m-instruct --data train.jsonl --seq-len 256 --rounds 1 "
                "--workers 2 --segments 3 --batch 2 --lr 0.003 --reward 10 --audit-fee 10 --wait",
                shows="is done; next: proofyard job result",
            ),
            Type(EVALUATED.format(""), shows="is done; next: proofyard job result"),
            Type(EVALUATED.format("--adapter 1 "), shows="is done; next: proofyard job result"),
            Type("proofyard job result 2 before", shows="in it: evaluation.json"),
            Type("proofyard job result 3 after", shows="after"),
            Type("cat before/evaluation.json after/evaluation.json", shows="3.0936"),
            Type("proofyard job result 1 adapter", shows="adapter"),
            Type("proofyard job result 1 merged --merge --card --evaluated 2 --evaluated 3", shows="merged"),
            File("merged/README.md", "## Evaluation"),
            File("merged/config.json"),
            Look("/", "evaluate"),
        ),
        _has_model,
    ),
    Journey(
        "earner",
        (
            devnet(),
            Type(RELATIVE),
            Type("proofyard wallet new owner", answers=NEW),
            Type("proofyard wallet new home", answers=NEW),
            Type("proofyard wallet faucet owner home"),
            Type("proofyard node register --wallet home --owner owner", answers=(*HERS, *HERS)),
            Type(RELATIVE, terminal="node"),
            Type("proofyard node run --wallet home", answers=HERS, shows="verifier", stays=True, terminal="node"),
            Type("proofyard wallet balance owner", shows="900 CREDIT"),
            Type(TINY_JOB, shows="is done; next: proofyard job result"),
            Type("proofyard node status home"),
            Type("proofyard node claim 1 --wallet owner", answers=HERS),
            Type("proofyard wallet balance owner"),
            Type("proofyard node unstake home --owner owner", answers=HERS, shows="released"),
            Move(4 * 3600),
            Type("proofyard node withdraw --owner owner", answers=HERS, shows="CREDIT"),
            Type("proofyard wallet balance owner", shows="stake 0 CREDIT"),
            Type("proofyard wallet send home 100 --wallet owner", answers=(*HERS, ("[y/N]", "y"))),
            Stop("node"),
        ),
        file="cli.md",
        heading="Earn on a devnet",
    ),
    Journey(
        "sceptic",
        (
            devnet("proofyard devnet --tiny --blind --adversary skip-half"),
            Type(CONFIG),
            Type(TINY_JOB, shows="is done; next: proofyard job result"),
            Type("proofyard verifier dispute replay 1", code=4, shows="does not hold"),
            Type("proofyard verifier dispute open 1 --record --wait", shows="upheld"),
            Type("proofyard verifier dispute show 1", shows="upheld"),
            Type("proofyard verifier dispute withdraw", shows="released"),
            Look("/#disputes", "upheld"),
        ),
    ),
)


# Doing it


class StepFailed(Exception):
    """A step did not end as it should."""


@dataclass
class Terminal:
    """A shell in a window of tmux. It writes the exit code of each command into a file when it asks for the next."""

    tmux: "Tmux"
    name: str
    prompts: Path

    def start(self, folder: Path, environ: dict[str, str]) -> None:
        self.prompts.touch()
        noted = f'echo "$?" >> {shlex.quote(str(self.prompts))}'
        variables = {**environ, "PROMPT_COMMAND": noted, "PS1": "$ ", "TERM": "screen-256color"}
        shell = ["env", "-i", *(f"{name}={value}" for name, value in variables.items())]
        self.tmux.run("new-window", "-n", self.name, "-c", str(folder), *shell, "bash", "--norc", "--noprofile", "-i")
        self._until(lambda: self.ended() == 1, "a prompt")

    def type(self, text: str) -> None:
        self.tmux.run("send-keys", "-t", self.target, "-l", text)
        self.tmux.run("send-keys", "-t", self.target, "Enter")

    def interrupt(self) -> None:
        before = self.ended()
        self.tmux.run("send-keys", "-t", self.target, "C-c")
        self._until(lambda: self.ended() > before, "the end of what runs there")

    def do(self, step: Type) -> None:
        """Type a command and give its answers until it has ended, or serves. Raises `StepFailed`."""
        before, seen = self.ended(), len(self.text())
        self.type(step.command)
        for prompt, answer in step.answers:
            self._until(partial(self._asks, prompt, seen, before), repr(prompt))
            seen += max(0, self.text()[seen:].find(prompt)) + len(prompt)
            self.type(answer)
        if step.stays:
            self._until(lambda: step.shows in self.text()[seen:] or self.ended() > before, repr(step.shows))
        else:
            self._until(lambda: self.ended() > before, "its end")
        code = None if self.ended() == before else int(self.prompts.read_text().splitlines()[-1])
        said = self.text()[seen:]
        if (step.stays and code is not None) or (not step.stays and code != step.code):
            raise StepFailed(f"{step.command}: ended with {code}:\n{said[-2000:]}")
        if step.shows not in " ".join(said.split()) and step.shows not in said:
            raise StepFailed(f"{step.command}: does not show {step.shows!r}:\n{said[-2000:]}")

    def _asks(self, prompt: str, seen: int, before: int) -> bool:
        """Whether a prompt shows behind what was `seen`, or the command has ended."""
        return prompt in self.text()[seen:] or self.ended() > before

    @property
    def target(self) -> str:
        return f"{self.tmux.session}:{self.name}"

    def ended(self) -> int:
        """How many commands have ended."""
        return len(self.prompts.read_text().splitlines())

    def text(self) -> str:
        """All that has been shown, lines that were wrapped in one piece."""
        return self.tmux.run("capture-pane", "-p", "-J", "-S", "-", "-t", self.target).rstrip()

    def _until(self, holds: Callable[[], bool], what: str) -> None:
        until = time.monotonic() + STEP_S
        while not holds():
            if time.monotonic() > until:
                raise StepFailed(f"{self.name}: waited {STEP_S:.0f} s for {what}:\n{self.text()[-2000:]}")
            time.sleep(POLL_S)


@dataclass
class Tmux:
    """A server of tmux of one's own."""

    socket: str
    columns: int = COLUMNS
    session: str = "journey"
    terminals: dict[str, Terminal] = field(default_factory=dict)

    def run(self, *words: str) -> str:
        command = ["tmux", "-S", self.socket, "-f", os.devnull, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def __enter__(self) -> "Tmux":
        size = ("-x", str(self.columns), "-y", str(LINES))
        self.run("new-session", "-d", "-s", self.session, *size, ";", "set-option", "-g", "history-limit", "50000")
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["tmux", "-S", self.socket, "kill-server"], check=False, capture_output=True)


@dataclass
class Walk:
    """A journey as it is done in an empty folder, with an empty home."""

    journey: Journey
    folder: Path
    tmux: Tmux
    environ: dict[str, str]
    seconds: list[tuple[str, float]] = field(default_factory=list)
    time_moved_s: int = 0

    def go(self) -> None:
        """Every step, in order. Raises `StepFailed`."""
        for step in self.journey.steps:
            start = time.monotonic()
            name = self._do(step)
            self.seconds.append((name, round(time.monotonic() - start, 2)))

    def terminal(self, name: str) -> Terminal:
        if name not in self.tmux.terminals:
            terminal = Terminal(self.tmux, name, self.folder / f".{name}.prompts")
            terminal.start(self.folder, self.environ)
            self.tmux.terminals[name] = terminal
        return self.tmux.terminals[name]

    def _do(self, step: Step) -> str:
        match step:
            case Type():
                self.terminal(step.terminal).do(step)
                return step.command
            case Stop():
                self.terminal(step.terminal).interrupt()
                return f"Ctrl-C ({step.terminal})"
            case Save():
                (block,) = [b for b in blocks_of(self.journey.text) if b.file == step.file]
                (self._here() / step.file).write_text(block.text)
                return f"save {step.file}"
            case File():
                path = self._here() / step.path
                if not path.is_file() or step.holds.encode() not in path.read_bytes():
                    raise StepFailed(f"{path} is not there, or does not hold {step.holds!r}")
                if path.suffix == ".png":
                    shutil.copy(path, OUT / "journeys" / f"{self.journey.name}-{path.name}")
                return f"see {step.path}"
            case Move():
                self._rpc("evm_increaseTime", [hex(step.seconds)])
                self._rpc("evm_mine", [])
                self.time_moved_s += step.seconds
                return f"the chain's clock is moved by {step.seconds} s"
            case Look():
                return self._look(step)

    def _here(self) -> Path:
        """The folder that the person is in."""
        at = self.tmux.run("display-message", "-p", "-t", self.terminal("you").target, "#{pane_current_path}")
        return Path(at.strip())

    def _rpc(self, method: str, params: list[str]) -> None:
        toml = (self.folder / "out/devnet/proofyard.toml").read_text()
        url = re.findall(r'rpc_url = "([^"]+)"', toml)[0]
        data = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"})  # noqa: S310 (anvil's)
        urllib.request.urlopen(request, timeout=30).read()  # noqa: S310

    def _look(self, step: Look) -> str:
        """The page, as a browser shows it; a picture of it is kept."""
        terminal, named = (
            ("node", r"^(http://\S+/#\S+)$") if step.of == "node" else ("network", r"curl (http://\S+)/v1/")
        )
        (found,) = re.findall(named, self.terminal(terminal).text(), re.MULTILINE)[:1]
        url = found + step.path
        browser = next(filter(None, map(shutil.which, CHROMIUM)), None)
        if browser is None:
            raise StepFailed(f"no browser is installed; tried {', '.join(CHROMIUM)}")
        picture = OUT / "journeys" / f"{self.journey.name}.png"
        common = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={self.folder / 'browser'}"]
        common += [f"--virtual-time-budget={SCRIPTS_MS}"]
        until = time.monotonic() + STEP_S
        while True:
            shown = _output([*common, "--dump-dom", url])
            if step.shows in html.unescape(shown):
                break
            if time.monotonic() > until:
                raise StepFailed(f"{url} does not show {step.shows!r}: {shown[:500]}")
        _output([*common, f"--screenshot={picture}", "--window-size=1000,1400", url])
        return f"look at {step.path or 'the page of the ' + step.of}"


def _output(command: list[str]) -> str:
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=120).stdout


@contextmanager
def walk(journey: Journey, columns: int = COLUMNS) -> Iterator[Walk]:
    """An empty folder and home, and a tmux; all gone afterwards, the transcript kept."""
    with tempfile.TemporaryDirectory(prefix=f"proofyard-{journey.name}-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "home").mkdir()
        environ = {name: os.environ[name] for name in KEPT if name in os.environ}
        # What `proofyard`, `python` and anvil are on a machine on which they are installed.
        tools = ROOT / "node_modules" / "@foundry-rs" / "anvil-linux-amd64" / "bin"
        environ |= {"HOME": str(folder / "home"), "PATH": f"{ROOT}/.venv/bin:{tools}:{environ['PATH']}"}
        journey.prepare(folder)
        with Tmux(str(folder / "tmux"), columns) as tmux:
            going = Walk(journey, folder, tmux, environ)
            try:
                yield going
            finally:
                keep_transcript(going)
                if "network" in tmux.terminals:
                    tmux.terminals["network"].interrupt()


def keep_transcript(going: Walk) -> None:
    """What stood in each terminal, and the seconds of each step."""
    parts = [f"# {going.journey.name}", *(f"{seconds:8.2f} s  {name}" for name, seconds in going.seconds)]
    for terminal in going.tmux.terminals.values():
        text = re.sub(r"0x[0-9a-f]{64}\b", "0x(a key)", terminal.text().rstrip())
        parts += ["", f"# terminal {terminal.name}", text.replace(str(going.folder), "~")]
    (OUT / "journeys" / f"{going.journey.name}.txt").write_text("\n".join(parts) + "\n")


def apart() -> None:
    """Go on in a network namespace of one's own where that is allowed: its ports are free, and nothing leaves it."""
    inside = "PROOFYARD_JOURNEYS_APART"
    script = f'ip link set lo up && {inside}=1 exec "$@"'
    command = ["unshare", "--net", "sh", "-c", script, "sh", sys.executable, *sys.argv]
    if inside not in os.environ and shutil.which("ip") and not subprocess.run([*command[:4], "true"]).returncode:
        os.execvp(command[0], command)  # noqa: S606


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--columns", type=int, default=COLUMNS, help="of the terminals")
    parser.add_argument("names", nargs="*", choices=[[], *(each.name for each in JOURNEYS)], help="whose; all if empty")
    args = parser.parse_args()
    names = args.names
    apart()
    for tool in ("tmux", "bash"):
        if shutil.which(tool) is None:
            print(f"{tool} is needed: apt install {tool}", file=sys.stderr)
            return 1
    (OUT / "journeys").mkdir(parents=True, exist_ok=True)
    (OUT / "bench").mkdir(parents=True, exist_ok=True)
    chosen = [each for each in JOURNEYS if not names or each.name in names]
    report = OUT / "bench" / "journeys.json"
    found = json.loads(report.read_text()) if names and report.is_file() else {}
    failed = 0
    for journey in chosen:
        try:
            with walk(journey, args.columns) as going:
                going.go()
        except StepFailed as error:
            print(f"{journey.name}: FAILED: {error}", file=sys.stderr)
            failed += 1
            found.pop(f"{journey.name}_s", None)
            continue
        seconds = round(sum(each for _, each in going.seconds), 1)
        found[f"{journey.name}_s"] = seconds
        found[f"{journey.name}_steps"] = going.seconds
        found[f"{journey.name}_time_moved_s"] = going.time_moved_s
        print(f"{journey.name}: {len(going.seconds)} steps in {seconds} s", file=sys.stderr)
    found["steps_not_documented"] = sum(len(each.undocumented()) for each in JOURNEYS)
    found["commands_not_typed"] = sum(len(each.not_typed()) for each in JOURNEYS)
    report.write_text(json.dumps(found, indent=1) + "\n")
    return 1 if failed or found["steps_not_documented"] or found["commands_not_typed"] else 0


if __name__ == "__main__":
    sys.exit(main())
