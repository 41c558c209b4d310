"""Commands with complete help, which take each single-valued option once."""

from collections import Counter
from typing import Any

from click import Argument, Command, Context, HelpFormatter, Option, UsageError
from typer.core import TyperCommand, TyperGroup
from typer.models import ArgumentInfo
from typer.utils import get_params_from_function


class OnceCommand(TyperCommand):
    """Refuses an option that is given twice, of which the parser would drop the first value."""

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        order = self.make_parser(ctx).parse_args(args=list(args))[2]
        given: Counter[Any] = Counter(
            entry
            for entry in order
            if isinstance(entry, Option) and not entry.multiple and not entry.is_flag
        )
        for option, times in given.items():
            if times > 1:
                raise UsageError(f"{option.opts[0]} is given {times} times, but counts once", ctx)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Context, formatter: HelpFormatter) -> None:
        _write_parameters(self, ctx, formatter)


class FullGroup(TyperGroup):
    """A group whose help shows the whole first sentence of each command."""

    def format_options(self, ctx: Context, formatter: HelpFormatter) -> None:
        _write_parameters(self, ctx, formatter)
        self.format_commands(ctx, formatter)

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, command.get_short_help_str(10_000)) for name, command in found if command]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _write_parameters(command: Command, ctx: Context, formatter: HelpFormatter) -> None:
    """Arguments and options; typer escapes their brackets even where nothing renders markup."""
    meanings = _meanings(command)
    sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is None:
            continue
        words = record[1].replace("\\[", "[")
        if isinstance(parameter, Argument):
            parts = filter(None, (meanings.get(str(parameter.name)), words))
            sections["Arguments"].append((record[0], "  ".join(parts)))
        else:
            sections["Options"].append((record[0], words))
    for title, rows in sections.items():
        if rows:
            with formatter.section(title):
                formatter.write_dl(rows)


def _meanings(command: Command) -> dict[str, str]:
    """What each argument is; click 8.5 clears it when typer makes an argument."""
    if command.callback is None:
        return {}
    found = get_params_from_function(command.callback)
    infos = {name: meta.default for name, meta in found.items()}
    return {
        name: info.help
        for name, info in infos.items()
        if isinstance(info, ArgumentInfo) and info.help
    }
