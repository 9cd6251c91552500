"""`python -m stack COMMAND`: the commands that the Makefile calls."""

import argparse
import sys
from pathlib import Path

from stack import checks, detached
from stack.supabase import CommandFailed
from stack.tools import MissingTool


def _run(arguments: argparse.Namespace) -> int:
    match arguments.command:
        case "up":
            print(detached.up(), end="")
        case "down":
            detached.down()
        case "status":
            env = detached.status()
            print(env if env is not None else "down\n", end="")
            return 0 if env is not None else 3  # as `systemctl status` returns
        case "hold":
            detached.hold()
        case "prove":
            return checks.prove(arguments.files, core_alone=arguments.core)
        case "lint":
            return checks.lint()
        case "contained":
            from stack.engine import contained  # takes half a second, only this command waits

            return contained(arguments.words)
    return 0


def main() -> int:
    """Run one command and return its exit code."""
    parser = argparse.ArgumentParser(prog="stack", description="The local stack of keylatch.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("up", help="start it and print how to reach it, in the form of a .env")
    commands.add_parser("down", help="end it")
    commands.add_parser("status", help="print how to reach it, or that it is down (exit code 3)")
    commands.add_parser("hold", help="be the process that holds it; `up` starts this")
    files = commands.add_parser("prove", help="run the pgTAP files on a stack of their own")
    files.add_argument("files", nargs="*", type=Path, help="only these")
    files.add_argument("--core", action="store_true", help="on a database with the core alone")
    commands.add_parser("lint", help="run the Supabase CLI's linters on a stack of their own")
    words = commands.add_parser("contained", help="run a command on PostgreSQL in containers")
    words.add_argument("words", nargs=argparse.REMAINDER, help="the command")
    try:
        return _run(parser.parse_args())
    except (CommandFailed, MissingTool) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
