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
    Shell.BASH: "proofyard completion bash > ~/.local/share/bash-completion/completions/proofyard",
    Shell.ZSH: "proofyard completion zsh > ~/.zfunc/_proofyard, with fpath+=~/.zfunc before compinit in ~/.zshrc",
    Shell.FISH: "proofyard completion fish > ~/.config/fish/completions/proofyard.fish",
}


@app.verb("completion", "completion bash >> ~/.bashrc")
def completion(
    shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")],
) -> None:
    """Have bash, zsh or fish complete what you type.

    Prints the script that your shell reads."""
    from typer._completion_shared import get_completion_script

    from proofyard.cli.app import COMPLETE

    print(get_completion_script(prog_name="proofyard", complete_var=COMPLETE, shell=shell.value))
    note(f"to have it in every new shell: {_PLACES[shell]}")
