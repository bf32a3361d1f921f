"""Run `python WORDS` under NVIDIA's MPS, which lets kernels of several processes run at the same time.

    python benchmarks/with_mps.py -m cifarlab train resnet18_baseline --seeds 8 --at-once 8

The daemon is this command's own and ends with it; no setting of the GPU is changed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from typing import NoReturn

CONTROL = "nvidia-cuda-mps-control"


def main() -> NoReturn:
    control = shutil.which(CONTROL)
    if control is None:
        print(f"error: {CONTROL} is not installed; it comes with NVIDIA's driver", file=sys.stderr)
        sys.exit(2)
    folder = tempfile.mkdtemp(prefix="mps-")
    os.environ.update(CUDA_MPS_PIPE_DIRECTORY=folder, CUDA_MPS_LOG_DIRECTORY=folder)
    ours, theirs = os.pipe()
    if os.fork() == 0:
        _watch(control, folder, ours, theirs)
    os.close(ours)
    os.set_inheritable(theirs, True)
    # In this process's place: whoever stops it stops the command.
    subprocess.run([control, "-d"], check=True, stdin=subprocess.DEVNULL)
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])


def _watch(control: str, folder: str, ours: int, theirs: int) -> NoReturn:
    """End the daemon when nobody holds the pipe's other end any more, however the command ended."""
    os.close(theirs)
    os.setsid()  # What stops the command is not meant for this process.
    for stream in (0, 1, 2):
        os.dup2(os.open(os.devnull, os.O_RDWR), stream)
    os.read(ours, 1)
    subprocess.run([control], input="quit\n", text=True)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


if __name__ == "__main__":
    main()
