"""What an operator can set for `proofyard node run`. Defaults, then TOML, then environment, then flags."""

from pathlib import Path
from typing import Literal

from proofyard.node.gate import SetLimits
from proofyard.protocol.workload_bits import WORKLOADS
from proofyard.runtime.bounds import Amount, Most, Port, Seconds, Share, Threads


class NodeSettings(SetLimits, frozen=True, kw_only=True):
    """Settings of one node, beside the limits that `proofyard.node.gate.SetLimits` describes.

    `preset`: what stands for settings that are not given, a row of `proofyard.runtime.presets.NODE_PRESETS`.
    `rpc_url`: the chain's JSON-RPC endpoint; `ws_url`: its websocket, which pushes events, where it is not in the same
    place. `registry`: address of the Registry contract, whose events are read from
    `from_block` on, 0 for the block that it is in. `chain_id`: the chain that is meant, 0 for whichever answers.
    `wallet`: keystore file of the node's hot key; `password_file`: file with its password, else it is asked for.
    `host`, `port`: UDP address to listen on, which says nothing about whom it can dial. `endpoint`: where others reach
    it, if they do, written into the Registry; without it what is registered stays. Where `host` is empty it is every
    address, IPv4 and IPv6, if the endpoint or some verifier's is for other machines, else loopback. Where `port` is 0
    it is the endpoint's, if that is for other machines, else a free one.
    `data_dir`: blocks, states and the database.
    `model_dirs`: Hugging Face model directories that are used in place instead of being fetched.
    `workloads`: what this operator executes. `threads`: CPU threads of the executor, 0 for all.
    `memory_limit_bytes`: the executor's limit, 0 for none. `micro_batch`: sequences computed at once, 0 for a whole
    batch; a smaller number takes less memory and gives the same bits.
    `state_budget_bytes`: disk for states that are owed until their challenge window closes; where it is short, every
    n-th is kept and the others are computed again when asked for, and a task whose states do not fit at all is handed
    back. `cache_bytes`: disk for everything else that was fetched and may be useful again.

    What a job may ask of this machine; an offer beyond it is refused, and the field named. `max_task_steps`: steps of
    one task. `max_step_tokens`: tokens that one step computes (batch times sequence), or the longest text of a row.
    `max_segments` of one task. `max_task_s`: seconds that a task may compute. `max_model_bytes`, `max_data_bytes`:
    content of the model directory and the data file. `max_state_bytes`: one state or result, written out.
    `max_task_reward`: whole CREDIT that a task may pay; a verifier that breaks its receipt for more would gain.
    `tasks_held`: tasks that are held for one verifier at a time, so that the inputs of the next are fetched meanwhile.
    `min_price`: CREDIT for a unit of work, such as `0.001` for all or `embed=0.0001` for one workload; a job that pays
    less is refused. `unpaid`: take jobs that pay nothing as well.
    `max_decoys_bps`: beside so many of a verifier's tasks in 10,000, and one more, a decoy is made when it orders one.

    `jury`: sit on juries that this node is drawn for; one that does not is fined each time it is drawn. `defend`:
    challenge faults and broken promises against this node, and appeal; `bond_budget`: whole CREDIT of its owner's stake
    that may be in its bonds at one time. `draw_juries`: draw juries of anybody's challenges, for the reward.
    `claim`: collect this node's pay some minutes after it is due, once it is `claim_above` CREDIT in all and more than
    its gas, which costs `token_per_ether` base units a wei (0: gas is not compared); after three days in any case.
    `second_holder`: who is handed every state when this node commits to it, so that it can be had while this node is
    away: the multiaddress of an IPFS daemon's RPC, or WALLET@HOST:PORT of another node. `hold_for`: wallets of the
    nodes whose states this node takes in that way, within `hold_bytes`.
    `relays`: WALLET@HOST:PORT of peers that carry for this node where nobody reaches it directly, before those that
    verifiers know. `relay`: carry for others, `relay_bytes_s` bytes a second in all, 0 for no limit; a connection ends
    that has carried `relay_unreceipted_bytes` for which its ends have not signed, 0 for no limit. `map_port`: have
    the router let others reach this node, by PCP, NAT-PMP or UPnP.
    `discover`: tell peers who is there, and be told; `peers`: WALLET@HOST:PORT of some to begin with. `lan`: find nodes
    of the same local network by mDNS. `hide_address`: have nobody pass on this node's address, but its relays alone.
    `ipfs`: multiaddress of an IPFS daemon's RPC that is asked for what no peer has, empty for none.

    What holds strangers' work (see docs/sandbox.md). `sandbox`: `docker` or `podman` for a container of
    `sandbox_image`, which is named by its digest; without it bubblewrap, Landlock and seccomp, as far as they are
    there. `unsandboxed`: take strangers' work even where nothing of these holds it. `max_step_s`: seconds in which a
    job has to show a sign of life.

    `stop_s`: seconds in which the segment under way may end when the node is stopped.
    `prove_s`: seconds that the memory which this node claims may take to fill when a verifier checks it, and so how
    much is claimed (see `proofyard.node.proving`); 0 claims nothing.
    `watts`: what the machine draws while it works, where no power draw can be read; 0 for not known. `power_price`:
    CREDIT for a kilowatt hour.

    `page`: serve a page about this node on 127.0.0.1, for whoever has its token; `page_port`: its TCP port, 0 for 8791,
    or any other where that is taken.

    `ready_file`: written with the node's address and port once it serves.
    `adversary`: on a local test network only, the way in which this node cheats. `accomplices`: the folder through
    which cheats that belong together share their answers.
    """

    preset: Literal["", "small", "medium", "large", "home", "farm"] = ""
    rpc_url: str = "http://127.0.0.1:8545"
    ws_url: str = ""
    registry: str
    from_block: Amount = 0
    chain_id: Amount = 0
    wallet: Path
    password_file: Path | None = None
    host: str = ""
    port: Port = 0
    endpoint: str = ""
    data_dir: Path
    model_dirs: tuple[Path, ...] = ()
    workloads: tuple[str, ...] = WORKLOADS
    threads: Threads = 0
    memory_limit_bytes: Amount = 0
    micro_batch: Amount = 0
    state_budget_bytes: Amount = 16 << 30
    cache_bytes: Amount = 16 << 30
    max_task_steps: Most = 1 << 20
    max_step_tokens: Most = 1 << 20
    max_segments: Most = 4096
    max_task_s: Seconds = 86_400.0
    max_model_bytes: Most = 32 << 30
    max_data_bytes: Most = 32 << 30
    max_state_bytes: Most = 2 << 30
    max_task_reward: Amount = 85
    min_price: tuple[str, ...] = ()
    unpaid: bool = False
    tasks_held: Most = 2
    max_decoys_bps: Share = 500
    jury: bool = True
    defend: bool = True
    bond_budget: Amount = 500
    draw_juries: bool = True
    claim: bool = True
    claim_above: str = ""
    token_per_ether: Amount = 0
    second_holder: str = ""
    hold_for: tuple[str, ...] = ()
    hold_bytes: Amount = 16 << 30
    relays: tuple[str, ...] = ()
    relay: bool = False
    relay_bytes_s: Amount = 0
    relay_unreceipted_bytes: Amount = 0
    discover: bool = True
    peers: tuple[str, ...] = ()
    lan: bool = True
    hide_address: bool = False
    map_port: bool = True
    ipfs: str = ""
    sandbox: Literal["", "docker", "podman"] = ""
    sandbox_image: str = ""
    unsandboxed: bool = False
    max_step_s: Seconds = 900.0
    stop_s: Amount = 30
    prove_s: Amount = 60
    watts: Amount = 0
    power_price: str = ""
    page: bool = True
    page_port: Port = 0
    ready_file: Path | None = None
    adversary: str | None = None
    accomplices: Path | None = None
