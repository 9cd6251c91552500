"""The output of careless programs. Tests check that it contains no key."""

import io
import traceback

import rich.console
import rich.traceback


def rich_text(value: object) -> str:
    """Return the text that rich prints for a value."""
    console = rich.console.Console(file=io.StringIO(), width=200, force_terminal=True)
    console.print(value)
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue()


def everything_about(error: BaseException) -> str:
    """Return the output of a careless error reporter: the traceback with all local variables."""
    plain = "".join(
        traceback.TracebackException.from_exception(error, capture_locals=True).format()
    )
    assert error.__traceback__ is not None
    shown = rich.traceback.Traceback.from_exception(
        type(error), error, error.__traceback__, show_locals=True, locals_max_string=10_000
    )
    chain = [repr(error), str(error), repr(error.args), repr(vars(error))]
    return "\n".join([plain, rich_text(shown), *chain])
