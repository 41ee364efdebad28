"""`proofyard devnet`: a whole network on this machine, to play with."""

from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proofyard.cli.errors import UsageError
from proofyard.cli.extras import require
from proofyard.cli.output import AsJson, emit, note, table
from proofyard.cli.run import require_model
from proofyard.cli.tree import App
from proofyard.workloads.zoo import ZOO

if TYPE_CHECKING:
    from proofyard.devnet import DevNetwork

TRIALS, PLACE = "trials", "place"
"""Panels of options."""
BLIND_WINDOW_S = 600
"""Time to replay a batch and to open a challenge by hand."""


app = App()


@app.verb("devnet", "devnet --tiny")
def devnet(
    nodes: Annotated[int, typer.Option(min=1, max=64, help="Honest nodes.")] = 4,
    adversary: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND", help="One more node that cheats so; may be repeated; docs/zoo.md has all."),
    ] = None,
    verifiers: Annotated[
        int, typer.Option(min=1, max=16, help="Verifiers; two thirds of them settle a batch.", rich_help_panel=TRIALS)
    ] = 1,
    blind: Annotated[
        bool,
        typer.Option(
            "--blind",
            help="Verifiers find every audit right: what they settle wants to be disputed.",
            rich_help_panel=TRIALS,
        ),
    ] = False,
    challenge_window: Annotated[
        int | None,
        typer.Option(
            min=1, help="Seconds in which a batch can be challenged; 10, or 600 with --blind.", rich_help_panel=TRIALS
        ),
    ] = None,
    directory: Annotated[
        Path, typer.Option("--dir", help="Where everything is kept; emptied first.", rich_help_panel=PLACE)
    ] = Path("out/devnet"),
    model: Annotated[Path | None, typer.Option(help="A Hugging Face model directory that all nodes have.")] = None,
    tiny: Annotated[bool, typer.Option("--tiny", help="Make a tiny random model and a text for it.")] = False,
    rpc_port: Annotated[
        int, typer.Option(min=0, max=65_535, help="TCP port of the chain, 0 for any free one.", rich_help_panel=PLACE)
    ] = 8545,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of each node.", rich_help_panel=PLACE)] = 1,
    as_json: AsJson = False,
) -> None:
    """Run a whole network on this machine until Ctrl-C.

    Chain, contracts, verifiers and nodes are processes of their own.

    Its keys guard nothing of value and are printed.
    """
    require("node,verifier", "proofyard devnet")
    unknown = sorted(set(adversary or ()) - ZOO.keys())
    if unknown:
        raise UsageError(f"--adversary: no cheat is named {unknown[0]}; known are {', '.join(ZOO)}")
    if tiny and model is not None:
        raise UsageError("give either --model or --tiny")
    if model is not None:
        require_model(model)
    from proofyard.devnet import PARAMS, DevNetwork, Plan, terminated_like_interrupted

    made = directory.absolute().parent / f"{directory.name}-tiny"
    if tiny:
        from proofyard.workloads.tiny import write_tiny_corpus, write_tiny_model

        model = write_tiny_model(made / "model")
        write_tiny_corpus(made / "text.jsonl")
    window = challenge_window or (BLIND_WINDOW_S if blind else PARAMS.challenge_window)
    plan = Plan(
        nodes=nodes,
        adversaries=tuple(adversary or ()),
        verifiers=verifiers,
        blind=blind,
        params=replace(PARAMS, challenge_window=window, unstake_delay=0, seat_delay=0),
        threads=threads,
        model_dirs=(model,) if model else (),
        rpc_port=rpc_port,
        listed=True,
    )
    note(f"starting {nodes + len(plan.adversaries)} nodes and {verifiers} verifiers in {directory}")
    with terminated_like_interrupted() as interrupts, DevNetwork(directory, plan, note, interrupts) as network:
        try:
            emit(_facts(network), as_json=as_json, text=_text(network))
            note(_next_commands(network, model, made / "text.jsonl" if tiny else None))
            network.watch(lambda name, code: note(f"{name} ended with exit code {code}; see {network.log_of(name)}"))
        except KeyboardInterrupt:
            note("stopping")


def _facts(network: "DevNetwork") -> dict[str, Any]:
    return {
        "rpc_url": network.rpc_url,
        "chain_id": str(network.deployment.chain_id),
        "registry": network.deployment.registry,
        "court": network.deployment.court,
        "credit": network.deployment.credit,
        "settings": str(network.settings),
        "contracts": str(network.contracts),
        "members": [
            {
                "name": member.name,
                "role": member.role,
                "address": member.key.address,
                "owner": member.owner.address,
                "key": "0x" + bytes(member.key.account.key).hex(),
                "owner_key": "0x" + bytes(member.owner.account.key).hex(),
                "endpoint": network.endpoint(member.name) if member.role != "requester" else None,
                "status_api": network.api_url(member.name) if member.role == "verifier" else None,
                "adversary": member.adversary,
            }
            for member in network.members.values()
        ],
    }


def _text(network: "DevNetwork") -> str:
    rows = [
        (
            member["name"],
            member["address"],
            member["owner"],
            member["endpoint"] or "",
            member["status_api"] or (f"cheats: {member['adversary']}" if member["adversary"] else ""),
        )
        for member in _facts(network)["members"]
    ]
    keys = [(member["name"], member["owner_key"]) for member in _facts(network)["members"]]
    return "\n".join(
        (
            f"chain     {network.rpc_url}, chain id {network.deployment.chain_id}",
            f"registry  {network.deployment.registry}",
            f"court     {network.deployment.court}",
            f"credit    {network.deployment.credit}",
            f"ABIs      {network.contracts}",
            "",
            table(rows, ("NAME", "ADDRESS", "OWNER", "QUIC", "")),
            "",
            "Private keys of the owners (toy network, never use them elsewhere):",
            table(keys, ("NAME", "KEY")),
        )
    )


def _next_commands(network: "DevNetwork", model: Path | None, text: Path | None) -> str:
    api = network.api_url(network.verifiers[0].name)
    folder = quote(str(text.parent)) if text else "FOLDER_OF_MODEL_AND_TEXT"
    lines = (
        "",
        "next, in another terminal:",
        f"  export PROOFYARD_CONFIG={quote(str(network.settings))}",
        f"  cd {folder}",
        f"  proofyard job submit --model {quote(str(model)) if model and not text else 'model'} --data text.jsonl "
        "--reward 100 --audit-fee 20 --wait",
        "  proofyard job show 1",
        "  proofyard job result 1 adapter",
        "  proofyard node claim 1",
        "  proofyard verifier dispute replay 1",
        "  proofyard job explain 1",
        f"  curl {api}/v1/nodes",
        "or python, with the lines in README.md: it reads the same settings.",
        "Ctrl-C stops everything.",
    )
    return "\n".join(lines)
