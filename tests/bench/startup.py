"""`make bench WHAT=startup`: the processor time of importing the client and starting the program.

The result is the best of many runs, so a busy machine changes it little.
"""

import argparse
import resource
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(sys.executable).parent / "keylatch"
WAYS = {
    "python -c pass": [sys.executable, "-I", "-c", "pass"],
    "import keylatch": [sys.executable, "-I", "-c", "import keylatch"],
    "keylatch --help": [str(PROGRAM), "--help"],
}


def seconds(command: list[str]) -> float:
    """The processor time of one run."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    runs = parser.parse_args().runs
    for name, command in WAYS.items():
        best = min(seconds(command) for _ in range(runs))
        print(f"{name:<16} {best * 1000:4.0f} ms, the best of {runs}")


if __name__ == "__main__":
    main()
