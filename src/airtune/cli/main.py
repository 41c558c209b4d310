"""The `airtune` command: every subcommand imports what it needs when it runs, not before."""

import errno
import select
import sys
from io import TextIOWrapper
from typing import Annotated, Any, NoReturn, TextIO

import typer
from click import ClickException

from airtune import __version__
from airtune.cli.advise import advise
from airtune.cli.before import budget_search, channel, rank_search
from airtune.cli.check_part import check_part
from airtune.cli.cite import cite
from airtune.cli.command import FullGroup, OnceCommand
from airtune.cli.compare import compare
from airtune.cli.deploy import app as deploy_app
from airtune.cli.device import app as device_app
from airtune.cli.doctor import doctor
from airtune.cli.init import init
from airtune.cli.inspect import evaluate, export, generate, model_app, push
from airtune.cli.pareto import pareto
from airtune.cli.plan import plan
from airtune.cli.profile import profile
from airtune.cli.report import report
from airtune.cli.resume import resume
from airtune.cli.run import run
from airtune.cli.schema import schema
from airtune.cli.sweep import sweep
from airtune.cli.trace import app as trace_app
from airtune.cli.validate import validate
from airtune.cli.watch import watch
from airtune.errors import TRACEBACK_VARIABLE, AirtuneError, reason_of, redacted, traceback_text

UNEXPECTED = 70
"""Exit code of a fault of airtune's own (EX_SOFTWARE of sysexits.h)."""


def _has_no_reader(stream: TextIO) -> bool:
    """Whether a stream is a pipe whose other end has been closed."""
    try:
        asked = select.poll()
        asked.register(stream.fileno(), 0)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in asked.poll(0))
    except (OSError, ValueError, AttributeError):
        # No descriptor (a stream of a test), or a system without poll.
        return False


def _end_quietly() -> NoReturn:
    """The reader (`| head`) has closed the pipe, which is not an error."""
    sys.stderr.close()
    sys.exit(0)


class _Commands(FullGroup):
    """Separates a broken standard output from other broken pipes, which click does not."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except SystemExit as stop:
            # rich ends a program whose output pipe is closed, with code 1.
            if isinstance(stop.__context__, BrokenPipeError):
                _end_quietly()
            raise
        except BrokenPipeError as error:
            if _has_no_reader(sys.stdout):
                _end_quietly()
            raise AirtuneError(
                "another process that airtune spoke to has ended: run the command again; a run "
                "goes on with `airtune resume`."
            ) from error


app = typer.Typer(
    cls=_Commands,
    name="airtune",
    help="Plan, simulate and really run federated fine-tuning of language models over wireless "
    "links.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(cls=OnceCommand)(run)
app.command(cls=OnceCommand)(resume)
app.command(cls=OnceCommand)(compare)
app.command(cls=OnceCommand)(report)
app.command(cls=OnceCommand)(sweep)
app.command(cls=OnceCommand)(advise)
app.command(cls=OnceCommand)(watch)
app.command(cls=OnceCommand)(validate)
app.command(cls=OnceCommand)(init)
app.command(cls=OnceCommand)(plan)
app.command(cls=OnceCommand)(pareto)
app.command(cls=OnceCommand)(schema)
app.command("check-part", cls=OnceCommand)(check_part)
app.command("rank-search", cls=OnceCommand)(rank_search)
app.command("budget-search", cls=OnceCommand)(budget_search)
app.command(cls=OnceCommand)(profile)
app.command(cls=OnceCommand)(channel)
app.command("eval", cls=OnceCommand)(evaluate)
app.command(cls=OnceCommand)(generate)
app.command(cls=OnceCommand)(export)
app.command(cls=OnceCommand)(push)
app.command(cls=OnceCommand)(doctor)
app.command(cls=OnceCommand)(cite)
app.add_typer(device_app, name="device")
app.add_typer(deploy_app, name="deploy")
app.add_typer(model_app, name="model")
app.add_typer(trace_app, name="trace")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"airtune {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show version.")
    ] = False,
) -> None:
    """Options before the subcommand."""


def _refuse(error: ClickException) -> NoReturn:
    """A mistake in the command itself, as one sentence like every other."""
    sentence = error.format_message()
    if "\n" in sentence:
        # Without any argument, the message is the whole help.
        error.show()
    else:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "airtune"
        typer.echo(f"airtune: {sentence.rstrip('.')}: see `{command} --help`.", err=True)
    sys.exit(error.exit_code)


def _say(error: BaseException, sentence: str, exit_code: int) -> NoReturn:
    """One sentence, after the traceback where the environment requests it."""
    typer.echo(redacted(f"{traceback_text(error)}airtune: {sentence}"), err=True)
    sys.exit(exit_code)


def _unexpected(error: Exception) -> NoReturn:
    """Unexpected exceptions: one sentence, and an exit code of their own."""
    if isinstance(error, OSError) and error.filename is not None:
        _say(
            error,
            f"{error.filename} cannot be used ({error.strerror}): mend that, and run the "
            "command again.",
            AirtuneError.exit_code,
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
        _say(
            error,
            f"something cannot be written ({error.strerror}), the output of this command "
            "perhaps: free some space; a run goes on with `airtune resume`.",
            AirtuneError.exit_code,
        )
    # torch has no class of its own for this on a processor.
    if isinstance(error, MemoryError) or "allocate memory" in str(error):
        _say(
            error,
            "the memory of this machine does not suffice: make the model, the batch or the "
            "number of clients smaller.",
            AirtuneError.exit_code,
        )
    _say(
        error,
        f"unexpected {reason_of(error)}; this is a fault of airtune: please report it with "
        f"what {TRACEBACK_VARIABLE}=1 prints.",
        UNEXPECTED,
    )


def entry() -> None:
    """Run the command line: a sentence and an exit code, whatever happens."""
    if isinstance(sys.stdout, TextIOWrapper):
        # What the terminal's encoding lacks is shown by its number, as on the error stream.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        sys.exit(app(prog_name="airtune", standalone_mode=False))
    except ClickException as error:
        _refuse(error)
    except AirtuneError as error:
        _say(error, str(error), error.exit_code)
    except KeyboardInterrupt:
        typer.echo("airtune: interrupted.", err=True)
        sys.exit(130)
    except Exception as error:
        _unexpected(error)
