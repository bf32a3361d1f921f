"""The doctor finds each planted fault, by its own finding, and nothing in what is sound."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy

from cifarlab.config.recipes import read_recipe, recipe_names, resolve
from cifarlab.core.errors import ConfigError
from cifarlab.doctor import CHECKS, deep, diagnose, diagnosis, probe, warnings_before
from cifarlab.doctor import estimate as doctor_estimate
from cifarlab.doctor.check_registry import run_checks
from cifarlab.doctor.plan_facts import planned
from cifarlab.doctor.static import _from_uniform
from cifarlab.engine.step import Engine
from cifarlab.training.setup import prepare
from tests.settings import AS_RUN_ROWS, row
from tests.tiny import PARTS, TINY, tiny_config, train_tiny

FAULTY_PARTS = Path(__file__).with_name("faulty_parts.py")
IMPORTS = f"imports=[{PARTS}, {FAULTY_PARTS}]"
MARGIN = "model.head={name: margin, dim: 16, scale: 64}"
ARCFACE = "objective={cross_entropy: null, arcface: {margin: 0.2}}"
UNNORMALIZED = (
    "model.backbone={name: test_resnet, pretrained: true}",
    "data.image_size=64",
    "model.normalize=none",
)
# (finding, overrides of a sound recipe that plant its fault)
FAULTS = [
    ("no_shuffling", ["data.shuffle=false"]),
    ("frozen_views", ["data.freeze_views=true"]),
    ("lr_never_changes", ["optim.schedule=constant"]),
    ("lr_never_changes", ["optim.schedule={name: constant, warmup: 0.2}"]),
    ("lr_never_changes", ["optim.schedule={name: step, milestones: [0.999]}"]),
    ("lr_never_changes", ["optim.schedule={name: cosine, floor: 1}"]),
    ("chosen_on_test", ["train.select=test"]),
    ("other_normalization", UNNORMALIZED),
    ("decay_overwhelms", ["optim.weight_decay=300"]),
    ("decay_overwhelms", ["optim={name: sgd, lr: 0.1, weight_decay: 1}", "optim.schedule=cosine"]),
    ("margin_scale_low", [MARGIN, ARCFACE, "model.head.scale=8"]),
    ("smoothing_against_margin", [MARGIN, "objective={cross_entropy: {smoothing: 0.1}, arcface: {}}"]),
    (
        "teacher_near_uniform",
        ["objective.distill={temperature: 4}",
         "teacher={run: as_run/resnet50_pretrained_arcface_224x224, calibrate: false}"],
    ),
    ("average_keeps_the_start", ["train.average={name: ema, warmup: false}"]),
    ("nothing_to_learn", ["objective.cross_entropy.weight=0"]),
    ("no_effect", ["data.augment.cutout={p: 0}"]),
    ("no_effect", ["data.mix.mixup={p: 0}"]),
    ("no_effect", ["objective.second={name: cross_entropy, weight: 0}"]),
    ("no_effect", ["optim.decay_norms=true", "optim.weight_decay=0"]),
    ("no_effect", ["optim.schedule={name: cosine, warmup: 0.01}"]),
    ("no_effect", ["optim.lookahead={steps: 500}"]),
    ("no_effect", ["train.average=ema"]),
    ("no_effect", ["train.average={name: swa, start: 0.9}"]),
    ("no_effect", ["train.average=swa", "train.epochs=10", "train.stop=7"]),
    ("no_effect", ["optim.lookahead={steps: 20}", "train.epochs=10", "train.stop=2"]),
    ("no_effect", ["train.average={name: ema, decay: 0.95}", "train.epochs=10", "train.stop=2"]),
    ("average_keeps_the_start", ["train.average={name: ema, decay: 0.9, warmup: false}", "train.epochs=10",
                                 "train.stop=2"]),
    ("no_effect", ["train.patience=2", "train.epochs=3"]),
    ("last_map_1x1", ["model.backbone={name: resnet18}"]),
    ("tiny_batch_norm", ["data.batch_size=4"]),
    ("tiny_batch_norm", ["data.batch_size=66"]),
    ("tiny_batch_norm", ["data.batch_size=14", "data.multi_scale={sizes: [24, 32], per: sample}"]),
    ("same_views", ["data.augment={crop: null, flip: {p: 1}}"]),
    ("augmentation_idle", ["data.augment.crop.padding=0"]),
    ("no_effect_on_model", ["data.skip_broken=true"]),
    ("initial_loss", ["model.backbone=loud"]),
    ("gradient_not_finite", ["objective.no_number={}"]),
    ("gradient_not_finite", ["objective.steep={}"]),
    ("gradient_zero", ["model.backbone=deaf"]),
    ("data_altered", ["data.dataset=altered"]),
    ("validation_in_train", ["data.dataset={name: altered, copies: 7}"]),
]  # fmt: skip
NOTES = [
    ("decay_negligible", ["optim.weight_decay=1e-6"]),
    ("norms_decayed", ["optim.weight_decay=0.1", "optim.decay_norms=true"]),
    ("scored_at_another_size", ["data.multi_scale={sizes: [24]}"]),
    ("no_augmentation", ["data.augment=null", "train.epochs=20"]),
    ("harsh_augmentation", ["data.augment.one_of={choices: {shift_scale_rotate: {}, color_jitter: {}}}"]),
]
WORDS = [IMPORTS, "optim.weight_decay=10", *TINY[1:]]
CAPABLE = ("model.backbone={name: tiny, width: 32}", "optim.lr=2e-2", "optim.weight_decay=2")
DEEP = [
    ("cannot_overfit", ["optim.lr=1e-9"]),
    ("cannot_overfit", ["optim.lr=1e30", "optim.weight_decay=0", "train.grad_clip=null"]),
]


@pytest.fixture(autouse=True)
def in_no_time(monkeypatch, request):
    """Without timing, and with batches as small as tell."""
    monkeypatch.setattr(probe, "_MACS", 1e9)
    monkeypatch.setattr(deep, "STEPS", 50)
    if "estimated" not in request.fixturenames:
        monkeypatch.setattr(diagnosis, "estimate_cost", lambda probe: None)


@pytest.fixture
def estimated():
    """A test that wants the estimate."""


def faulty(*overrides: str):
    # Enough decay to count, in a run this short.
    return tiny_config(IMPORTS, "optim.weight_decay=10", *overrides)


def serious(found) -> set[str]:
    return {finding.id for finding in found if finding.severity != "note"}


def test_nothing_is_found_in_what_is_sound():
    assert diagnose(faulty(*CAPABLE), deep=True).findings == ()


@pytest.mark.parametrize(("expected", "overrides"), FAULTS)
def test_a_fault_is_found_and_nothing_else(expected, overrides):
    found = diagnose(faulty(*overrides)).findings
    assert serious(found) == {expected}
    assert all(finding.reason and finding.fix for finding in found)


@pytest.mark.parametrize(("expected", "overrides"), NOTES)
def test_a_note_is_no_warning(expected, overrides):
    found = diagnose(faulty(*overrides)).findings
    assert expected in {finding.id for finding in found}
    assert not serious(found)


@pytest.mark.parametrize(("expected", "overrides"), DEEP)
def test_a_fault_that_takes_training_to_see(expected, overrides):
    config = faulty(*CAPABLE, *overrides)
    assert serious(diagnose(config).findings) == set()
    assert serious(diagnose(config, deep=True).findings) == {expected}


def test_every_check_finds_something_in_a_test():
    of_teachers = {name for name, check in CHECKS.items() if check.stage == "deep"} - {"cannot_overfit"}
    assert {name for name, _ in [*FAULTS, *NOTES, *DEEP]} | of_teachers == set(CHECKS)
    assert len({name for name, _ in FAULTS}) >= 15


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("ladder/07_smoothing", ["train.epochs=30", "train.average=ema"]),
        ("ladder/10_trivial_augment", ["data.val=0"]),
        (
            "ladder/12_wide",
            ["data.val=0", "optim.decay_norms=true", "optim.sharpness={name: sam, rho: 0.1}"],
        ),
    ],
)
def test_nothing_is_found_in_the_strong_settings(name, overrides):
    found = diagnose(resolve(read_recipe(name), [*overrides, "train.device=cpu"])).findings
    assert found == ()


AS_RUN = {"no_shuffling", "lr_never_changes", "chosen_on_test"}
PRETRAINED = AS_RUN | {"other_normalization"}
# What is wrong with recipes by the configuration alone: all others are sound.
FIRES = {
    "resnet18_augment": {"lr_never_changes"},
    "resnet18_baseline": {"lr_never_changes"},
    "resnet18_baseline_lbsmooth": {"lr_never_changes"},
    "resnet18_baseline_wd01": {"lr_never_changes"},
    "resnet18_pretrained": {"lr_never_changes"},
    "resnet18_pretrained_arcface": {"lr_never_changes"},
    "resnet18_pretrained_arcface_224x224": {"lr_never_changes"},
    "resnet18_pretrained_arcface_kd": {"lr_never_changes"},
    "resnet50_pretrained_arcface_224x224": {"lr_never_changes"},
    "as_run/resnet18_augment": AS_RUN | {"frozen_views"},
    "as_run/resnet18_baseline": AS_RUN,
    "as_run/resnet18_baseline_lbsmooth": AS_RUN,
    "as_run/resnet18_baseline_wd01": AS_RUN,
    "as_run/resnet18_pretrained": PRETRAINED,
    "as_run/resnet18_pretrained_arcface": PRETRAINED | {"margin_scale_low"},
    "as_run/resnet18_pretrained_arcface_224x224": PRETRAINED | {"margin_scale_low"},
    "as_run/resnet18_pretrained_arcface_kd": PRETRAINED | {"margin_scale_low", "teacher_near_uniform"},
    "as_run/resnet18_pretrained_arcface_mst": PRETRAINED | {"margin_scale_low"},
    "as_run/resnet50_pretrained_arcface": PRETRAINED | {"margin_scale_low"},
    "as_run/resnet50_pretrained_arcface_224x224": PRETRAINED | {"margin_scale_low"},
    "ladder/00_baseline": {"no_shuffling", "lr_never_changes"},
    "ladder/01_shuffled": {"lr_never_changes"},
    "ladder/02_normalized": {"lr_never_changes"},
    "ladder/03_crop_flip": {"lr_never_changes"},
}


@pytest.mark.parametrize(
    "name", [*recipe_names(), *(name for name in AS_RUN_ROWS if name not in recipe_names())]
)
def test_what_is_found_in_the_recipes(name):
    config = row(name) if name in AS_RUN_ROWS else resolve(read_recipe(name))
    assert serious(run_checks("static", planned(config))) == FIRES.get(name, set())


@pytest.mark.parametrize(
    ("name", "decay", "noted"), [("sgd", 5e-4, False), ("sgd", 1e-3, True), ("adamw", 5e-4, True)]
)
def test_decayed_norms_are_usual_with_sgd(name, decay, noted):
    config = faulty(f"optim={{name: {name}, weight_decay: {decay}, decay_norms: true, schedule: cosine}}")
    found = {finding.id for finding in run_checks("static", planned(config))}
    assert ("norms_decayed" in found) == noted


def test_the_published_codes_other_defects_are_found():
    """Those that a model or the policy shows, and those that a user may have meant."""
    found = diagnose(resolve(read_recipe("as_run/resnet18_augment"), ["train.device=cpu"])).findings
    ids = {finding.id for finding in found}
    assert {"last_map_1x1", "frozen_views", "harsh_augmentation", "norms_decayed", "decay_negligible"} <= ids
    policy = next(finding.reason for finding in found if finding.id == "harsh_augmentation")
    assert all(word in policy for word in ("unchanged", "upside down", "45 degrees", "hue"))
    baseline = run_checks("static", planned(resolve(read_recipe("as_run/resnet18_baseline"))))
    assert "no_augmentation" in {finding.id for finding in baseline}


def test_the_shortest_run_that_patience_can_end_is_not_warned_of():
    assert serious(run_checks("static", planned(faulty("train.patience=2", "train.epochs=4")))) == set()


def test_the_demo_trains_without_a_warning():
    assert warnings_before(resolve(read_recipe("demo"))) == []


def test_weights_of_a_run_want_its_normalization(tmp_path):
    train_tiny(tmp_path / "0", "train.epochs=1")

    def found(*overrides):
        return serious(run_checks("static", planned(faulty(*overrides))))

    assert found(f"model.init={tmp_path / '0'}") == set()
    assert found(f"model.init={tmp_path / '0'}", "model.normalize=none") == {"other_normalization"}
    assert found(f"model.init={tmp_path / '0' / 'best.pt'}", "model.normalize=none") == set()


def test_training_does_not_repeat_what_it_says_anyway():
    scale = (MARGIN, ARCFACE, "model.head.scale=8")
    config = faulty("train.select=test", "data.shuffle=false", "data.skip_broken=true", *scale)
    lines = [*prepare(config).remarks.warnings, *warnings_before(config)]
    for word in ("optimistic", "same batches", "skip_broken", "probability 0.99"):
        assert sum(word in line for line in lines) == 1, lines


@pytest.mark.parametrize("gap", [0.1, 2.0, 8.0])
def test_distance_from_uniform_is_scipys(gap):
    answer = softmax([gap, *[0.0] * 99])
    assert _from_uniform(gap, 100) == pytest.approx(entropy(answer, np.full(100, 0.01)), rel=1e-9)


def test_what_decay_takes_is_what_the_optimizer_takes():
    """Weights without a gradient of the loss, under torch's own optimizers."""
    import torch

    for name, options in (("adamw", {}), ("sgd", {"momentum": 0.9, "nesterov": False})):
        config = faulty("optim.weight_decay=1e-2", f"optim.name={name}", "optim.lr=0.01")
        share = planned(config).decay_per_step() or 0.0
        weight = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
        make = torch.optim.AdamW if name == "adamw" else torch.optim.SGD
        optimizer = make([weight], lr=0.01, weight_decay=1e-2, **options)
        for _ in range(2000):
            weight.grad = torch.zeros_like(weight)
            optimizer.step()
        assert weight.item() == pytest.approx(math.exp(-share * 2000), rel=0.02)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["data.classes=20", "data.val=0.2"],
        ["data.limit=50"],
        ["data.dataset.train=150", "data.classes=60", "data.val=10"],
        ["data.val=0.25"],
        ["data.val=0", "train.select=last"],
    ],
)
def test_pictures_are_counted_as_they_are_split(overrides):
    config = faulty(*overrides)
    case, splits = planned(config), prepare(config).splits
    assert (case.num_pictures, case.num_classes) == (len(splits.train), len(splits.classes))
    assert case.num_val == (0 if splits.val is None else len(splits.val))


