"""What can go wrong for a requester.

SdkError
├── JobRefused        the job cannot run as it stands; names the field
├── BadSetting        a setting is missing, unknown or does not fit; `field` names it
├── BadAmount         an amount of CREDIT that is none
├── ClientClosed      the client was closed before
├── SubmitUncertain   the end of the transaction that opens a job was not seen: the same call again finds it
├── NoVerifier        no active verifier can be reached
├── JobNotPublished   a job is open and no verifier has what it works on
├── JobFailed         the network gave the job up, with its reason
│   └── JobOver       it will not be done: closed, cancelled, refunded, or out of time
├── BadPeer           an address of a peer that is none
├── JobTimeout        not done within the time the caller allowed; the job goes on
├── DestinationTaken  a result would be written over what is there
├── NotPushed         a hub refuses a result, which is on this machine
├── NotFinished       asked for the result of a job that is still running
├── RecordMismatch    a batch's record is not what the chain settled
├── PackageMissing    a package that is optional is needed for this
├── LibraryFailed     a library raised what nobody expected; `package` names it
├── MachineRefused    the operating system refuses: a disk is full, a file is not to be read
├── LineageFalse      a document of where an adapter comes from says what chain and artifacts do not
└── ResultUnproven    a verifier's result does not follow from what was settled
    └── ResultIncomplete  not all of the job is settled
"""

from collections.abc import Sequence
from pathlib import Path

from proofyard.protocol.types import BatchId, Cid, ExitCode, JobId, ProofyardError, TaskIndex
from proofyard.runtime.plain import plain

MOST_FALSE = 20
"""Fields of a document that an error names."""


class SdkError(ProofyardError):
    """Base of this package's own errors; those of chain, transport, artifacts and disputes pass through as they are:
    `ProofyardError` is the base of all."""


