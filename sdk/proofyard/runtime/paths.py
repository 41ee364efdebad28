"""What a file may be put in place of."""

import errno
import stat
from pathlib import Path


def require_replaceable(target: Path) -> None:
    """Raise `OSError` for a device, pipe or socket, or a link to one: a file that is renamed to its name would take
    /dev/null from everybody."""
    try:
        mode = target.stat().st_mode
    except OSError:
        return  # nothing is there, or whatever is wrong shows when it is written
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "there is a device, pipe or socket, which no file is put in place of", str(target))