def test_looking_does_not_train_what_is_looked_at():
    job = prepare(faulty())
    before = {name: value.clone() for name, value in job.engine.model.state_dict().items()}
    case = probe.Probe(planned(faulty()), job, True)
    run_checks("batch", case), run_checks("deep", case)
    assert all(value.equal(before[name]) for name, value in job.engine.model.state_dict().items())


def test_pictures_to_learn_by_heart_do_not_vary():
    config = deep.overfitting(faulty("data.mix.mixup={}", "optim.sharpness=sam", "train.average=ema"))
    assert not (config.data.augment)
    assert not (config.data.mix)
    assert not (config.optim.weight_decay)
    assert config.optim.sharpness is None
    assert config.train.average is None


def test_an_estimate(estimated):
    found = diagnose(faulty("train.epochs=10")).estimate
    longer = diagnose(faulty("train.epochs=1000")).estimate
    assert 0 < found.minutes < longer.minutes
    assert longer.peak_memory_bytes > 2**27


@pytest.mark.parametrize(("noise", "per_picture"), [(0.0, 0.05), (-0.95, 0.025), (0.95, 0.05)])
def test_minutes_are_those_of_the_steps(monkeypatch, noise, per_picture):
    """By a clock that shows 0.05 s a picture and, for a step of 16 of them, `noise` less."""
    times = iter([0.0, 0.8 - noise, 1.6, 0.0])
    monkeypatch.setattr(doctor_estimate, "_seconds", lambda *_: next(times))
    config = faulty("data.batch_size=64", "train.epochs=10")
    monkeypatch.setattr(probe, "_PICTURES", 32)
    found = doctor_estimate.estimate_cost(probe.Probe(planned(config), prepare(config), True))
    fixed = 1.6 - per_picture * 32
    # 200 pictures an epoch, in three steps of 64 and one of 8.
    assert 60 * found.minutes == pytest.approx(10 * (4 * fixed + 200 * per_picture))


