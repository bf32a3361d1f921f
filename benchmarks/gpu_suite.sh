#!/usr/bin/env bash
# Everything that needs a GPU, in order of worth, by PYTHON (default: python3): gpu_suite.py says what and how.
#
#   CIFARLAB_DATA=/path/to/cifar-100 bash benchmarks/gpu_suite.sh
#   bash benchmarks/gpu_suite.sh --help
#
# Beside torch, torchvision and timm it needs, from --wheels where they are missing: pydantic, typer, rich, PyYAML, Pillow,
# numpy, scipy, tensorboard, safetensors, filelock, platformdirs, jinja2, matplotlib; for some steps pytest, pytest-timeout,
# hypothesis, opencv-python-headless and pytorch-lightning; with what these need.
exec "${PYTHON:-python3}" "$(dirname "$0")/gpu_suite.py" "$@"
