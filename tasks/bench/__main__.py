import sys

from ..commands import run_from

sys.exit(run_from("bench", sys.argv[1:]))
