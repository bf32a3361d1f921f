"""A teacher, from its run to the student's summary: what it says, and what is refused."""

import json
import re

import numpy as np
import pytest
import torch
import yaml
from benchmarks.common import exact_float32
from PIL import Image

from cifarlab import cli
from cifarlab.config.merge import differences
from cifarlab.config.recipes import read_recipe, resolve
from cifarlab.core import checkpoints
from cifarlab.core.errors import ConfigError
from cifarlab.data.splits import load_splits
from cifarlab.engine.batches import make_batch
from cifarlab.runs.folder import Run
from cifarlab.runs.model import load_trained
from cifarlab.runs.teacher_report import TemperedTerm
from cifarlab.teachers import find_teacher, missing_teachers
from cifarlab.training.missing_teachers import train_teachers as teach
from cifarlab.training.progress import TrainingProgress
from cifarlab.training.setup import prepare
from tests.data.test_cifar import write_cifar100
from tests.data.test_folder import make as write_folder
from tests.teachers.taught import DISTILL, MARGIN, answers, student
from tests.tiny import TINY, tiny_config, train_tiny

KEPT = ("teacher.run=linear", "data.views=2")


def test_a_teacher_sees_the_students_view_at_its_own_size_and_normalisation(runs):
    job = prepare(student(runs, "data.augment={flip: {p: 0.5}, crop: {}}"))
    batch, said = answers(job.engine, epoch=3)
    alone = load_trained(runs / "linear" / "0").model
    assert alone.image_size == 48
    assert not torch.equal(alone.mean, job.engine.model.mean)
    torch.testing.assert_close(said.logits, alone(batch.images).logits.detach(), atol=1e-4, rtol=1e-4)
    clean = make_batch(
        job.engine.train_split, job.engine.order(3)[:64], tiny_config("data.augment=null").data, 0, 3, 100
    )
    assert not torch.equal(clean.images, batch.images)


@pytest.mark.parametrize("place", ["linear/0", "linear"])
def test_a_folder_of_runs_that_is_a_run_is_no_traceback(runs, place):
    with pytest.raises(ConfigError, match="no run 'linaer' with seed 0 in"):
        find_teacher("linaer", 0, runs / place)
    with pytest.raises(ConfigError, match=r"did you mean linear\?"):
        find_teacher("linaer", 0, runs)


