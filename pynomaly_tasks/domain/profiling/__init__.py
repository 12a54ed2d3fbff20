"""What a table holds: a profile of each column, and how the columns go together."""

from pynomaly_tasks.domain.profiling.profile import ProfileOptions, build_profile
from pynomaly_tasks.domain.profiling.table import ProfiledColumn, Table

__all__ = ["ProfileOptions", "ProfiledColumn", "Table", "build_profile"]
