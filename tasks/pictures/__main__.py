import sys

from ..commands import run_from

sys.exit(run_from("pictures", sys.argv[1:]))
