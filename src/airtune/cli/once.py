"""A command that takes each of its single-valued options once."""

from collections import Counter
from typing import Any

from click import Context, Option, UsageError
from typer.core import TyperCommand


class OnceCommand(TyperCommand):
    """Refuses an option that is given twice, of which the parser would drop the first value."""

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        order = self.make_parser(ctx).parse_args(args=list(args))[2]
        given: Counter[Any] = Counter(
            entry for entry in order
            if isinstance(entry, Option) and not entry.multiple and not entry.is_flag
        )  # fmt: skip
        for option, times in given.items():
            if times > 1:
                raise UsageError(f"{option.opts[0]} is given {times} times, but counts once", ctx)
        return super().parse_args(ctx, args)
