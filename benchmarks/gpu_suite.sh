#!/usr/bin/env bash
# Everything that needs a GPU, in order of worth, by PYTHON (default: python3): gpu_suite.py says what and how.
#
#   CIFARLAB_DATA=/path/to/cifar-100 bash benchmarks/gpu_suite.sh
#   bash benchmarks/gpu_suite.sh --help
exec "${PYTHON:-python3}" "$(dirname "$0")/gpu_suite.py" "$@"
