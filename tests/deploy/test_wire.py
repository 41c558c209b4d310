"""Frames: whatever the cuts, the same frame; whatever else comes, one clear refusal."""

import json
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airtune.deploy.messages import Join, Task, plan_of, plan_to_head
from airtune.deploy.wire import CHUNK, LONGEST_HEAD, Frame, FrameReader, WireError, read_frame
from airtune.round_plan import ClientPlan, SubchannelShare

LIMITS = {"a": 200_000, "b": 200_000}
FRAMES = st.builds(
    Frame,
    st.sampled_from(["task", "answer"]),
    st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=9), max_size=3),
    st.dictionaries(st.sampled_from(sorted(LIMITS)), st.binary(max_size=300), max_size=2),
)


@given(st.lists(FRAMES, max_size=4), st.integers(1, 70))
def test_frames_survive_any_cuts(sent: list[Frame], size: int) -> None:
    data = b"".join(frame.encode() for frame in sent)
    reader = FrameReader(LIMITS)
    read: list[Frame] = []
    for start in range(0, len(data), size):
        read += reader.feed(data[start : start + size])
    assert read == sent
    assert reader.is_between


def test_long_parts_travel_in_pieces() -> None:
    frame = Frame("task", {}, {"a": bytes(3 * CHUNK)})
    pieces = list(frame.chunks())
    assert max(map(len, pieces)) == CHUNK
    assert read_frame(pieces, LIMITS) == frame


@settings(max_examples=1000)
@given(st.binary(max_size=200) | FRAMES.map(Frame.encode), st.data())
def test_no_bytes_do_anything_but_a_refusal(data: bytes, draw: st.DataObject) -> None:
    """Random bytes, and frames with some of their bytes replaced."""
    broken = bytearray(data)
    for _ in range(draw.draw(st.integers(0, 5))):
        if broken:
            broken[draw.draw(st.integers(0, len(broken) - 1))] = draw.draw(st.integers(0, 255))
    refusal = ""
    try:
        frame = read_frame([bytes(broken)], LIMITS)
    except WireError as error:
        refusal = str(error)
    else:
        assert set(frame.parts) <= set(LIMITS)
    assert "\n" not in refusal
    assert len(refusal) < 300


@pytest.mark.parametrize(
    ("head", "problem"),
    [
        ({"kind": "task", "parts": [["a", 200_001]], "head": {}}, "200001 bytes; at most 200000"),
        ({"kind": "task", "parts": [["a", -1]], "head": {}}, "-1 bytes"),
        ({"kind": "task", "parts": [["a", True]], "head": {}}, "True bytes"),
        ({"kind": "task", "parts": [["a", 1], ["a", 1]], "head": {}}, "not known here"),
        ({"kind": "task", "parts": [["../a", 1]], "head": {}}, "'../a', not known here"),
        ({"kind": 3, "parts": [], "head": {}}, "not of this protocol"),
        ({"kind": "x" * 41, "parts": [], "head": {}}, "not of this protocol"),
        ({"kind": "task", "parts": [], "head": []}, "not of this protocol"),
        ({"parts": [], "head": {}}, "not of this protocol"),
        ([], "not of this protocol"),
    ],
)
def test_what_a_head_may_not_say(head: object, problem: str) -> None:
    text = json.dumps(head).encode()
    with pytest.raises(WireError, match=problem):
        read_frame([struct.pack(">I", len(text)) + text], LIMITS)


def test_a_long_head_is_refused_before_it_is_held() -> None:
    with pytest.raises(WireError, match="a head of"):
        read_frame([struct.pack(">I", LONGEST_HEAD + 1)], LIMITS)
    with pytest.raises(WireError, match="The head of"):
        Frame("task", {"x": "y" * LONGEST_HEAD}).encode()


def test_cut_short_or_followed_by_more() -> None:
    data = Frame("task", {}, {"a": b"123"}).encode()
    for pieces in ([data[:-1]], [data, b"\0"], [data, data], []):
        with pytest.raises(WireError, match="cut short, or more"):
            read_frame(pieces, LIMITS)


def test_heads_are_checked() -> None:
    frame = Frame("join", {"protocol": 1, "airtune": "1", "client": -1, "process": "ab" * 8})
    with pytest.raises(WireError, match="malformed at client"):
        frame.read("join", Join)
    with pytest.raises(WireError, match="'task' was expected, and 'join' came"):
        frame.read("task", Task)
    unknown = Frame("join", {**frame.head, "client": 0, "path": "/etc"})
    with pytest.raises(WireError, match="malformed at path"):
        unknown.read("join", Join)


def test_plans_travel_unchanged() -> None:
    share = SubchannelShare((1, 2), (1e-9, 2.5e-9))
    plan = ClientPlan(3, 1.1e6, 0.2, 8, 0.1, 0.25, 2, share, share, (1, 2, 3), 0.5)
    head = json.loads(json.dumps(plan_to_head(plan)))
    assert plan_of(head) == plan
    with pytest.raises(WireError, match="malformed at rank"):
        plan_of({**head, "rank": "many"})
