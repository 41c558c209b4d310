"""Whom a round waited for, and what its time was made of: read from the records alone.

An optimal split of the band lets every client finish at the same time, up to rounding. Naming one
of them would then name a rounding error, so clients are distinguished only beyond a tolerance.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from airtune.federated.records.record import IN_TIME, LATE, SILENT, ClientRecord, RoundRecord
from airtune.report.view import STAGES, Records, stage_s

TOGETHER = 1e-3
"""Clients whose times differ by less than this share of the round's latency end together."""
OWN = ("broadcast_s", "compute_s", "upload_s", "download_s")
"""Stages in which a client itself is busy; in the others it waits for the server or for clients."""
IDLE = "waiting for silent clients"
NO_CLIENT = "waiting, no client can send"
"""A round without clients; its record has `idle_s`."""
WORTH_SAYING = 0.005
"""Stages that take a smaller share of the time than this are not named."""
STAGE_WORDS = {
    "compute": "computing",
    "forward": "forward pass",
    "activations": "sending of activations",
    "hidden": "receiving of hidden states",
    "head": "LM head",
    "hidden_gradient": "sending of their gradient",
    "gradient": "receiving of gradients",
    "backward": "backward pass",
    "adapter": "upload of the adapter",
}


def paced(records: Records) -> bool:
    """Whether these are server steps that are not synchronous rounds."""
    return any(record.in_flight is not None for record in records)


def _arrived(record: RoundRecord, names: Sequence[str]) -> str:
    """`client 2 (pixel-9), 3 steps old; 5 under way`, or how many updates arrived."""
    ages = [entry.staleness for entry in record.clients if entry.staleness is not None]
    one = names[record.clients[0].client] if len(record.clients) == 1 else ""
    who = one or f"{len(record.clients)} tasks"
    old = "" if not ages else f", {max(ages)} {'step' if max(ages) == 1 else 'steps'} old"
    return f"{who}{old if one or not ages else f', up to{old[1:]}'}; {record.in_flight} under way"


def last_clients(record: RoundRecord) -> list[ClientRecord]:
    """Entries of the clients that the round waited for; all of them where they end together.

    Late clients if there are any; silent ones where only the deadline ended the round; else those
    whose own stages, without waiting, took longest.
    """
    entries = record.clients
    late = [entry for entry in entries if entry.outcome == LATE]
    if late or not entries:
        return late
    margin_s = TOGETHER * record.latency_s
    if record.latency_s > max(map(stage_s, entries)) + margin_s:
        return [entry for entry in entries if entry.outcome == SILENT] or list(entries)
    own_s = [stage_s(entry, OWN) for entry in entries]
    return [e for e, spent in zip(entries, own_s, strict=True) if spent >= max(own_s) - margin_s]


def together(record: RoundRecord) -> bool:
    """Whether several clients took part and all of them ended together."""
    entries = record.clients
    in_time = all(entry.outcome == IN_TIME for entry in entries)
    return in_time and 1 < len(entries) == len(last_clients(record))


def stage_seconds(record: RoundRecord) -> dict[str, float]:
    """Seconds of a round by stage [words], as the mean over the clients that it waited for.

    A step that is no synchronous round waits for no client: its time is divided as that of the
    tasks that ended in it.
    """
    if record.idle_s is not None:
        return {NO_CLIENT: record.idle_s}
    if record.in_flight is not None:
        whole = sum(map(stage_s, record.clients)) or 1.0
        return {
            words: record.latency_s * sum(stage_s(one, [stage]) for one in record.clients) / whole
            for stage, words in STAGES.items()
        }
    last = last_clients(record)
    seconds = {
        words: sum(stage_s(entry, [stage]) for entry in last) / len(last)
        for stage, words in STAGES.items()
        if last
    }
    rest = record.latency_s - sum(seconds.values())
    if rest > TOGETHER * record.latency_s:
        seconds[IDLE] = rest
    return seconds


def time_shares(records: Records) -> dict[str, float]:
    """Shares of the time of all rounds by stage [words], the largest first."""
    total: dict[str, float] = {}
    for record in records:
        for words, spent in stage_seconds(record).items():
            total[words] = total.get(words, 0.0) + spent
    whole = sum(total.values())
    shares = {words: spent / whole for words, spent in total.items() if spent > 0}
    # Rounded first, so that rounding errors do not change the order of equal shares.
    return dict(sorted(shares.items(), key=lambda item: -round(item[1], 6)))


