"""Run `python WORDS` under NVIDIA's MPS, which lets kernels of several processes run at the same time.

    python benchmarks/with_mps.py -m cifarlab train resnet18_baseline --seeds 8 --at-once 8

The daemon is this command's own and ends with it; no setting of the GPU is changed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile

CONTROL = "nvidia-cuda-mps-control"


def main() -> int:
    control = shutil.which(CONTROL)
    if control is None:
        print(f"error: {CONTROL} is not installed; it comes with NVIDIA's driver", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        places = {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        os.environ.update(places)
        subprocess.run([control, "-d"], check=True)
        try:
            # Whoever stops this command stops the other, which saves what it has.
            process = subprocess.Popen([sys.executable, *sys.argv[1:]])
            for asked in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(asked, lambda number, _: process.send_signal(number))
            return process.wait()
        finally:
            subprocess.run([control], input="quit\n", text=True, check=True)


if __name__ == "__main__":
    sys.exit(main())
