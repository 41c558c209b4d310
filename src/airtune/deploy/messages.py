"""The messages between server and clients: heads with their types and limits.

client                                 server
join     who I am                 ->
                                  <-   job       what is trained, and digests of what both hold
ready    facts of my rows         ->
                                  <-   welcome
                                  <-   task      a round's work, with the broadcast
answer   the update, encoded      ->
                                  <-   taken
"""

from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

import airtune
from airtune.deploy.wire import Frame, Head, WireError
from airtune.errors import AirtuneError, DivergedError
from airtune.round_plan import ClientPlan

PROTOCOL = 1
JOIN, JOB, READY, WELCOME = "join", "job", "ready", "welcome"
TASK, ANSWER, TAKEN, PROBLEM, DONE, PROBE = "task", "answer", "taken", "problem", "done", "probe"
MOST_ROWS = 50_000_000
"""Rows that a client may report."""
LONGEST_SENTENCE = 4000

Count = Annotated[int, Field(ge=0, le=2**53)]
Positive = Annotated[float, Field(gt=0)]
Seconds = Annotated[float, Field(ge=0)]
Name = Annotated[str, Field(max_length=200)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{8,128}$")]


class Join(Head):
    """A client's first message. `process` is drawn when it starts, so that a second process with
    the same certificate is noticed."""

    protocol: int
    airtune: Name
    client: Count
    process: Digest


class Job(Head):
    """What a client needs to train: keys of the experiment, and what must be the same on both
    sides, each by a digest. `run` stays the same when the server starts again."""

    protocol: int = PROTOCOL
    airtune: Name
    run: Digest
    experiment: dict[str, Any]
    model: str
    format_name: Name
    separator: str
    digests: dict[str, str]
    limit_bytes: Count
    exact_lengths: bool
    calibrates: bool
    probes: bool = False


class DeviceFigures(Head):
    """A device as its client states it (`cost.device.DeviceProfile`)."""

    name: Name
    training_flop_rate: Positive
    memory_bytes: Annotated[int, Field(gt=0, le=2**60)]
    computing_power_w: Positive | None
    tx_power_dbm: Annotated[float, Field(ge=-100, le=100)]


class BatchMeans(Head):
    """Instead of the length of each row: the longest, and means over drawn batches."""

    longest: Annotated[int, Field(ge=2, le=1_000_000)]
    width: Positive
    real_tokens: Positive
    label_tokens: Positive


class Ready(Head):
    """The facts of a client. With exact lengths the parts `lengths` and `labels` are arrays of
    int32 [row]; otherwise `means` are given. `flop_rate` was measured on the deployed model."""

    run: Digest
    process: Digest
    rows: Annotated[int, Field(ge=1, le=MOST_ROWS)]
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    means: BatchMeans | None = None
    device: DeviceFigures | None = None
    flop_rate: Positive | None = None
    uplink_bps: Positive | None = None
    downlink_bps: Positive | None = None
    round_trip_s: Seconds | None = None


class Measuring(Head):
    """For `airtune validate` alone, where both sides are on one machine: the client stamps its
    messages with the machine's monotonic clock. `compute_s`: modelled seconds [step][part]; the
    client trains, then waits until they are over (None: it does not wait)."""

    compute_s: list[list[Seconds]] | None = None


class Task(Head):
    """One round's work; the part `broadcast` is the adapter as encoded.

    `carry_from`: the round whose state the client goes on from (None: it has none);
    `came_late`: its update of that round did not count. `pace_bps`: the planned rate.
    A client that is not started by `airtune validate` refuses a task with `measuring`.
    """

    run: Digest
    round_index: Count
    attempt: Count
    client: Count
    plan: dict[str, Any]
    is_split: bool = False
    carry_from: Count | None = None
    came_late: bool = False
    pace_bps: Positive | None = None
    measuring: Measuring | None = None


class Answer(Head):
    """A client's report; the part `payload` is its update as encoded. The seconds are measured
    on the client's monotonic clock: from the whole task to the whole answer, and of those the
    tuner's. `sent_s`: when it began to send, on that clock, where the task is measured."""

    run: Digest
    round_index: Count
    attempt: Count
    client: Count
    train_loss: float
    label_tokens: Count
    keeps: bool
    compute_s: Seconds
    tune_s: Seconds
    sent_s: float | None = None


class Resume(Head):
    """A round's place in a conversation: `received` messages have arrived on this side. `at_s`:
    when, on the client's monotonic clock, where the task is measured."""

    run: Digest
    round_index: Count
    attempt: Count
    received: Count = 0
    at_s: float | None = None


class Probe(Head):
    """A measurement of the link: so many bytes up or down, taken in so many seconds."""

    bytes: Annotated[int, Field(ge=1, le=1 << 24)]
    seconds: Seconds = 0.0


class Problem(Head):
    """Why a side cannot go on, as a sentence. `diverged`: the numbers of a round are not finite."""

    run: str = ""
    round_index: Count | None = None
    client: Count | None = None
    diverged: bool = False
    final: bool = True
    sentence: Annotated[str, Field(max_length=LONGEST_SENTENCE)]


class Taken(Head):
    """A message has arrived and counts."""

    sentence: str = ""


class Done(Head):
    """The run has ended."""

    sentence: str


def problem_with(task: Task, error: AirtuneError) -> Problem:
    """Why a task cannot be done."""
    return Problem(
        run=task.run,
        round_index=task.round_index,
        client=task.client,
        diverged=isinstance(error, DivergedError),
        sentence=str(error)[:LONGEST_SENTENCE],
    )


def introduction(client: int, process: str) -> Frame:
    """The first message of a client's process."""
    head = Join(protocol=PROTOCOL, airtune=airtune.__version__, client=client, process=process)
    return Frame.of(JOIN, head)


_PLANS: TypeAdapter[ClientPlan] = TypeAdapter(ClientPlan)


def plan_to_head(plan: ClientPlan) -> dict[str, Any]:
    """A plan as plain values."""
    head: dict[str, Any] = _PLANS.dump_python(plan, mode="json")
    return head


def plan_of(head: dict[str, Any]) -> ClientPlan:
    """The plan of plain values; WireError for anything else."""
    try:
        return _PLANS.validate_python(head)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise WireError(f"The plan in a task is malformed at {place}: {first['msg']}.") from None