def ending(records: Records, devices: Sequence[str]) -> dict[str, Any]:
    """Summary fields: rounds that all ended together, the usual straggler of the others, shares.

    `straggler` is None where every round had its clients end together, or had one client.
    """
    if paced(records):
        return {"rounds_together": 0, "straggler": None, "time_shares": {}, **pace(records)}
    apart = [r for r in records if len(r.clients) > 1 and not together(r)]
    return {
        "rounds_together": sum(map(together, records)),
        "straggler": _straggler(apart, devices),
        "time_shares": time_shares(records),
    }


def pace(records: Records) -> dict[str, Any]:
    """Summary field `pace`: what became of the tasks of steps that are not synchronous rounds."""
    ended = [entry for record in records for entry in record.clients]
    ages = [entry.staleness for entry in ended if entry.outcome == IN_TIME]
    known = [age for age in ages if age is not None]
    errors = [entry.stale_error for entry in ended if entry.stale_error is not None]
    return {
        "pace": {
            "begun": sum(len(record.started or ()) for record in records),
            "applied": len(known),
            "dropped": sum(entry.outcome == LATE for entry in ended),
            "silent": sum(entry.outcome == SILENT for entry in ended),
            "in_flight": records[-1].in_flight or 0,
            "mean_staleness": sum(known) / len(known) if known else None,
            "most_staleness": max(known, default=None),
            "mean_stale_error": sum(errors) / len(errors) if errors else None,
        }
    }


def _pace_sentences(pace: Mapping[str, Any]) -> list[str]:
    lost = f", {pace['dropped']} were too old, {pace['silent']} were lost"
    told = [
        f"Of {pace['begun']} tasks begun, {pace['applied']} updates were merged{lost} and "
        f"{pace['in_flight']} are under way."
    ]
    if pace["mean_staleness"] is not None:
        told.append(
            f"An update was {pace['mean_staleness']:.1f} server steps old on average, "
            f"{pace['most_staleness']} at most."
        )
    if pace["mean_stale_error"] is not None:
        told.append(
            f"Applied to newer factors, a stale update moved the products by "
            f"{100 * pace['mean_stale_error']:.0f} % of its own size beside what it was trained "
            "for (mean)."
        )
    return told


def _straggler(records: Records, devices: Sequence[str]) -> dict[str, Any] | None:
    """Who was last most often, and in which stage it was furthest behind then."""
    counts = Counter(entry.client for record in records for entry in last_clients(record))
    if not counts:
        return None
    # Ties go to the lower number, so that the summary does not depend on dictionary order.
    client = min(counts, key=lambda c: (-counts[c], c))
    stages = Counter(r.straggler_stage or "" for r in records if r.straggler == client)
    stage = min(stages, key=lambda s: (-stages[s], s)) if stages else None
    return {
        "client": client,
        "name": f"client {client}",
        "device": devices[client],
        "rounds": counts[client],
        "stage": stage,
    }


def ending_sentences(summary: Mapping[str, Any]) -> list[str]:
    """Who held the rounds up, and what their time was made of."""
    if "pace" in summary:
        return _pace_sentences(summary["pace"])
    rounds, same, worst = summary["rounds"], summary["rounds_together"], summary["straggler"]
    told = []
    if same:
        told.append(f"All clients ended together in {same} of {rounds} rounds.")
    if worst:
        name = f"{worst['name']} ({worst['device']})"
        behind = stage_words(worst["stage"])
        more = f", furthest behind the others in its {behind}" if behind else ""
        told.append(
            f"{name[0].upper()}{name[1:]} was last in {worst['rounds']} of {rounds} rounds{more}."
        )
    shares = {k: v for k, v in summary["time_shares"].items() if v >= WORTH_SAYING}
    if shares:
        parts = [f"{100 * share:.0f} % {words}" for words, share in shares.items()]
        told.append(f"A round's time was {_listed(parts)}.")
    return told


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def stage_words(stage: str | None) -> str:
    """A stage of the records in words; nothing for none."""
    return STAGE_WORDS.get(stage, stage) if stage else ""


def waited_for(record: RoundRecord, names: Sequence[str]) -> str:
    """`client 2 (pixel-9), computing`, or that all ended together, and mostly in which stage."""
    if record.idle_s is not None:
        return "no client can send"
    if record.in_flight is not None:
        return _arrived(record, names)
    last = last_clients(record)
    if not last:
        return "-"
    spent = stage_seconds(record)
    stage = max(spent, key=lambda words: spent[words])
    mostly = f"{stage} {100 * spent[stage] / record.latency_s:.0f} %" if record.latency_s else stage
    if together(record):
        return f"all {len(last)} together, {mostly}"
    if len(last) > 1:
        return f"{len(last)} of {len(record.clients)} together, {mostly}"
    return f"{names[last[0].client]}, {mostly}"