class JobRefused(SdkError, ValueError):
    """In one line, whatever is in the names that it quotes."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(plain(message, keep=""))


class BadSetting(SdkError, ValueError):
    """A setting is missing, unknown, or has a value that does not fit. `field` is its name."""

    exit_code = 2

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class BadAmount(SdkError, ValueError):
    exit_code = 2


class ClientClosed(SdkError):
    def __init__(self) -> None:
        super().__init__("this client is closed; make a new one, the jobs are still there")


class BadPeer(SdkError, ValueError):
    exit_code = 2

    def __init__(self, text: str) -> None:
        self.text = text
        super().__init__(
            f"peer: {text[:300]!r} is no address; write HOST:PORT, such as 192.0.2.7:4433 or [2001:db8::1]:4433"
        )


class NoVerifier(SdkError):
    exit_code = 3


class JobNotPublished(SdkError):
    """`job` is open and paid for; its artifacts are with no verifier."""

    exit_code = 3

    def __init__(self, job: JobId, reason: str) -> None:
        self.job = job
        super().__init__(
            f"job {job} is open, but no verifier has what it works on: {reason}; "
            f"make the same call again, or get its pay back with `proofyard job cancel {job}`"
        )


class JobFailed(SdkError):
    """`back`: what of its money can be had back, and how."""

    def __init__(self, job: JobId, reason: str, back: str = "") -> None:
        self.job, self.reason, self.back = job, reason, back
        super().__init__(f"job {job} failed: {reason}; {back or f'see `proofyard job show {job}` for its money'}")


class JobOver(JobFailed):
    """`reason`: how it ended before it was done."""

    exit_code = ExitCode.JOB_OVER

    def __init__(self, job: JobId, reason: str, back: str = "") -> None:
        super().__init__(job, reason, back)
        self.args = (f"job {job} is over and will not be done: {reason}; {back or f'see `proofyard job show {job}`'}",)


class SubmitUncertain(SdkError):
    """A job may have been opened, or not: the transaction was sent and its end was not seen."""

    def __init__(self, cause: ProofyardError) -> None:
        self.exit_code = cause.exit_code
        super().__init__(
            f"{cause}; whether the job is open is not known: make the same call again, it finds the job if it is and "
            "pays once"
        )


class JobTimeout(SdkError, TimeoutError):
    def __init__(self, job: JobId, seconds: float, state: str) -> None:
        self.job, self.seconds, self.state = job, seconds, state
        super().__init__(f"job {job} is still {state} after {seconds:.0f} s; wait again with a longer timeout")


class DestinationTaken(SdkError):
    exit_code = 2

    def __init__(self, dest: Path, reason: str) -> None:
        self.dest, self.reason = dest, reason
        super().__init__(
            f"{dest} {reason}; name a new file or an empty folder, or let files be replaced with --force (force=True)"
        )


class NotPushed(SdkError):
    def __init__(self, repository: str, reason: str, step: str) -> None:
        self.repository, self.reason, self.step = repository, reason, step
        super().__init__(f"{repository} was not sent to the hub: {reason}; {step}")


class NotFinished(SdkError):
    def __init__(self, job: JobId, state: str) -> None:
        self.job, self.state = job, state
        super().__init__(f"job {job} is {state}, it has no result yet; call wait() first")


class RecordMismatch(SdkError):
    exit_code = 4

    def __init__(self, batch: BatchId, record: Cid) -> None:
        self.batch, self.record = batch, record
        super().__init__(
            f"the record {record} of batch {batch} does not have the payouts that the chain settled; "
            "challenge the batch while its window is open"
        )


class PackageMissing(SdkError):
    def __init__(self, what: str, package: str, otherwise: str) -> None:
        self.package = package
        super().__init__(f"{what} needs the package {package}: pip install {package}; {otherwise}")


class LibraryFailed(SdkError):
    """`package` raised `error`, which `__cause__` is where it cannot hold an address with an access key in it."""

    exit_code = 1

    def __init__(self, package: str, error: Exception, *, tells: bool) -> None:
        self.package = package
        text = f": {said}" if tells and (said := _said(error)) else ""
        super().__init__(
            f"the library {package} failed with {type(error).__name__}{text}; try again, and report it where it stays"
        )


class MachineRefused(SdkError):
    def __init__(self, error: OSError) -> None:
        where = f"{error.filename}: " if error.filename else ""
        super().__init__(
            f"{where}{error.strerror or error or type(error).__name__}; check the path, who may read and write there, "
            "and the space that is left"
        )


class ResultUnproven(SdkError):
    """A verifier says that a job is done, and what is settled on chain does not show it. `reason`: what does not
    match."""

    exit_code = 4

    def __init__(self, job: JobId, reason: str) -> None:
        self.job, self.reason = job, reason
        super().__init__(
            f"the result of job {job} is not proven: {reason}; the verifier that reported it is not to be believed, "
            f"ask again or look at its batches with `proofyard verifier dispute replay`"
        )


class ResultIncomplete(ResultUnproven):
    """A task of the job is accepted in no settled batch."""

    def __init__(self, job: JobId, task: TaskIndex) -> None:
        self.task = task
        super().__init__(job, f"task {task} is accepted in no settled batch")


class LineageFalse(SdkError):
    """`wrong`: (field, what the document says, what is so) of each false field."""

    exit_code = 4

    def __init__(self, job: str, wrong: Sequence[tuple[str, str, str]]) -> None:
        self.job, self.wrong = job, tuple(wrong)
        named = "; ".join(f"{field} is {said}, and not {true}" for field, said, true in self.wrong[:MOST_FALSE])
        more = len(self.wrong) - MOST_FALSE
        super().__init__(
            f"the lineage of job {job} is not what chain and artifacts say: {named}"
            + (f"; and {more} fields more" if more > 0 else "")
        )


def _said(error: Exception) -> str:
    """What an error says, on one line; some cannot say it."""
    try:
        return " ".join(str(error).split())[:300]
    except Exception:
        return ""
