"""A job on the network, for whoever has its number: waiting, watching, its result and its figures.

`JobHandle` is for callers without an event loop, `AsyncJobHandle` for those with one; both ask a client.
"""

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proofyard.protocol.messages import JobReport, LogLine
from proofyard.protocol.types import JobId

if TYPE_CHECKING:
    from proofyard.sdk.client import Client
    from proofyard.sdk.core import AsyncClient
    from proofyard.sdk.events import JobEvent
    from proofyard.sdk.results import Proven
    from proofyard.sdk.rounds import SettledRounds

OnEvent = Callable[[LogLine], object]


@dataclass(frozen=True)
class AsyncJobHandle:
    """A job on the network. The handle holds nothing but its number: `client.job(id)` makes another one. `found`: the
    call that gave it has opened the job before, and paid nothing. Its members are those of `JobHandle`."""

    client: "AsyncClient"
    job_id: JobId
    found: bool = False

    async def status(self, since: int = 0) -> JobReport:
        return await self.client.report(self.job_id, since)

    async def wait(self, timeout: float | None = None, on_event: OnEvent | None = None) -> JobReport:
        """Until the job is done: see `JobHandle.wait`."""
        report: JobReport | None = None
        async with aclosing(self.client.follow(self.job_id, timeout)) as looks:
            async for look in looks:
                report = look.report
                for line in look.fresh if on_event is not None else ():
                    on_event(line)  # type: ignore[misc]
        return await self._outcome(report)

    async def progress(self, timeout: float | None = None) -> "AsyncGenerator[JobEvent, None]":
        """What happens, from the job's beginning to its end, as typed events (`proofyard.sdk.events`). Raises
        `JobTimeout`; a job that fails ends with an `EndEvent`."""
        from proofyard.sdk.events import Journal

        journal = Journal()
        async with aclosing(self.client.follow(self.job_id, timeout)) as looks:
            async for look in looks:
                for line in look.fresh:
                    yield journal.take(look.report, line)

    async def watch(self, timeout: float | None = None) -> JobReport:
        """Like `wait`, and shows what happens: see `JobHandle.watch`."""
        from proofyard.sdk.watching import shown

        report: JobReport | None = None
        with shown(self.job_id) as show:
            async with aclosing(self.client.follow(self.job_id, timeout)) as looks:
                async for look in looks:
                    report = look.report
                    show(look)
        return await self._outcome(report)

    async def log(self) -> list[LogLine]:
        """All that its verifier says has happened so far, at most `Limits.log_lines`."""
        from proofyard.sdk.metrics import all_lines

        return await all_lines(self.status, self.client.limits.log_lines)

    async def metrics(self) -> Any:
        """Its steps as a DataFrame: see `JobHandle.metrics`."""
        from proofyard.sdk.metrics import frame_of

        return frame_of(await self.log())

    async def plot(self) -> Any:
        """Its losses as a figure: see `JobHandle.plot`."""
        from proofyard.sdk.metrics import figure_of

        return figure_of(await self.log(), f"job {self.job_id}")

    async def close(self) -> int:
        """End the job and take back what is free of its money: see `JobHandle.close`."""
        return await self.client.end(self.job_id)

    async def prove(self) -> "Proven":
        return await self.client.prove(self.job_id)

    async def sent_bytes(self) -> tuple[int, ...]:
        """What its last tasks handed over: see `JobHandle.sent_bytes`."""
        return await self.client.sent_bytes(self.job_id)

    async def result(
        self,
        dest: Path | str,
        *,
        force: bool = False,
        model: Path | str | None = None,
        on_replace: Callable[[list[str]], object] = lambda _: None,
    ) -> Path:
        """Write the job's result, checked here: see `JobHandle.result`."""
        return await self.client.result(self.job_id, dest, force=force, model=model, on_replace=on_replace)

    async def rounds(self) -> "SettledRounds":
        """Its rounds that are settled whole: see `proofyard.sdk.rounds`."""
        return await self.client.rounds(self.job_id)

    async def round_result(
        self,
        number: int,
        dest: Path | str,
        *,
        force: bool = False,
        model: Path | str | None = None,
        on_replace: Callable[[list[str]], object] = lambda _: None,
    ) -> Path:
        """Write the adapter after a settled round: see `JobHandle.round_result`."""
        return await self.client.round_result(
            self.job_id, number, dest, force=force, model=model, on_replace=on_replace
        )

    async def _outcome(self, report: JobReport | None) -> JobReport:
        assert report is not None, "following ends with a report"
        if report.state == "failed":
            raise await self.client.failure(self.job_id, report.reason)
        return report


