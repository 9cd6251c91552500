"""The local stack: the servers of a Supabase project, on this machine.

The demo, the tests and the benchmarks use this package. PostgreSQL can run in a container. All
servers listen on free loopback ports. They end with the program that started them, even if that
program is killed.
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