def test_all_pictures_that_would_be_held_out_are_scored(monkeypatch):
    """Of data that are not at hand, too: as many as of the data's, not of those that are trained on."""
    config = faulty("data.val=0.2", "data.limit=50", "train.epochs=10")
    monkeypatch.setattr(doctor_estimate, "_seconds", lambda *_: 1.0)
    monkeypatch.setattr(doctor_estimate, "_times_the_first_size", lambda *_: 0.0)
    looked = []
    for at_hand in (True, False):
        case = probe.Probe(planned(config), prepare(config), at_hand)
        looked.append(doctor_estimate.estimate_cost(case).minutes)
    assert looked[0] == looked[1]


@pytest.mark.parametrize(
    ("sizes", "times"),
    [("null", 1), ("{sizes: [16, 32], per: stage}", 2.5), ("{sizes: [16, 32], per: sample}", 1)],
)
def test_short_steps_are_timed_whole_and_each_size_counts(monkeypatch, sizes, times):
    """By a clock that shows 0.3 s a step and 1 ms a picture: a line through 16 and 32 would be cut off."""
    asked = []

    def step(self, positions, epoch, number):
        asked.append(len(positions))

    def seconds(call, *_):
        before = len(asked)
        call()
        return 0.3 + 0.001 * asked[-1] if len(asked) > before else 0.0

    monkeypatch.setattr(Engine, "step", step)
    monkeypatch.setattr(doctor_estimate, "_seconds", seconds)
    monkeypatch.setattr(probe, "_PICTURES", 32)
    config = faulty("data.batch_size=100", "train.epochs=10", f"data.multi_scale={sizes}")
    found = doctor_estimate.estimate_cost(probe.Probe(planned(config), prepare(config), True))
    assert asked == [32, 16, 32, 64, 100]
    slope = 0.4 / 100 / 2
    assert 60 * found.minutes == pytest.approx(10 * (2 * 0.2 + times * 200 * slope))


