"""One wallet's dealings with the Registry. Each call returns when its transaction is mined.

Calls that a crash may interrupt can be told apart afterwards: `find_batch` finds a batch that was sent, a settled
batch raises `AlreadySettled`, paid claims `NothingClaimed`.
"""

from collections.abc import Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar

from eth_abi.abi import encode as abi_encode
from web3 import Web3
from web3.types import TxReceipt

from proofyard.chain.binding import spelled
from proofyard.chain.errors import BlockAhead, ChainError, InsufficientBalance, NotARecipient, NoWallet
from proofyard.chain.events import (
    BatchCommitted,
    Event,
    JobOpened,
    JobTaken,
    OperatorRegistered,
    Withdrawn,
    decode_logs,
)
from proofyard.chain.records import Anchor, Drawn, JobTerms
from proofyard.chain.refusals import JobIsClosed, StakeTooLow
from proofyard.chain.rpc import mapped_errors
from proofyard.chain.sender import Sender
from proofyard.chain.viewing import HistoryReader
from proofyard.chain.wallet import Wallet
from proofyard.protocol.bls import BlsSignature, signature_point
from proofyard.protocol.cid import cid_bytes
from proofyard.protocol.keccak import keccak
from proofyard.protocol.settlement import (
    Header,
    OperatorId,
    Payout,
    Settlement,
    bound_hash,
    cause_word,
    line_word,
    line_words,
    paid_words,
    payout_proof,
    payout_root,
    share_words,
)
from proofyard.protocol.types import Address, BatchId, Digest, JobId, Wei

E = TypeVar("E", bound=Event)

PERMIT_S = 3600
_PERMIT_TYPEHASH = keccak(b"Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)")


class Sends(Protocol):
    """Sends a wallet's transactions: `Sender`, or whoever keeps them longer than one call."""

    def send(self, what: str, to: str | None, data: str, *, in_next_block: bool = False) -> TxReceipt:
        """Send and return once mined. Raises `Refused` when the contract refuses, before or in the block."""


PLAIN_GAS = 21_000
"""What moving ether between accounts takes."""
LAST_RESERVED = 0xFFFF
"""The chain's built-in contracts, the zero address and its like are up to here."""
UNKNOWN_TIME = 2**40 - 1
"""Later than anything on chain: nobody can tell when."""


@dataclass(frozen=True)
class Claim:
    """One payout of a settled batch with its Merkle proof."""

    batch: BatchId
    index: int
    payout: Payout
    proof: tuple[Digest, ...]


def claim_of(batch: BatchId, payouts: Sequence[Payout], index: int) -> Claim:
    """The claim of payout `index`; `payouts` are all of the batch's, in the order of its record."""
    return Claim(batch, index, payouts[index], tuple(payout_proof(batch, payouts, index)))


def cause_final_at(chain: "ChainClient", payout: Payout) -> int | None:
    """From when (Unix seconds) the fault is final that a payout rests on: 0 for what its batch itself pays, None for a
    fault whose settlement was voided since, `UNKNOWN_TIME` while a challenge is open."""
    if payout.cause is None:
        return 0
    batch = chain.batch(payout.cause.batch)
    if not batch.settled_at or batch.attempt != payout.cause.attempt:
        return None
    return UNKNOWN_TIME if batch.open_challenges else batch.claimable_at


def claim_row(claim: Claim, bound: Digest) -> tuple[Any, ...]:
    """The claim as the contract's struct; `bound` is the `bound_hash` of the batch's header."""
    payout = claim.payout
    return (
        claim.batch,
        claim.index,
        payout.operator,
        payout.amount,
        payout.valid,
        payout.audits,
        cause_word(payout),
        bound,
        claim.proof,
    )


def header_row(header: Header) -> tuple[Any, ...]:
    """The header as the contract's struct."""
    words = line_words(header), paid_words(header)
    return (header.root, header.size, header.members, *words, header.seed, header.payout_root)


def terms_row(terms: JobTerms) -> tuple[Any, ...]:
    """The terms as the contract's struct."""
    return (
        terms.manifest,
        terms.reward,
        terms.audit_fee,
        terms.verifier_fee,
        terms.units,
        terms.deadline,
        terms.auditors_per_segment,
        terms.segments_per_audit,
        terms.workload,
        terms.verifier or 0,
    )


