"""Parts that an experiment names, put in place of a method's own."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from airtune.federated.method import Method


def assembled(made: Method, parts: Mapping[str, Any]) -> Method:
    """The method with these parts, by name, in place of its own.

    A tuner or an aggregator that wraps another one stays around the part that replaces its inside
    (`replaced_by`), and a tuner that holds a codec gets the one that runs (`with_codec`).
    """
    put = {
        name: getattr(made, name).replaced_by(part) if name in ("tuner", "aggregator") else part
        for name, part in parts.items()
    }
    method = replace(made, **put)
    return replace(method, tuner=method.tuner.with_codec(method.codec))