def test_a_teacher_stays_in_evaluation_mode_and_out_of_the_students_state(runs):
    job = prepare(student(runs))
    engine, teacher = job.engine, job.teacher.members[0].trained.model
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    engine.model.train()
    for step in range(3):
        engine.step(engine.order(0), 0, step)
    assert not any(part.training for part in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    optimized = {id(p) for group in engine.optimizer.param_groups for p in group["params"]}
    assert not optimized & {id(parameter) for parameter in teacher.parameters()}
    theirs = {value.data_ptr() for value in teacher.state_dict().values()}
    assert not theirs & {value.data_ptr() for value in engine.state_dict()["model"].values()}


def test_a_run_does_not_go_on_with_another_teacher(runs, tmp_path):
    teacher = tmp_path / "teacher.pt"
    teacher.write_bytes((runs / "linear" / "0" / "best.pt").read_bytes())
    run, _ = train_tiny(tmp_path / "student" / "0", *DISTILL, f"teacher.run={teacher}")
    run.summary_path.unlink()
    teacher.write_bytes((runs / "margin" / "0" / "best.pt").read_bytes())
    with pytest.raises(ConfigError, match=r"teacher\.run: the teacher has changed"):
        train_tiny(tmp_path / "student" / "0", *DISTILL, f"teacher.run={teacher}")


def test_an_ensemble_answers_with_the_mean_of_calibrated_logits(runs):
    paths = [str(runs / name / "0") for name in ("linear", "margin")]
    job = prepare(tiny_config(*DISTILL, f"teacher.run={json.dumps(paths)}"))
    job.teacher.temperatures = [2.0, 8.0]
    batch, said = answers(job.engine)
    one, other = (load_trained(path).model(batch.images).logits.detach() for path in paths)
    torch.testing.assert_close(said.logits, (one / 2 + other / 8) / 2, atol=0.02, rtol=2e-3)
    assert said.cosines is None
    assert said.embedding.shape[1] == 0
    job = prepare(tiny_config("objective={rkd: {}}", f"teacher.run={json.dumps(paths)}"))
    assert answers(job.engine)[1].embedding.shape[1] == 16 + 16


def test_a_student_with_a_margin_head_learns_from_each_kind_of_teacher(runs, tmp_path):
    for name in ("linear", "margin"):
        _, summary = train_tiny(
            tmp_path / name / "0",
            *MARGIN,
            "objective.distill={weight: 0.5}",
            f"teacher.run={runs / name / '0'}",
        )
        assert (summary.distillation.terms["distill"].gradient_ratio or 0) > 0


@pytest.mark.parametrize("loss", ["distill", "dkd", "rkd"])
def test_each_loss_trains_end_to_end(runs, tmp_path, loss):
    overrides = (f"objective={{{loss}: {{weight: 0.1}}}}", f"teacher.run={runs / 'linear' / '0'}")
    _, summary = train_tiny(tmp_path / "run" / "0", *overrides)
    term = summary.distillation.terms[loss]
    assert term.gradient_norm > 0
    assert isinstance(term, TemperedTerm) == (loss != "rkd")


def test_feature_maps_are_compared_end_to_end(tmp_path):
    short = ("data.limit=40", "data.val=20", "data.batch_size=10", "train.epochs=1")
    train_tiny(tmp_path / "teacher" / "0", *short, "model.backbone=resnet20", "data.image_size=40")
    hints = ("objective={fitnet: {weight: 100}}", f"teacher.run={tmp_path / 'teacher' / '0'}")
    run, summary = train_tiny(tmp_path / "student" / "0", *short, *hints, "model.backbone=resnet8x4")
    assert summary.distillation.terms["fitnet"].gradient_norm > 0
    assert summary.parameters == 1_233_540
    saved = checkpoints.load_checkpoint(run.last_path, ("engine",))["engine"]["objective"]
    assert saved["loss_fitnet.regressor.0.weight"].shape == (32, 128, 1, 1)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["teacher.run=nothing"], "no run 'nothing' with seed 0"),
        (["teacher.run=resnet18_baselin"], "did you mean resnet18_baseline"),
        (["teacher.run=resnet18_baseline"], "`cifarlab train resnet18_baseline --runs .*`, or add"),
        (["teacher.run=linear", "teacher.seed=4"], "no run 'linear' with seed 4 .*; set teacher.seed=0"),
        (["teacher.run=unfinished"], "unfinished/0 is not finished; resume it with the command"),
        (["teacher.run=[linear, linear]"], "names a run twice"),
        (["teacher.run=linear", "teacher.precision=float16"], "teacher.precision: float16 needs a CUDA"),
        (["teacher.run=linear", "data.classes=50"], "has 100 classes, this run has 50"),
        (["teacher.run={cut}"], "cut.pt: not a readable checkpoint"),
        (["teacher.run={text}"], "text.pt: not a readable checkpoint"),
        (["teacher.run={last}"], "serves only to resume its run; name .*best.pt"),
        (["teacher.run=linear", "objective={fitnet: {}}"], "stages"),
        (["teacher.run=[linear, margin]", "objective={fitnet: {}}"], "several teachers cannot be averaged"),
    ],
)  # fmt: skip
def test_a_teacher_that_cannot_teach_is_refused_before_anything_is_written(
    runs, tmp_path, overrides, message
):
    best = (runs / "linear" / "0" / "best.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(best[: len(best) // 2])
    (tmp_path / "text.pt").write_text("no weights")
    files = {
        "{cut}": tmp_path / "cut.pt",
        "{text}": tmp_path / "text.pt",
        "{last}": runs / "linear/0/last.pt",
    }
    for mark, path in files.items():
        overrides = [override.replace(mark, str(path)) for override in overrides]
    with pytest.raises(ConfigError, match=message):
        train_tiny(runs / "refused" / "0", *DISTILL, *overrides)
    assert not (runs / "refused").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["objective={distill: {}}"], "objective.distill: distill needs a teacher; set teacher.run="),
        ([*DISTILL, *KEPT, "data.mix={mixup: {}}"], "teacher.cache: data.mix pairs"),
        (["objective={fitnet: {}}", *KEPT], "teacher.cache: feature maps are too"),
        ([*DISTILL, "teacher.cache=false"], "teacher.run: missing"),
        ([*DISTILL, "teacher.runn=linear"], "teacher.runn: unknown; did you mean run?"),
        ([*DISTILL, "teacher.run=[]"], "teacher.run: expected a run's name"),
        ([*DISTILL, "teacher=linear"], "teacher: expected `key: value` options"),
        ([*DISTILL, "teacher.run=linear", "teacher.cach=true"], "teacher.cach: unknown; did you mean cache?"),
        ([*DISTILL, "teacher.run=linear", "teacher.views=2"], "teacher.views was renamed to data.views"),
    ],
)  # fmt: skip
def test_a_recipe_that_cannot_be_taught_is_refused(overrides, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        tiny_config(*overrides)


def test_a_teacher_that_no_loss_asks_is_not_loaded(runs, tmp_path):
    _, summary = train_tiny(tmp_path / "run" / "0", f"teacher.run={runs / 'linear' / '0'}")
    assert "teacher.run has no effect here" in summary.warnings
    assert summary.distillation is None


def test_a_teachers_name_is_looked_for_beside_the_run(runs, tmp_path):
    path = find_teacher("linear", 0, runs)
    assert path == runs / "linear" / "0" / "best.pt"
    assert find_teacher(str(path), 5, tmp_path) == path
    assert find_teacher(str(runs / "linear"), 0, tmp_path) == path
    config = tiny_config(*DISTILL, f"teacher.run=[resnet18_baseline, {runs / 'linear'}, nothing]")
    assert missing_teachers(config.teacher, runs) == ["resnet18_baseline"]
    assert Run(runs / "a" / "b" / "0", recipe="x", name="a/b").runs == runs


def test_train_teacher_trains_it_first_on_the_students_data(tmp_path, monkeypatch, capsys):
    (tmp_path / "recipes").mkdir()
    teacher = resolve(read_recipe("demo"), [*TINY, "data.dataset={train: 200}", "data.val=50"]).dump()
    (tmp_path / "recipes" / "small_teacher.yaml").write_text(yaml.safe_dump(teacher))
    mine = tmp_path / "mine.yaml"
    mine.write_text(yaml.safe_dump(student(tmp_path, "teacher.run=small_teacher", "teacher.seed=3").dump()))
    monkeypatch.setattr("cifarlab.config.recipes.FOLDER", tmp_path / "recipes")
    command = ["cifarlab", "train", str(mine), "--runs", str(tmp_path / "runs")]

    def status(*arguments):
        monkeypatch.setattr("sys.argv", [*command, *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code or 0

    assert status() == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert (
        f"cifarlab train small_teacher train.seed=3 --runs {tmp_path / 'runs'}`, or add --train-teacher"
        in error
    )
    assert not (tmp_path / "runs").exists()
    assert status("--train-teacher") == 0
    saved = Run(tmp_path / "runs" / "small_teacher" / "3").plain_config()
    assert (saved["data"]["dataset"]["train"], saved["data"]["val"], saved["train"]["seed"]) == (300, 100, 3)
    first = (tmp_path / "runs" / "small_teacher" / "3" / "best.pt").stat().st_mtime_ns
    assert "training the teacher first: small_teacher" in capsys.readouterr().out
    assert status("--train-teacher") == 0
    assert (tmp_path / "runs" / "small_teacher" / "3" / "best.pt").stat().st_mtime_ns == first


@pytest.fixture
def teach_and_read(tmp_path, monkeypatch):
    """Splits of a student and of the teacher that it would have trained: `teach_and_read(*overrides)`."""
    (tmp_path / "recipes").mkdir()

    def read_both(*overrides, teacher=(), seeds=1):
        plain = resolve(read_recipe("demo"), [*TINY, "data.val=50", *teacher]).dump()
        (tmp_path / "recipes" / "small_teacher.yaml").write_text(yaml.safe_dump(plain, sort_keys=False))
        own = [[]] + [[f"train.seed={seed}"] for seed in range(1, seeds)]
        configs = [student(tmp_path, "teacher.run=small_teacher", *overrides, *words) for words in own]
        students = [(config, Run(tmp_path / "runs" / "s" / str(i))) for i, config in enumerate(configs)]
        trained, lines = [], []
        progress = TrainingProgress(quiet=True)
        with monkeypatch.context() as patch:
            patch.setattr("cifarlab.config.recipes.FOLDER", tmp_path / "recipes")
            patch.setattr(
                "cifarlab.training.missing_teachers.train_run",
                lambda config, run, progress: trained.append(config),
            )
            patch.setattr(progress, "note", lines.append)
            teach(students, tmp_path / "runs", progress)
        (taught_by,) = trained
        return [load_splits(c.data, c.split_seed) for c in (configs[0], taught_by)], taught_by, lines

    return read_both


def assert_split_alike(ours, theirs):
    assert ours.fingerprint == theirs.fingerprint
    assert torch.equal(ours.val.ids, theirs.val.ids)
    assert torch.equal(ours.train.ids, theirs.train.ids)


@pytest.mark.parametrize(
    ("overrides", "teacher"),
    [
        ([], []),
        (["teacher.seed=3"], []),
        (["train.seed=4"], []),
        (["train.seed=4", "teacher.seed=4"], []),
        (["data.split_seed=7", "teacher.seed=2"], []),
        (["train.seed=1"], ["data.split_seed=9"]),
        (["train.seed=1", "data.limit=60"], []),
        (["train.seed=1", "data.limit=60", "data.val=0", "train.select=last"], []),
        (["train.seed=1", "data.classes=7", "data.val=0.3"], ["data.limit=40"]),
    ],
)
def test_a_teacher_is_given_the_students_split(teach_and_read, overrides, teacher):
    both, _, _ = teach_and_read(*overrides, teacher=teacher)
    if "data.val=0" in overrides:
        assert torch.equal(both[0].train.ids, both[1].train.ids)
        return
    assert_split_alike(*both)


def test_a_teacher_that_is_split_alike_is_a_run_of_its_recipe(teach_and_read, tmp_path):
    """So that its run also serves where the recipe is trained by name."""
    recipe = tmp_path / "recipes" / "small_teacher.yaml"
    _, config, _ = teach_and_read("data.val=50")
    assert config.data.split_seed is None
    assert differences(config.identity(), resolve(read_recipe(str(recipe))).identity()) == {}
    _, config, _ = teach_and_read("train.seed=1", "data.val=0", "train.select=last")
    assert config.data.split_seed is None


def test_a_split_that_seeds_do_not_share_is_told(teach_and_read):
    _, _, lines = teach_and_read(seeds=2)
    assert any("data.split_seed=0 gives all seeds the same" in line for line in lines)
    for overrides in (["data.split_seed=5"], ["data.val=0", "train.select=last"]):
        assert not any("data.split_seed" in line for line in teach_and_read(*overrides, seeds=2)[2][:-1])


def test_seeds_share_the_validation_pictures_of_a_data_set_that_has_its_own(teach_and_read, tmp_path):
    generator = np.random.default_rng(0)
    for part in ("train", "val", "test"):
        for label in ("cat", "dog"):
            (tmp_path / "pictures" / part / label).mkdir(parents=True)
            for i in range(8):
                noise = generator.integers(0, 255, (32, 32, 3), np.uint8)
                Image.fromarray(noise).save(tmp_path / "pictures" / part / label / f"{i}.png")
    folder = ["data.dataset=folder", f"data.root={tmp_path / 'pictures'}", "data.batch_size=4"]
    both, _, lines = teach_and_read(*folder, teacher=folder, seeds=2)
    assert_split_alike(*both)
    assert not any("data.split_seed" in line for line in lines[:-1])


def test_a_teacher_at_another_size_is_given_the_split_or_refused(teach_and_read):
    larger = ["data.image_size=48"]
    message = r"stores pictures at 48 px, this run at 32 px, and .*; set data\.store_size=48"
    with pytest.raises(ConfigError, match=message) as error:
        teach_and_read(teacher=larger)
    assert error.value.path == ("data", "store_size")
    assert "\n" not in str(error.value)
    for size in (48, 40):
        both, config, _ = teach_and_read(f"data.store_size={size}", teacher=larger)
        assert_split_alike(*both)
        assert (config.data.image_size, both[1].train.images.shape[-1]) == (48, size)
    # Nothing validates: nothing to keep from the teacher.
    teach_and_read("data.val=0", "train.select=last", teacher=larger)


def test_published_pictures_are_split_alike_at_any_size(teach_and_read, tmp_path):
    write_cifar100(tmp_path / "data")
    ours = ["data.dataset=cifar100", f"data.root={tmp_path / 'data'}", "data.val=40", "train.seed=1"]
    both, config, _ = teach_and_read(*ours, teacher=["data.image_size=48", "data.store_size=48"])
    assert_split_alike(*both)
    assert config.data.store_size == 48


@pytest.mark.parametrize("parts", [("train", "test"), ("train", "test", "val")])
def test_a_folder_is_split_by_its_pictures_as_they_are_kept(teach_and_read, tmp_path, parts):
    write_folder(tmp_path / "data", parts, each=12)
    ours = ["data.dataset=folder", f"data.root={tmp_path / 'data'}", "data.val=4"]
    larger = ["data.image_size=48"]
    if "val" in parts:  # It has validation pictures of its own.
        (_, theirs), config, _ = teach_and_read(*ours, teacher=larger)
        assert (len(theirs.train), config.data.store_size) == (24, None)
        return
    with pytest.raises(ConfigError, match=r"set data\.store_size=48"):
        teach_and_read(*ours, teacher=larger)
    assert_split_alike(*teach_and_read(*ours, "data.store_size=48", teacher=larger)[0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("run", ["linear", "margin"])
@exact_float32()
def test_a_teacher_on_a_gpu_says_what_it_says_on_the_cpu(runs, run, cache):
    options = (
        "data.augment={crop: {}}",
        "data.views=1",
        "teacher.precision=float32",
        "objective={rkd: {}}",
    )
    truth = answers(prepare(student(runs, *options, run=run)).engine)[1]
    for cached in ("true", "false"):
        engine = prepare(
            student(runs, *options, "train.device=cuda", f"teacher.cache={cached}", run=run)
        ).engine
        said = answers(engine)[1]
        assert said.logits.is_cuda
        torch.testing.assert_close(said.logits.cpu(), truth.logits, atol=1e-2, rtol=5e-3)
        torch.testing.assert_close(said.embedding.cpu(), truth.embedding, atol=1e-2, rtol=5e-3)


def test_starting_over_does_not_remove_the_runs_own_teacher_or_start(runs, tmp_path):
    run, _ = train_tiny(tmp_path / "run" / "0")
    before = run.best_path.read_bytes()
    for overrides in (
        [*DISTILL, f"teacher.run={run}"],
        [f"model.init={run}"],
        [f"model.init={run.best_path}"],
    ):
        with pytest.raises(ConfigError, match=r"--fresh would remove .*use --name"):
            train_tiny(run.folder, *overrides, fresh=True)
    assert run.best_path.read_bytes() == before
    assert run.summary() is not None


def test_what_a_run_started_from_stays_on_record(runs, tmp_path, stop_at):
    init = f"model.init={runs / 'linear' / '0'}"
    with stop_at(2):
        train_tiny(tmp_path / "run" / "0", init)
    run, _ = train_tiny(tmp_path / "run" / "0", init)
    env = json.loads(run.env_path.read_text())
    assert len(env["earlier"]) == 1
    assert env["weights"][0]["sha256"] == env["earlier"][0]["weights"][0]["sha256"]


def test_train_teacher_looks_at_the_student_first(tmp_path, monkeypatch):
    recipes, runs = tmp_path / "recipes", tmp_path / "runs"
    recipes.mkdir()
    (recipes / "small_teacher.yaml").write_text(yaml.safe_dump(resolve(read_recipe("demo"), TINY).dump()))
    config, idle = student(tmp_path, "teacher.run=small_teacher"), tiny_config("teacher.run=small_teacher")
    progress = TrainingProgress(quiet=True)
    other, _ = train_tiny(runs / "student" / "0")
    monkeypatch.setattr("cifarlab.config.recipes.FOLDER", recipes)
    with pytest.raises(ConfigError, match="a run of another configuration"):
        teach([(config, other)], runs, progress)
    own = Run(runs / "small_teacher" / "0", recipe="small_teacher", name="small_teacher")
    with pytest.raises(ConfigError, match="cannot be its own teacher"):
        teach([(config, own)], runs, progress)
    teach([(idle, Run(runs / "idle" / "0", recipe="idle", name="idle"))], runs, progress)
    assert [path.name for path in runs.iterdir()] == ["student"]
