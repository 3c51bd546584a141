"""This command has moved."""

import sys

print("error: this command is now: python training/synthetic/checks.py", file=sys.stderr)
sys.exit(2)
