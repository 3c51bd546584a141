"""This command has moved."""

import sys

print("error: this command is now: python training/study_guidance.py", file=sys.stderr)
sys.exit(2)