def test_a_run_that_stops_early_takes_the_minutes_of_its_own_epochs(monkeypatch):
    monkeypatch.setattr(doctor_estimate, "_seconds", lambda *_: 0.1)

    def minutes(*overrides):
        config = faulty("train.epochs=200", *overrides)
        return doctor_estimate.estimate_cost(probe.Probe(planned(config), prepare(config), True)).minutes

    # In addition to the epochs, the training pictures are scored once.
    assert minutes("train.stop=20") == pytest.approx(minutes() / 10, rel=0.05)


def test_of_a_run_that_stops_early_the_rest_counts_for_nothing():
    def found(*overrides):
        config = faulty("optim.lr=1e-3", "optim.weight_decay=1", "data.augment=null", *overrides)
        return {finding.id for finding in run_checks("static", planned(config))}

    stopped = found("train.epochs=200", "train.stop=5")
    assert "decay_negligible" in stopped
    assert "no_augmentation" not in stopped
    assert "decay_negligible" not in found("train.epochs=200")
    frozen = ("data.freeze_views=true", "data.augment.flip={}", "train.epochs=9")
    assert "frozen_views" in found(*frozen)
    assert "frozen_views" not in found(*frozen, "train.stop=1")


def test_check_prints_findings_by_severity(cifarlab, tmp_path):
    faults = ("data.shuffle=false", "objective.cross_entropy.weight=0", "optim.decay_norms=true")
    words = ["check", "demo", *WORDS, *faults]
    status, out, _ = cifarlab(*words)
    assert status == 1
    heads = [line.split()[:2] for line in out.splitlines() if not line.startswith((" ", "left", "demo"))]
    assert heads == [["error", "nothing_to_learn:"], ["warning", "no_shuffling:"], ["note", "norms_decayed:"]]
    status, out, _ = cifarlab(*words, "--json")
    record = json.loads(out)
    assert status == 1
    assert [finding["id"] for finding in record["findings"]] == [head[1][:-1] for head in heads]
    assert {*record["findings"][0]} == {"id", "severity", "reason", "fix"}
    assert {"minutes", "peak_memory_bytes", "device", "left_out"} < {*record}


