#!/usr/bin/env bash
# Everything that needs a GPU, in order of worth: the tests that are skipped without one, then speed, then accuracy.
#
#   CIFARLAB_DATA=/path/to/cifar-100 bash benchmarks/gpu_suite.sh
#
# From a checkout, without a network. Python needs torch, torchvision and timm; and pydantic, typer, rich, PyYAML, Pillow,
# numpy, scipy, tensorboard, jinja2, matplotlib, pytest, pytest-timeout, hypothesis, opencv-python-headless and
# albumentations (these two for compare_seed.py only). What is missing is installed from WHEELS, a folder of wheels.
#
#   OUT      where results go, a JSON file a step (default: benchmarks/results/gpu). A step whose file is there is done and
#            skipped; a step that was cut off goes on or starts over. So call it again until nothing is left.
#   LIMIT    seconds that a step may take (default: 500).
#   TOTAL    seconds after which no further step begins (default: no end).
#   ONLY     a pattern (of bash's =~): only the steps whose names it matches.
#   DRY=1    every step in a form of seconds, on whatever device there is: a rehearsal, whose figures mean nothing.
#   LIST=1   print the steps and stop.
#   TIMM_TRAIN  timm's train.py, for compare_timm.py.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
OUT=$(realpath -m "${OUT:-benchmarks/results/gpu}")
LIMIT=${LIMIT:-500}
export PYTHONPATH=$PWD/src${PYTHONPATH:+:$PYTHONPATH} OUT
graph=graph tiny=() short=()
if [ -n "${DRY:-}" ]; then
  python -c "import sys, torch; sys.exit(not torch.cuda.is_available())" || graph=eager
  tiny=(--tiny)
  short=("data.dataset={name: synthetic, train: 300, test: 100}" data.val=100 data.batch_size=50 data.image_size=32
         model.backbone=resnet18 model.init=null train.epochs=1)
fi
mkdir -p "$OUT"
if [ -n "${WHEELS:-}" ] && [ -z "${LIST:-}" ]; then
  # What the machine has stays as it is: a wheel only fills a gap.
  python -m pip install --quiet --no-index --find-links "$WHEELS" "$WHEELS"/*.whl > "$OUT/wheels.log" 2>&1 ||
    echo "some wheels were not installed: $OUT/wheels.log"
fi
done_steps=() failed=() left=()

# step NAME COMMAND...: run it, unless its JSON file is there. A command that writes no JSON of its own gets one that says
# how long it took and what it printed last.
step() {
  local name=$1 begun=$SECONDS status
  shift
  [[ $name =~ ${ONLY:-.} ]] || return 0
  if [ -n "${LIST:-}" ]; then echo "$name"; return 0; fi
  if [ -s "$OUT/$name.json" ]; then done_steps+=("$name"); return 0; fi
  if [ -n "${TOTAL:-}" ] && ((SECONDS > TOTAL)); then left+=("$name"); return 0; fi
  echo "== $name"
  timeout --signal=INT --kill-after=30 "$LIMIT" "$@" > "$OUT/$name.log" 2>&1
  status=$?
  tail -n 3 "$OUT/$name.log"
  if ((status)); then failed+=("$name ($status)"); rm -f "$OUT/$name.json"; return 0; fi
  [ -s "$OUT/$name.json" ] || python - "$name" $((SECONDS - begun)) <<'PYTHON'
import json, os, sys
from pathlib import Path
name, seconds = sys.argv[1:]
out = Path(os.environ["OUT"])
text = (out / f"{name}.log").read_text()
try:
    found = json.loads(text)
except ValueError:
    found = text.splitlines()[-30:]
(out / f"{name}.json").write_text(json.dumps({"step": name, "seconds": int(seconds), "printed": found}, indent=2) + "\n")
PYTHON
  done_steps+=("$name")
}

# benchmark NAME SCRIPT OPTIONS...: a script of this folder, which writes NAME.json.
benchmark() {
  local name=$1 script=$2
  shift 2
  step "$name" python "benchmarks/$script.py" --out "$OUT/$name.json" "${tiny[@]}" "$@"
}

# run NAME RECIPE OVERRIDES...: a training run, which goes on where it was cut off; its result is the run's summary.
run() {
  local name=$1 recipe=$2
  shift 2
  # shellcheck disable=SC2016  # The inner shell expands these.
  step "$name" bash -c 'python -m cifarlab train "$1" --name "$2" --runs "$OUT/runs" "${@:3}" &&
    cp "$OUT/runs/$2/0/summary.json" "$OUT/$2.json"' _ "$recipe" "$name" "${short[@]}" "$@"
}

# First: does the loop run on the device, and compute what the CPU computes, whichever engine runs it?
step gpu_tests python -m pytest -m gpu -p no:cacheprovider

# What a run costs, whole, engine by engine; evaluations and checkpoints included.
run resnet18_baseline_graph resnet18_baseline "train.engine=$graph"
for engine in eager compiled; do
  run "resnet18_baseline_$engine" resnet18_baseline "train.engine=$engine"
done
benchmark compare_seed_32 compare_seed --sizes 32 --engine "$graph"
benchmark compare_seed_224 compare_seed --sizes 224 --pictures 5000 --engine "$graph"
for recipe in resnet18_augment resnet18_baseline_lbsmooth resnet18_baseline_wd01 strong/resnet18_30_epochs; do
  run "${recipe//\//_}_graph" "$recipe" "train.engine=$graph"
done
run resnet18_224_three_epochs resnet18_baseline "train.engine=$graph" data.image_size=224 train.stop=3
run resnet18_224_three_epochs_compiled resnet18_baseline train.engine=compiled data.image_size=224 train.stop=3
step profile_graph python -m cifarlab profile resnet18_baseline "train.engine=$graph" --json "${short[@]}"
step profile_eager python -m cifarlab profile resnet18_baseline train.engine=eager --json "${short[@]}"

# Many seeds at once, beside one after the other.
for number in 1 8; do
  step "eight_seeds_${number}_at_once" python -m cifarlab train resnet18_baseline "train.engine=$graph" train.stop=50 \
    --name "eight_seeds_$number" --runs "$OUT/runs" --seeds 8 --at-once "$number" "${short[@]}"
done

# Time to an accuracy.
for recipe in cpu_70 cpu_75; do
  benchmark "speed_$recipe" speed --recipe "speed/$recipe" --device auto --seeds "${DRY:-30}" --override "train.engine=$graph"
done
if [ -n "${TIMM_TRAIN:-}" ]; then benchmark compare_timm compare_timm --timm-train "$TIMM_TRAIN"; fi
benchmark scaling scaling

# The tutorial's table and the ladder, whole: each call goes on where the one before was cut off.
if [ -z "${DRY:-}" ]; then
  step reproduce python -m cifarlab reproduce --budget whole --runs "$OUT/runs" --json
  step ladder python -m cifarlab ladder ladder/ --seeds 3 --runs "$OUT/runs" --json
fi

if [ -n "${LIST:-}" ]; then exit 0; fi
echo "done: ${done_steps[*]:-nothing}; failed: ${failed[*]:-nothing}; left: ${left[*]:-nothing}. Results: $OUT"
[ ${#failed[@]} -eq 0 ]
