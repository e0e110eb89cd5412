"""The neutral code that an error at the hospital becomes: all that a coordinator learns of it."""

import errno
import sqlite3
from collections.abc import Mapping

from client.extractor import out_of_memory
from common.errors import ConfigError, DataError, RefusalCode, WeightsError

_CODES: Mapping[type[BaseException], RefusalCode] = {
    DataError: RefusalCode.DATA_PROBLEM,
    WeightsError: RefusalCode.WEIGHTS_PROBLEM,
    ConfigError: RefusalCode.BAD_REQUEST,
    MemoryError: RefusalCode.OUT_OF_MEMORY,
}


def code_of(error: Exception) -> RefusalCode:
    """The code of an error that is no `Refusal`."""
    if out_of_memory(error):
        return RefusalCode.OUT_OF_MEMORY
    if _disk_full(error) or _disk_full(error.__cause__):
        return RefusalCode.DISK_FULL
    return next((code for kind, code in _CODES.items() if isinstance(error, kind)), RefusalCode.INTERNAL)


def _disk_full(error: BaseException | None) -> bool:
    return (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)) or (
        isinstance(error, sqlite3.OperationalError) and "full" in str(error)
    )
