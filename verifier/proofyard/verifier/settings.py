"""What an operator can set for `proofyard verifier run`. Defaults, then TOML, then environment, then flags."""

from pathlib import Path

import msgspec

from proofyard.protocol.fees import TOKEN_PER_ETHER, USUAL_FEE_BPS, USUAL_TASKS
from proofyard.runtime.bounds import Amount, Most, Port, Seconds, Share


class VerifierSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one verifier.

    `rpc_url`: the chain's JSON-RPC endpoint. `registry`: address of the Registry contract.
    `wallet`: keystore file of the verifier's key, from which its BLS key is derived; `password_file`: its password.
    `host`, `port`: UDP address to listen on. `endpoint`: where others reach it, written into the Registry; without it
    what is registered stays. Where `host` is empty or `port` 0 they follow from that: every address and its port,
    where it is for other machines, else loopback and a free one. `api_host`, `api_port`: the HTTP API, which
    anybody who reaches it may read; `api_streams`: so many readers of live events at a time. On loopback it is asked
    for as localhost, by an address, or as one of `api_names`, such as that of a proxy before it: a page of elsewhere
    whose name was made to lead here reads nothing.
    `data_dir`: blocks and, by default, the database. `database_url`: an SQLAlchemy URL, SQLite in `data_dir` if empty.
    `process`: this process's name, where several of one wallet share a PostgreSQL: one leads, the others stand by. They
    share `blocks_dir` as well, by default a folder in `data_dir`.
    `model_dirs`: Hugging Face model directories that are served in place to nodes that lack them.
    `ipfs`: multiaddress of an IPFS daemon's RPC that is asked for what no peer has, empty for none.
    `ready_file`: written with address, port and API port once it serves.
    `lease_s`: a task's or audit's holder that is silent for longer loses it.
    `audit_s`: an auditor's answer is wanted within this time, within five minutes where few tasks are in a batch
    and all their jobs go on without its verdicts; until then an auditor may finish work of its own first.
    `keep_s`: how long manifest, records and result of a finished job stay here. `cache_bytes`: disk for everything that
    no open job needs.
    `state_due_s`: a worker that does not deliver a committed state for longer is judged as if it were wrong;
    `recheck_s`: how long a state that another verifier calls withheld is asked for before its record is signed.
    `max_state_bytes`: larger states are not looked at here before auditors execute them.
    `receipt_blocks`: no receipt is signed before so many blocks are on the one that took its job: a reorganisation that
    gives the job to another verifier makes a promise of it impossible to keep.
    `batch_tasks`: so many commitments make a batch, of all jobs; `batch_s`: none waits longer for its batch, but
    fewer than 32 of them five times as long, while nobody needs their verdicts. A job of rounds whose first commitment
    has waited half of it has a batch before its last round, if none of its workers is new.
    `decoys_bps`: of so many tasks in 10,000 a decoy is put into a batch first (docs/economics.md).
    `least_fee_bps`: a job's verifier fee is at least so much of what its gas costs at the present price, in 1/10,000,
    each wei of it at `token_per_ether` base units; 0 takes every fee. `job_tasks`: no job of more tasks is taken;
    `all_tasks`: a job waits while it and the running ones have more.
    `relay_price`: what relays are paid for a GiB that they carried between nodes of this verifier's jobs, in CREDIT,
    such as "0.01"; nothing if empty. `relay_fee_bps`: at most so much of a job's verifier fee, in 1/10,000;
    `relay_a_day`: at most so much in a day, in CREDIT, for all jobs.
    `takeover`: take over batches that other verifiers leave unsettled.
    `blind`: on a local test network only, find every audited answer right, so that disputes have something to find.
    """

    rpc_url: str = "http://127.0.0.1:8545"
    registry: str
    wallet: Path
    password_file: Path | None = None
    host: str = ""
    port: Port = 0
    endpoint: str = ""
    from_block: Amount = 0
    chain_id: Amount = 0
    api_host: str = "127.0.0.1"
    api_port: Port = 0
    api_streams: Most = 100
    api_names: tuple[str, ...] = ()
    data_dir: Path
    database_url: str = ""
    process: str = ""
    blocks_dir: Path | None = None
    model_dirs: tuple[Path, ...] = ()
    ipfs: str = ""
    ready_file: Path | None = None
    lease_s: Seconds = 15.0
    audit_s: Seconds = 30.0
    state_due_s: Seconds = 300.0
    recheck_s: Seconds = 20.0
    max_state_bytes: Most = 2 << 30
    receipt_blocks: Amount = 2
    batch_tasks: Most = 4096
    batch_s: Seconds = 60.0
    decoys_bps: Share = 150
    least_fee_bps: Amount = USUAL_FEE_BPS
    token_per_ether: Amount = TOKEN_PER_ETHER
    job_tasks: Most = USUAL_TASKS
    all_tasks: Most = 4 * USUAL_TASKS
    relay_price: str = ""
    relay_fee_bps: Share = 1000
    relay_a_day: str = "1"
    takeover: bool = True
    keep_s: Seconds = 30 * 24 * 3600.0
    cache_bytes: Amount = 16 << 30
    blind: bool = False
