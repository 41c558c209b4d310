"""What airtune says when it cannot go on: one clear sentence, never a traceback."""


class AirtuneError(Exception):
    """A problem that the user can act on; the command line prints it and exits with `exit_code`.

    `details` is the traceback of foreign code that the sentence stands for, as text, since a cause
    does not survive the way out of a worker process.
    """

    exit_code = 2
    details = ""


class InputError(AirtuneError):
    """Bad input. Names the field, the value, what is allowed, and what to do.

    >>> str(InputError("cell.bandwidth_hz", -1.0, "a positive number", "give the band in hertz"))
    'cell.bandwidth_hz is -1.0, but it must be a positive number: give the band in hertz.'
    """

    def __init__(self, field: str, value: object, allowed: str, remedy: str = "") -> None:
        self.field, self.value, self.allowed, self.remedy = field, value, allowed, remedy
        # A value of several lines still makes one sentence.
        shown = " ".join(value.split("\n")) if isinstance(value, str) else repr(value)
        shown = shown if len(shown) <= 120 else shown[:117] + "..."
        advice = f": {remedy.rstrip('.')}" if remedy else ""
        super().__init__(f"{field} is {shown}, but it must be {allowed}{advice}.")

    def __reduce__(self) -> tuple[type, tuple[object, ...], dict[str, object]]:
        """Errors of worker processes are pickled on their way to the user."""
        return type(self), (self.field, self.value, self.allowed, self.remedy), self.__dict__


class InfeasibleError(AirtuneError):
    """Well formed input that no plan can satisfy; the sentence names the client or the limit."""

    exit_code = 3
