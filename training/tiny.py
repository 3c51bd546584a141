"""This command has moved."""

import sys

print("error: this command is now: python training/train_tiny.py", file=sys.stderr)
sys.exit(2)
