"""The local stack: what a Supabase project runs, on this machine, and in containers if wanted.

The demo, the tests and the benchmarks share it. Everything listens on free loopback ports and is
gone when the program that started it is, however that ends.
"""

from stack.chosen import chosen_cluster
from stack.cluster import Cluster
from stack.database import Database
from stack.janitor import Janitor
from stack.local import Stack
from stack.modules import migrations, module_names
from stack.people import People
from stack.rest import Rest
from stack.server import Server
from stack.supabase import CommandFailed, push_migrations, run_supabase
from stack.tokens import Tokens
from stack.tools import MissingTool
from stack.waiting import HANG_SECONDS, notifications, until

__all__ = [
    "HANG_SECONDS",
    "Cluster",
    "CommandFailed",
    "Database",
    "Janitor",
    "MissingTool",
    "People",
    "Rest",
    "Server",
    "Stack",
    "Tokens",
    "chosen_cluster",
    "migrations",
    "module_names",
    "notifications",
    "push_migrations",
    "run_supabase",
    "until",
]
