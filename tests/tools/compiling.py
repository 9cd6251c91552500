"""Runs the TypeScript compiler on the examples and on tests of the types."""

import subprocess
from pathlib import Path

from stack.tools import ROOT, typescript

EXAMPLES = ROOT / "supabase" / "examples"


def compile_project(project: Path, target: Path | None = None) -> str:
    """Check the types of a project, and write its JavaScript if told where.

    Args:
        project: The directory of its tsconfig.json.
        target: The directory for its folders as below `supabase`; nothing is written without it.

    Returns:
        What the compiler found; nothing if all is well.
    """
    output = ["--noEmit"] if target is None else ["--outDir", str(target)]
    result = subprocess.run(
        [typescript(), "--project", project, *output], capture_output=True, text=True, check=False
    )
    return result.stdout if result.returncode else ""