@dataclass(frozen=True)
class JobHandle:
    """A job on the network. The handle holds nothing but its number: `client.job(id)` makes another one, in another
    program too. `found`: the call that gave it has opened the job before, and paid nothing."""

    client: "Client"
    job_id: JobId
    found: bool = False

    def status(self, since: int = 0) -> JobReport:
        """How the job is doing now, with log lines after number `since`."""
        return self.client.report(self.job_id, since)

    def wait(self, timeout: float | None = None, on_event: OnEvent | None = None) -> JobReport:
        """Until the job is done. `timeout` in seconds; `on_event` gets every log line once, in order.

        Raises `JobFailed` with the network's reason, its kind `JobOver` at once where the job was closed or its time
        ran out, or `JobTimeout`; each leaves the job as it is.
        """
        report: JobReport | None = None
        for look in self.client.follow(self.job_id, timeout):
            report = look.report
            for line in look.fresh if on_event is not None else ():
                on_event(line)  # type: ignore[misc]
        return self._outcome(report)

    def progress(self, timeout: float | None = None) -> "Iterator[JobEvent]":
        """What happens, from the job's beginning to its end, as typed events (`proofyard.sdk.events`), each with how
        far the job is. Raises `JobTimeout`; a job that fails ends with an `EndEvent`."""
        from proofyard.sdk.events import Journal

        journal = Journal()
        for look in self.client.follow(self.job_id, timeout):
            for line in look.fresh:
                yield journal.take(look.report, line)

    def watch(self, timeout: float | None = None) -> JobReport:
        """Like `wait`, and shows what happens: a panel on a terminal, a few plain lines off it, both on stderr; in a
        notebook a table that changes."""
        from proofyard.sdk.watching import shown

        report: JobReport | None = None
        with shown(self.job_id) as show:
            for look in self.client.follow(self.job_id, timeout):
                report = look.report
                show(look)
        return self._outcome(report)

    def log(self) -> list[LogLine]:
        """All that its verifier says has happened so far, at most `Limits.log_lines`."""
        return self.client.log(self.job_id)

    def metrics(self) -> Any:
        """Its steps as a pandas DataFrame: `seconds` since it was opened, `task`, `node`, `step` within the task,
        `loss`, as its verifier heard them. Raises `PackageMissing` without pandas."""
        from proofyard.sdk.metrics import frame_of

        return frame_of(self.log())

    def plot(self) -> Any:
        """Its losses over time, a line for each task, as a matplotlib figure, which nothing has shown yet. Raises
        `PackageMissing` without matplotlib."""
        from proofyard.sdk.metrics import figure_of

        return figure_of(self.log(), f"job {self.job_id}")

    def close(self) -> int:
        """End the job and take back what is free of what it did not spend, and of what cheats lost in it.

        What is committed is still paid. Returns from when on (Unix seconds on the chain's clock) more can be had by
        calling this again, 0 where nothing is left: see `proofyard.sdk.refunds`.
        """
        return self.client.end(self.job_id)

    def prove(self) -> "Proven":
        """What is settled of a job that is done, checked against the chain; see `proofyard.sdk.results`.

        Raises `ResultUnproven` where that is not the whole job.
        """
        return self.client.prove(self.job_id)

    def sent_bytes(self) -> tuple[int, ...]:
        """The bytes of each task's result that the job's result is made of, as they were handed over: with
        `compression` a small part of an adapter. Fetched where they are not here. Raises as `prove` does."""
        return self.client.sent_bytes(self.job_id)

    def result(
        self,
        dest: Path | str,
        *,
        force: bool = False,
        model: Path | str | None = None,
        on_replace: Callable[[list[str]], object] = lambda _: None,
    ) -> Path:
        """Write the job's result to the directory `dest`, new or empty unless `force`, and return it. Raises
        `DestinationTaken`, and `NotFinished` before the job is done. `on_replace` gets the names of what is replaced.

        Nobody is believed: the settled batches on chain must hold every task of the job, with records that validate,
        and what the verifier reports must be the package that is made here of the accepted results; else
        `ResultUnproven`, and nothing is written. Until `prove().final_at` a batch can still be challenged.

        Where the job's verifier is away, what is settled is enough; `NoVerifier` where that is not the whole job yet.

        For `LoraJob` this is a PEFT adapter: `peft.AutoPeftModelForCausalLM.from_pretrained(dest)` loads it. It names
        the `model` that is given here, or that this wallet submitted the job with, and brings its tokenizer.
        """
        return self.client.result(self.job_id, dest, force=force, model=model, on_replace=on_replace)

    def rounds(self) -> "SettledRounds":
        """The rounds of a `lora` job that are settled whole, whether it is done or not: what each started from and came
        to (`proofyard.sdk.rounds`). Raises as `prove` does, and `JobRefused` for another kind of job."""
        return self.client.rounds(self.job_id)

    def round_result(
        self,
        number: int,
        dest: Path | str,
        *,
        force: bool = False,
        model: Path | str | None = None,
        on_replace: Callable[[list[str]], object] = lambda _: None,
    ) -> Path:
        """Write the adapter after round `number`, counted from 1, to the directory `dest`, as `result` writes the last
        one. The job need not be done: its settled records are enough. Raises as `rounds` does."""
        return self.client.round_result(self.job_id, number, dest, force=force, model=model, on_replace=on_replace)

    def _outcome(self, report: JobReport | None) -> JobReport:
        assert report is not None, "following ends with a report"
        if report.state == "failed":
            raise self.client.failure(self.job_id, report.reason)
        return report

    def _repr_html_(self) -> str:
        from proofyard.sdk.watching import html_of

        return html_of(self)
