"""What starting ComfyUI with the pack costs."""

from __future__ import annotations

import subprocess
import sys


def test_nothing_heavy_is_imported_before_it_is_used():
    heavy = "{'diffusers', 'timm', 'kornia', 'controlnet_aux', 'transformers', 'anny', 'numba', 'scipy', 'cv2'}"
    code = f"import sys, reposedm_core; print(*sorted({heavy} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""
