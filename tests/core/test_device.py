"""What the machine can do: memory that is freed is kept for the next tensors."""

import subprocess
import sys

import pytest

# Page faults of allocating and writing 40 MiB forty times, after the first few times. By itself glibc keeps
# blocks of at most 32 MiB.
SCRIPT = """
import platform, resource, sys, torch
from cifarlab.core.device import keep_freed_memory
took = keep_freed_memory() if sys.argv[1] == "kept" else True
for _ in range(5):
    torch.ones(10 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(40):
    torch.ones(10 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, took, platform.libc_ver()[0])
"""


def faults(how: str, **environment: str) -> tuple[int, bool, str]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=True, env=environment
    )
    count, took, libc = done.stdout.split(" ")
    return int(count), took == "True", libc.strip()


def test_freed_memory_is_not_faulted_in_again():
    kept, took, libc = faults("kept")
    if libc != "glibc":
        pytest.skip(f"the C library is {libc or 'unknown'}, not glibc: there is nothing to set")
    assert took
    given_back, *_ = faults("as it is")
    assert given_back > 40 * 1000  # 40 MiB are 10,240 pages of 4 KiB; huge pages fault less often.
    # Now and then a small block lands where a large one was, and the next large one needs new pages.
    assert kept < given_back / 4


def test_what_the_user_set_stays():
    kept, _, libc = faults("kept", MALLOC_MMAP_THRESHOLD_="131072")
    if libc != "glibc":
        pytest.skip(f"the C library is {libc or 'unknown'}, not glibc: there is nothing to set")
    assert kept > 40 * 1000