def settlement_row(batch: BatchId, settlement: Settlement) -> tuple[Any, ...]:
    """The settlement as the contract's struct."""
    faults = [
        (fault.operator, fault.job, fault.task, fault.segment, int(fault.reason), list(fault.accusers))
        for fault in settlement.faults
    ]
    return (
        batch,
        payout_root(batch, settlement.payouts),
        len(settlement.payouts),
        settlement.total,
        settlement.audit_units,
        faults,
        share_words(settlement.shares),
        settlement.audit_root,
        cid_bytes(settlement.record),
    )


class ChainClient(HistoryReader):
    """Reads, and with a wallet also writes. After `patience` seconds without being mined, a transaction pays more.
    `first_block` is where the Registry's events begin; 0 looks for it. Raises `BlockAhead` for one that is not
    there."""

    def __init__(
        self,
        rpc_url: str,
        registry: Address,
        wallet: Wallet | None = None,
        *,
        patience: float = 30.0,
        first_block: int = 0,
        chain_id: int | None = None,
    ) -> None:
        super().__init__(rpc_url, registry, first_block=first_block, chain_id=chain_id)
        if first_block and first_block > (last := self.block_number()):
            raise BlockAhead(first_block, last)
        self.wallet = wallet
        self._sender: Sends | None = Sender(self._w3, rpc_url, wallet, patience=patience) if wallet else None

    def sending_by(self, sender: "Sends") -> Self:
        """The same client, whose transactions `sender` sends."""
        client = copy(self)
        client._sender = sender
        return client

    def finish_sending(self) -> None:
        """Follow what this wallet has on its way, from an earlier call or program, to its end. Raises
        `TransactionLost`."""
        if isinstance(self._sender, Sender):
            self._sender.finish()

    def left_behind(self) -> str:
        """What a call with this wallet that was cut off has sent, and what became of it, as a sentence; else empty."""
        return self._sender.left() if isinstance(self._sender, Sender) else ""

    # Money

    def require_balance(self, amount: Wei) -> None:
        """Raise `InsufficientBalance` unless the wallet has `amount` of the token."""
        address = self._signer().address
        have = self.token_balance(address)
        if have < amount:
            raise InsufficientBalance(address, have, amount, "CREDIT")

    def transfer(self, to: Address, amount: Wei, *, ether: bool = False) -> Digest:
        """Send tokens, or wei of the chain's own currency, and return the transaction's hash. The same call that was
        made before and cut off is found: nothing is paid again. Raises `NotARecipient`, `InsufficientBalance`."""
        found = self.transferred(to, amount, ether=ether)
        if found is not None:
            return found
        self.require_transferable(to, amount, ether=ether)
        target, data, value = self._transfer(to, amount, ether)
        return _hash_of(self._funds_sender().send("the transfer", target, data, value=value))

    def pay(self, to: Address, amount: Wei) -> None:
        """Send tokens for something that was done; for whoever sends each subject once (`sending_by`). Raises
        `NotARecipient`."""
        self.require_recipient(to)
        self._send("the pay of a relay", *self._transfer(to, amount, False)[:2])

    def payee(self, key: Address) -> Address:
        """Who gets what a hot key has earned: its owner; itself where it is nobody's."""
        return Address(self._read("payee", key))

    def transferred(self, to: Address, amount: Wei, *, ether: bool = False) -> Digest | None:
        """The hash of the same transfer that was made before and cut off; None where there was none."""
        found = self._funds_sender().resume(*self._transfer(to, amount, ether))
        return None if found is None else _hash_of(found)

    def require_transferable(self, to: Address, amount: Wei, *, ether: bool = False) -> None:
        """Raise what `transfer` would, sending nothing."""
        self.require_recipient(to)
        if not ether:
            self.require_balance(amount)
            return
        address = self._signer().address
        have, need = self.eth_balance(address), amount + PLAIN_GAS * self.gas_price()
        if have < need:
            raise InsufficientBalance(address, have, need, "ETH with its gas")

    def _transfer(self, to: Address, amount: Wei, ether: bool) -> tuple[Address, str, int]:
        """Where a transfer's transaction goes, its data and its value."""
        if ether:
            return to, "0x", int(amount)
        return self.token, str(self._token.encode_abi("transfer", [spelled(to), amount])), 0

    def _funds_sender(self) -> Sender:
        self._signer()
        assert isinstance(self._sender, Sender), "whoever sends for a verifier moves no funds"
        return self._sender

    def require_recipient(self, to: Address) -> None:
        """Raise `NotARecipient` for an address from which nothing comes back: one of the network's contracts, one that
        nobody has a key of, the sender itself."""
        known = {self.registry: "Registry contract", self.court: "Court contract", self.token: "token contract"}
        if to in known:
            raise NotARecipient(to, f"it is the network's {known[to]}, which would keep it (`node stake` stakes)")
        if int(to, 16) <= LAST_RESERVED:
            raise NotARecipient(to, "nobody has its key")
        if to == self._signer().address:
            raise NotARecipient(to, "it is the sender's own")

    def add_stake(self, amount: Wei) -> None:
        self._pay(amount, "addStake", amount)

    def ensure_stake(self, amount: Wei) -> None:
        """Add what the account that pays this wallet's bonds lacks of `amount`: the wallet's own, or where it is a hot
        key that of its owner. Only the wallet's own can be added to; raises `StakeTooLow` for another's."""
        payer = self.payer()
        have = self.account(payer).stake
        if have >= amount:
            return
        if payer != self._signer().address:
            raise StakeTooLow("StakeTooLow", {"owner": payer, "stake": have, "required": amount})
        self.add_stake(Wei(amount - have))

    def ensure_bond(self, bond: Wei) -> None:
        """Have so much stake that a bond can be taken from it: what a verifier needs for its seat, or holds open, is
        never bond."""
        params, account = self.params(), self.account(self.payer())
        self.ensure_stake(Wei(bond + params.bound(account, self.now())))

    def payer(self) -> Address:
        """Whose stake this wallet's bonds come from: its owner's where it is a hot key, else its own."""
        address = self._signer().address
        operator = self.operator_of(address)
        if operator is None:
            return address
        state = self.operator_state(operator)
        return state.owner if state.key == address else address

    def request_unstake(self, amount: Wei) -> None:
        """Start the release of stake that backs no listed operator; retire operators first."""
        self.transact("requestUnstake", amount)

    def withdraw(self) -> Wei:
        """Take out the stake whose release has come; returns how much it was."""
        return event_of(self.transact("withdraw"), Withdrawn).amount

    # Operators

    def register_node(self, node: Wallet, stake: Wei, workloads: int, endpoint: str = "") -> OperatorId:
        """Register the hot key `node` under this client's wallet as its owner, or list its retired one again."""
        consent = node.consent(self.domain, self._signer().address)
        receipt = self._pay(stake, "registerNode", node.address, stake, workloads, endpoint, consent)
        return event_of(receipt, OperatorRegistered).operator

    def register_verifier(self, verifier: Wallet, stake: Wei, endpoint: str = "") -> OperatorId:
        """Register the hot key `verifier`, and the BLS key derived from it, under this client's wallet."""
        owner = self._signer().address
        key, proof = verifier.prove_possession(self.domain, owner)
        consent = verifier.consent(self.domain, owner)
        receipt = self._pay(stake, "registerVerifier", verifier.address, stake, endpoint, consent, key, proof)
        return event_of(receipt, OperatorRegistered).operator

    def rotate_key(self, operator: OperatorId, key: Wallet) -> None:
        """Replace an operator's hot key, as its owner; reputation stays."""
        self.transact("rotateKey", operator, key.address, key.consent(self.domain, self._signer().address))

    def set_endpoint(self, operator: OperatorId, endpoint: str) -> None:
        """Say where an operator can be reached, as its owner or with its hot key. `endpoint` is host:port."""
        self.transact("setEndpoint", operator, endpoint)

    def retire(self, operator: OperatorId) -> None:
        self.transact("retire", operator)

    def join_bench(self, workloads: int) -> None:
        """Take the owner's place on the benches in the bitmap that its listed nodes offer and that it left long enough
        ago."""
        self.transact("joinBench", workloads)

    def attend(self) -> None:
        """Show that this verifier is there, so that its seat is not idle in this period."""
        self.transact("attend")

    def unseat_idle(self, slot: int) -> None:
        """Take an idle seat away."""
        self.transact("unseatIdle", slot)

    # Jobs

    def open_job(self, terms: JobTerms) -> JobId:
        """Open a job with its pay in escrow, in one transaction where the token has permits (EIP-2612)."""
        self.require_balance(terms.escrow)
        permit = self._permit(terms.escrow)
        if permit is None:
            self.approve(terms.escrow)
            receipt = self.transact("openJob", terms_row(terms))
        else:
            receipt = self.transact("openJobWithPermit", terms_row(terms), *permit)
        return event_of(receipt, JobOpened).job

    def gas_to_open(self, terms: JobTerms) -> int | None:
        """What opening a job takes in units of gas, as the endpoint reckons for this wallet now; None where it takes
        more than one transaction. Raises `Refused` where it could not be opened."""
        permit = self._permit(terms.escrow)
        if permit is None:
            return None
        call = self._contract.functions.openJobWithPermit(terms_row(terms), *permit)
        with mapped_errors(self.rpc_url):
            return int(call.estimate_gas({"from": Web3.to_checksum_address(self._signer().address)}))

    def top_up(self, job: JobId, amount: Wei, anchor: Anchor | None = None) -> None:
        """Add to a job's escrow; its terms stay."""
        self._pay(amount, "topUp", job, amount, self._anchored((job,), anchor), in_next_block=True)

    def close_job(self, job: JobId, anchor: Anchor | None = None) -> None:
        """End a job, as its requester. What is committed stays reserved. Nothing is sent for one that is closed or paid
        whole: it is over."""
        if not self.job(job).over:
            with suppress(JobIsClosed):
                self._of_jobs("closeJob", job, jobs=(job,), anchor=anchor)

    def refund(self, job: JobId) -> None:
        """Send the requester what is free of a job for which nothing can be committed any more; can be repeated."""
        self.transact("refund", job)

    def take_job(self, job: JobId, anchor: Anchor | None = None) -> None:
        """Become the job's verifier, where it has none or that one has not committed for too long."""
        self._of_jobs("takeJob", job, jobs=(job,), anchor=anchor)

    def take_jobs(self, jobs: Sequence[JobId], anchor: Anchor | None = None) -> frozenset[JobId]:
        """Become the verifier of those of at most 128 jobs that can be taken, in one transaction. Returns which those
        are, without what was the caller's before; `NothingTaken` where none is the caller's then."""
        events = decode_logs(self._of_jobs("takeJobs", list(jobs), jobs=jobs, anchor=anchor)["logs"])
        return frozenset(event.job for event in events if isinstance(event, JobTaken))

    # Batches

    def commit_batch(
        self,
        root: Digest,
        size: int,
        members: Digest,
        lines: Sequence[tuple[JobId, int]],
        anchor: Anchor | None = None,
    ) -> BatchId:
        """Commit to `size` commitments by their Merkle root. `members` is the sha2-256 digest in the CID of the member
        list, `lines` the work units of each job in it, which the batch has in ascending order of jobs."""
        rows = [line_word(job, units) for job, units in sorted(lines)]
        jobs = [job for job, _ in lines]
        receipt = self._of_jobs("commitBatch", root, size, members, rows, jobs=jobs, anchor=anchor)
        return event_of(receipt, BatchCommitted).batch

    def find_batch(self, root: Digest, *, since: int | None = None) -> BatchId | None:
        """The newest batch that this wallet's operator committed to `root` from block `since` on and that was not
        dropped, so that a verifier that crashed after sending does not send again."""
        operator = self.operator_of(self._signer().address)
        if operator is None:
            return None
        found = self.find_batches(root, operator, since=since)
        return next((event.batch for event in reversed(found) if not self.batch(event.batch).dropped), None)

    def draw(self, batch: BatchId) -> Drawn:
        """The batch's seed; fixes it on chain if nobody has. Raises `TooEarlyToDraw` before its block is there."""
        state = self.batch(batch)
        if state.settled_at or state.voided:
            return Drawn(self.header(batch).seed, state.commit_block + self.params().draw_delay)
        if not any(state.seed):
            self.transact("draw", batch)
            state = self.batch(batch)
        return Drawn(state.seed, state.commit_block + self.params().draw_delay)

    def recommit(self, batch: BatchId) -> None:
        """Move the draw of a batch to a new block, once the hash of its own is out of reach (`SeedLost`)."""
        self.transact("recommit", batch)

    def take_batch(self, batch: BatchId) -> None:
        """Become the leader of a batch that is overdue or voided."""
        self.transact("takeBatch", batch, header_row(self.header(batch)))

    def settle_batch(self, batch: BatchId, settlement: Settlement, signers: int, signature: BlsSignature) -> None:
        """Settle with the aggregate `signature` of the verifiers whose slots are in the bitmap `signers`."""
        header = header_row(self.header(batch))
        self.transact("settleBatch", settlement_row(batch, settlement), header, signers, signature_point(signature))

    def drop_batch(self, batch: BatchId) -> None:
        """Release the budget of a batch that nobody settled in time."""
        self.transact("dropBatch", batch, header_row(self.header(batch)))

    def finalize(self, batch: BatchId) -> None:
        """Pay the verifiers and distribute what the batch's faults froze, once its window has closed."""
        self.transact("finalize", batch)

    def claim(self, claims: Sequence[Claim]) -> None:
        """Pay out settled work to its owners, in one transaction; anybody may. What others have claimed meanwhile, or a
        challenge holds back, is passed over (`is_claimed` tells); `NothingClaimed` where nothing is left."""
        self.transact("claim", self.claim_rows(claims))

    def claim_rows(self, claims: Sequence[Claim]) -> list[tuple[Any, ...]]:
        """The claims as the contract's structs, with what the headers of their batches hold."""
        bounds = {batch: bound_hash(self.header(batch)) for batch in {claim.batch for claim in claims}}
        return [claim_row(claim, bounds[claim.batch]) for claim in claims]

    # Sending

    def _anchored(self, jobs: Sequence[JobId], anchor: Anchor | None) -> tuple[int, Digest]:
        """The contract's struct."""
        anchor = self.anchor(jobs) if anchor is None else anchor
        return anchor.number, anchor.hash

    def _signer(self) -> Wallet:
        if self.wallet is None:
            raise NoWallet
        return self.wallet

    def transact(self, function: str, *args: Any, in_next_block: bool = False) -> TxReceipt:
        """Call a function of the Registry by its Solidity name: for the typed calls here."""
        return self._send(function, self.registry, self._encoded(function, args), in_next_block=in_next_block)

    def _of_jobs(self, function: str, *args: Any, jobs: Sequence[JobId], anchor: Anchor | None) -> TxReceipt:
        """The same for what names jobs by their numbers: these are meant as they are on the chain of `anchor`, whose
        hash a contract can read from the next block on; without one, on the chain as it is now."""
        return self.transact(function, *args, self._anchored(jobs, anchor), in_next_block=True)

    def _pay(self, amount: Wei, function: str, *args: Any, in_next_block: bool = False) -> TxReceipt:
        """The same for a function that takes `amount` of the token. Nothing is paid again for a call that was cut off
        and came to its end."""
        if isinstance(self._sender, Sender):
            found = self._sender.resume(self.registry, self._encoded(function, args))
            if found is not None:
                return found
        self.approve(amount)
        return self.transact(function, *args, in_next_block=in_next_block)

    def _encoded(self, function: str, args: Sequence[Any]) -> str:
        return str(self._contract.encode_abi(function, list(map(spelled, args))))

    def transact_court(self, function: str, *args: Any, in_next_block: bool = False) -> TxReceipt:
        """Call a function of the Court by its Solidity name: for the typed calls of `chain.court`."""
        data = self._court.encode_abi(function, list(args))
        return self._send(function, self.court, data, in_next_block=in_next_block)

    def resume_court(self, function: str, *args: Any) -> TxReceipt | None:
        """What became of the same call of the Court, made before and cut off; None where there was none."""
        if not isinstance(self._sender, Sender):
            return None
        return self._sender.resume(self.court, self._court.encode_abi(function, list(args)))

    def _send(self, what: str, to: Address, data: str, *, in_next_block: bool = False) -> TxReceipt:
        if self._sender is None:
            raise NoWallet
        return self._sender.send(what, to, data, in_next_block=in_next_block)

    def approve(self, amount: Wei) -> None:
        """Let the Registry take `amount`."""
        self.require_balance(amount)
        allowance = self._call(self._token, "allowance", self._signer().address, self.registry)
        if allowance < amount:
            self._send("the approval", self.token, self._token.encode_abi("approve", [self.registry, amount]))

    def _permit(self, amount: Wei) -> tuple[int, int, bytes, bytes] | None:
        """Deadline, v, r, s of a permit for `amount`, or None where the token has none."""
        wallet = self._signer()
        try:
            separator = self._call(self._token, "DOMAIN_SEPARATOR")
            nonce = self._call(self._token, "nonces", wallet.address)
        except ChainError as error:
            if error.exit_code == 3:
                raise
            return None
        deadline = self.next_time() + PERMIT_S
        kinds = ["bytes32", "address", "address", "uint256", "uint256", "uint256"]
        struct = keccak(abi_encode(kinds, [_PERMIT_TYPEHASH, wallet.address, self.registry, amount, nonce, deadline]))
        signature = wallet.sign_digest(keccak(b"\x19\x01" + separator + struct))
        return deadline, signature[64], signature[:32], signature[32:64]


def _hash_of(receipt: TxReceipt) -> Digest:
    return Digest(bytes(receipt["transactionHash"]))


def event_of(receipt: TxReceipt, kind: type[E]) -> E:
    """The transaction's own event of this kind."""
    return next(event for event in decode_logs(receipt["logs"]) if isinstance(event, kind))