def test_a_warning_is_no_failure(cifarlab):
    status, out, _ = cifarlab("check", "demo", *WORDS, "data.shuffle=false")
    assert status == 0
    assert "warning no_shuffling" in out
    status, out, _ = cifarlab("check", "demo", *WORDS)
    assert status == 0
    assert "no problems found" in out


def test_without_data_weights_and_teacher_the_rest_is_looked_at(cifarlab, monkeypatch):
    """The tutorial's distillation on a machine that has nothing, and fetches nothing."""

    def fetch(*_, **__):
        raise AssertionError("nothing is fetched")

    monkeypatch.setattr("cifarlab.data.download.fetch", fetch)
    monkeypatch.setattr("cifarlab.models.backbones.fetch_weights", fetch)
    status, out, _ = cifarlab("check", "resnet18_pretrained_arcface_kd", "train.device=cpu", "--json")
    record = json.loads(out)
    assert status == 0
    left_out = " ".join(record["left_out"])
    assert all(word in left_out for word in ("cifar100", "weights of resnet18", "teacher", "--deep"))
    assert serious_ids(record) == {"lr_never_changes", "last_map_1x1"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("tiny_imagenet_resnet18",), "data.root: missing; give the folder that holds train/"),
        (("resnet18_baseline", "data.dataset=folder"), "data.root: missing"),
        (("resnet18_baseline", "data.root={folder}"), "holds no cifar-100-python/"),
        (
            ("resnet18_baseline", "data.root={folder}/train"),
            "for your own pictures in folders, set data.dataset",
        ),
        (("resnet18_baseline", "data.dataset=cifar10", "data.root={folder}/no"), "/no does not exist"),
    ],
)
@pytest.mark.parametrize("command", ["check", "train"])
def test_a_root_that_does_not_hold_the_data_is_an_error(cifarlab, tmp_path, command, words, said):
    """`check` and `train` agree, and neither takes pictures from elsewhere."""
    (tmp_path / "pictures" / "train" / "cat").mkdir(parents=True)
    words = [word.format(folder=tmp_path / "pictures") for word in words]
    runs = ("--runs", tmp_path / "runs") if command == "train" else ()
    status, _, err = cifarlab(command, *words, "train.device=cpu", *runs)
    assert status == 2
    assert said in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_a_start_from_a_run_is_checked_without_the_published_weights(tmp_path, monkeypatch):
    def fetch(*_, **__):
        raise AssertionError("nothing is fetched")

    monkeypatch.setattr("cifarlab.models.backbones.fetch_weights", fetch)
    backbone = ("model.backbone={name: test_resnet, pretrained: true}", "data.image_size=32")
    assert "the weights of test_resnet" in " ".join(diagnose(faulty(*backbone)).left_out)
    fitting, unfit = tmp_path / "fitting" / "0", tmp_path / "unfit" / "0"
    train_tiny(fitting, "model.backbone=test_resnet", "train.epochs=1")
    train_tiny(unfit, "train.epochs=1")
    found = diagnose(faulty(*backbone, f"model.init={fitting}"))
    assert not any(word in " ".join(found.left_out) for word in ("weights", "init"))
    for init in (unfit, tmp_path / "nowhere"):
        with pytest.raises(ConfigError, match=r"model\.init"):
            diagnose(faulty(*backbone, f"model.init={init}"))


def serious_ids(record) -> set[str]:
    return {finding["id"] for finding in record["findings"] if finding["severity"] != "note"}


def test_train_begins_with_what_is_wrong(cifarlab, tmp_path):
    status, out, _ = cifarlab("train", "demo", *WORDS, "data.shuffle=false", "--runs", tmp_path)
    assert status == 0
    line = "warning: every epoch shows the same batches in the same order; set data.shuffle=true"
    assert out.count(line) == 1
    summary = json.loads((tmp_path / "demo" / "0" / "summary.json").read_text())
    assert any("same batches" in line for line in summary["warnings"])
    status, out, _ = cifarlab("train", "demo", *WORDS, "--name", "sound", "--runs", tmp_path)
    assert status == 0
    assert "warning" not in out
