import sys

from ..commands import run_from

sys.exit(run_from("small_model", sys.argv[1:]))
