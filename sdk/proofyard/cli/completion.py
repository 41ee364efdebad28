"""`proofyard completion`: what a shell needs to complete commands and options."""

from enum import StrEnum
from typing import Annotated

import typer

from proofyard.cli.output import note
from proofyard.cli.tree import App

app = App()


class Shell(StrEnum):
    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


_PLACES = {
    Shell.BASH: "~/.bashrc",
    Shell.ZSH: "~/.zshrc, after compinit",
    Shell.FISH: "~/.config/fish/config.fish",
}
_SOURCED = "compdef _proofyard_completion proofyard"
_LOADED_OR_SOURCED = f"""if [[ ${{funcstack[1]}} == _proofyard ]]; then
  _proofyard_completion "$@"
else
  {_SOURCED}
fi"""
"""zsh reads the script when it first completes the command, where it lies in `fpath`: then it has to answer at once."""


@app.verb("completion", "completion bash >> ~/.bashrc")
def completion(
    shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")],
) -> None:
    """Have bash, zsh or fish complete what you type.

    Prints the script that your shell reads."""
    from typer._completion_shared import get_completion_script

    from proofyard.cli.app import COMPLETE

    script = get_completion_script(prog_name="proofyard", complete_var=COMPLETE, shell=shell.value)
    print(script.replace(_SOURCED, _LOADED_OR_SOURCED))
    note(f"to have it in every new shell: proofyard completion {shell.value} >> {_PLACES[shell]}")
