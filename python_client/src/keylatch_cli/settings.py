"""What the environment says, and a `.env` in the current directory."""

from __future__ import annotations

import os
import re
from pathlib import Path

# NAME=VALUE, quoted or not, with or without an "export" before and a comment after it.
_DOTENV_LINE = re.compile(r"""(?:export\s+)?(\w+)\s*=\s*(?:"([^"]*)"|'([^']*)'|(.*?))(?:\s+#.*)?""")


def setting(name: str) -> str | None:
    """Give a variable of the environment, else of `.env` in the current directory.

    Args:
        name: The variable.

    Returns:
        Its value, or `None` where it is not set or empty.
    """
    return os.environ.get(name) or dotenv().get(name) or None


def dotenv() -> dict[str, str]:
    """Read `.env` of the current directory.

    Returns:
        Its variables; none where there is no such file.
    """
    try:
        text = Path(".env").read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return {}
    lines = (_DOTENV_LINE.fullmatch(line.strip()) for line in text.splitlines())
    return {line[1]: line[2] or line[3] or line[4] or "" for line in lines if line}
