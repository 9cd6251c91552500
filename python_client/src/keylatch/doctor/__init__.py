"""What `keylatch doctor` asks a live installation, for programs: `examine`."""

from .examination import examine
from .report import Finding, Level, Report, Site, Unchecked

__all__ = ["Finding", "Level", "Report", "Site", "Unchecked", "examine"]
