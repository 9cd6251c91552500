"""Runs the TypeScript compiler on the examples and on the tests of the types."""

import subprocess
from pathlib import Path

from stack.tools import ROOT, typescript

EXAMPLES = ROOT / "supabase" / "examples"


def compile_project(project: Path, target: Path | None = None) -> str:
    """Check the types of a project, and write its JavaScript if `target` is given.

    Args:
        project: The directory of the project's tsconfig.json.
        target: The directory for the JavaScript, in the same folders as below `supabase`.

    Returns:
        The compiler's errors; an empty text if there are none.
    """
    output = ["--noEmit"] if target is None else ["--outDir", str(target)]
    result = subprocess.run(
        [typescript(), "--project", project, *output], capture_output=True, text=True, check=False
    )
    return result.stdout if result.returncode else ""
