"""What processes of one machine tell each other, with tensors as plain bytes.

torch would move every tensor that goes through a pipe to a file of shared memory of its own. A
client that keeps its optimiser carries hundreds of small ones, and then a round is spent on files.
"""

import io
import pickle
from multiprocessing.connection import Connection
from typing import Any, final

import torch
from torch import Tensor


@final
class _Pickler(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, Tensor):
            return NotImplemented
        flat = obj.detach().cpu().contiguous().reshape(-1)
        return _restored, (flat.view(torch.uint8).numpy().tobytes(), obj.dtype, tuple(obj.shape))


def _restored(content: bytes, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    if not content:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(content), dtype=dtype).reshape(shape)


def packed(message: Any) -> memoryview:
    """Anything that can be pickled, as bytes; tensors arrive as copies on the processor."""
    buffer = io.BytesIO()
    _Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(message)
    return buffer.getbuffer()


def send(connection: Connection, message: Any) -> None:
    """Send a message; waits until the other end has taken most of a long one."""
    connection.send_bytes(packed(message))


def receive(connection: Connection) -> Any:
    """What the other end sent; EOFError where it has gone."""
    return pickle.loads(connection.recv_bytes())
