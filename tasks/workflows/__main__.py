import sys

from ..commands import run_from

sys.exit(run_from("workflows", sys.argv[1:]))
