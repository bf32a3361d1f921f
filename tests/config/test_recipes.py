import json
import textwrap

import pytest
import timm
import torch
import yaml
from timm.data.auto_augment import LEVEL_TO_ARG

from cifarlab.augment.searched.tables import NARROW
from cifarlab.config.merge import differences
from cifarlab.config.recipes import (
    FOLDER,
    all_recipes,
    find_recipe,
    import_and_validate,
    read_recipe,
    recipe_names,
    resolve,
)
from cifarlab.core.batch import Output
from cifarlab.core.errors import ConfigError
from cifarlab.core.registries import BACKBONES, LOSSES
from cifarlab.data.splits import Split
from cifarlab.doctor.check_registry import CHECKS
from cifarlab.engine.step import Engine
from cifarlab.models.classifier import build_classifier
from cifarlab.objectives.objective import build_objective
from tests.settings import documented

# Why a recipe may not be measured.
WAITS = {
    "queued", "needs ResNet weights", "needs a GPU", "needs your pictures",
    "needs a GPU; a small net: docs/results/ladder.md",
}  # fmt: skip


class Certain:
    """A teacher that knows the label."""

    def begin(self, view, stop=None):
        return None

    def answer(self, batch, positions):
        return Output(5 * batch.targets, batch.targets)


@pytest.mark.parametrize("name", recipe_names())
class TestEveryRecipe:
    def test_opens_with_its_command_and_says_what_it_is(self, name):
        first = find_recipe(name).read_text().partition("\n")[0]
        assert first.split()[:4] == ["#", "cifarlab", "train", name]
        recipe = read_recipe(name)
        assert recipe.what
        assert (recipe.measured is None) == (recipe.waits is not None), "either measured, or why not"
        assert recipe.waits is None or recipe.waits in WAITS

    def test_resolves_and_says_only_what_differs(self, name):
        recipe = read_recipe(name)
        plain = resolve(recipe).dump()
        assert import_and_validate(plain).dump() == plain
        assert yaml.safe_load(yaml.safe_dump(plain)) == plain
        if recipe.base:
            assert differences(resolve(read_recipe(recipe.base, beside=recipe.path.parent)).dump(), plain), (
                "differs in nothing"
            )

    def test_takes_a_step(self, name):
        """Two steps of the recipe as it stands, but for weights to fetch, the data set and its size."""
        overrides = ["data.batch_size=2", "train.device=cpu", "train.precision=float32", "data.image_size=32"]
        recipe = read_recipe(name)
        options = recipe.plain["model"]["backbone"]
        if options.get("pretrained"):
            overrides += [f"model.backbone={json.dumps({**options, 'pretrained': False})}"]
        config = resolve(recipe, overrides)
        pictures = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
        split = Split(pictures, torch.arange(8), torch.arange(8), torch.arange(8))
        model = build_classifier(config.model, 32, 100, dataset_mean_std=((0.5,) * 3, (0.3,) * 3))
        objective = build_objective(config.objective, 100, model.num_features)
        from cifarlab.core.device import Precision

        precision = Precision(torch.device("cpu"), torch.float32)
        teacher = Certain() if config.teacher_outputs else None
        engine = Engine(config, model, objective, split, precision, teacher=teacher)
        before = [p.clone() for p in model.parameters()]
        engine.model.train()
        for step in range(2):
            engine.step(engine.order(0), 0, step)
        assert engine.means.first_bad_step() is None
        assert engine.means.read()["loss/total"] > 0
        assert any(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


def plain(name):
    return resolve(read_recipe(name)).dump()


def test_documented_recipes_start_from_published_weights_as_they_were_trained(tmp_path):
    assert set(documented()) == {"deit_small.yaml", "vit_base.yaml"}
    for name, text in documented().items():
        recipe = read_recipe(write(tmp_path, name, text))
        model = resolve(recipe).dump()["model"]
        assert timm.is_model_pretrained(model["backbone"]["name"])
        assert (model["backbone"]["pretrained"], model["normalize"]) == (True, "pretrained")
        assert recipe.published is not None


def test_the_recipes_of_the_benchmarks_resolve():
    for path in sorted((FOLDER.parents[2] / "benchmarks" / "recipes").glob("*.yaml")):
        recipe = read_recipe(str(path))
        command = f"# cifarlab train benchmarks/recipes/{path.name}\n"
        assert recipe.what
        assert path.read_text().startswith(command)
        assert resolve(recipe).dump()


def test_deit_is_dressed_as_its_model_card_says(tmp_path):
    """rand-m9, of the ten levels by which timm counts; mixup or CutMix, one lambda a batch."""
    config = resolve(read_recipe(write(tmp_path, "deit_small.yaml", documented()["deit_small.yaml"]))).dump()
    data = config["data"]
    level, place = 9, data["augment"]["rand_augment"]["magnitude"]
    timms = {"ShearX": "shear_x", "TranslateXRel": "translate_x", "Rotate": "rotate"}
    for theirs, ours in timms.items():
        (largest,) = map(abs, LEVEL_TO_ARG[theirs](level, {"translate_pct": 0.45}))
        largest *= 100 if ours == "translate_x" else 1
        assert NARROW.magnitudes(ours, 31, 100, 100)[place].item() == pytest.approx(largest, rel=0.01)
    (mixer,) = data["mix"].values()
    assert {name: part["alpha"] for name, part in mixer["choices"].items()} == {"mixup": 0.8, "cutmix": 1.0}
    assert {mixer["per"], *(part["per"] for part in mixer["choices"].values())} == {"batch"}
    assert len({part["p"] for part in mixer["choices"].values()}) == 1


def test_the_strong_wide_network_is_trained_as_sams():
    """Decay on every weight, Nesterov's momentum, gradients clipped at 5: google-research/sam's flags."""
    overrides = ["data.val=0", "optim.decay_norms=true", "optim.sharpness={name: sam, rho: 0.1}"]
    command = " ".join(["cifarlab train ladder/12_wide", *overrides[:2], f'"{overrides[2]}"'])
    assert command in (FOLDER.parents[2] / "docs" / "recipes.md").read_text()
    told = resolve(read_recipe("ladder/12_wide"), overrides).dump()
    optim = told["optim"]
    assert (optim["name"], optim["lr"], optim["weight_decay"], optim["nesterov"]) == ("sgd", 0.1, 5e-4, True)
    assert optim["decay_norms"]
    assert optim["sharpness"] == {"name": "sam", "rho": 0.1}
    assert (told["train"]["grad_clip"], told["train"]["epochs"]) == (5, 200)


def test_recipes_as_the_text_describes_them():
    assert plain("resnet18_pretrained")["model"]["normalize"] == "imagenet"
    assert plain("resnet18_baseline_lbsmooth")["objective"]["cross_entropy"]["smoothing"] == 0.1
    assert plain("resnet50_pretrained_arcface_224x224")["data"]["image_size"] == 224
    assert plain("resnet50_pretrained_arcface_224x224")["model"]["backbone"]["pretrained"] is True
    choices = plain("resnet18_augment")["data"]["augment"]["one_of"]["choices"]
    assert list(choices) == ["shift_scale_rotate", "coarse_dropout", "color_jitter", "flip", "vertical_flip"]


def write(folder, name, text):
    (folder / name).write_text(text)
    return str(folder / name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: resnet18_basline", "did you mean resnet18_baseline"),
        ("base: mine.yaml", "own base"),
        ("base: [a]", "base: expected a recipe's name"),
        ("- a list", "expected `key: value` lines"),
        ("base: demo\n  optim: {", "line 2: not YAML"),
        ("bsae: demo", "bsae: unknown; did you mean base?"),
        ("base: demo\nimports: [missing.py]", "imports: cannot import"),
        ("base: demo\nimports: 3", "imports: expected a list"),
        ("base: demo\nabout: words", "about: expected a mapping"),
        ("base: demo\nabout: 0", "about: expected a mapping"),
        ("base: demo\nimports: false", "imports: expected a list of Python files"),
        ("false", "expected `key: value` lines, got bool"),
        ("data: {dataset: synthetic}", "objective: expected at least one loss"),
    ],
)
def test_a_mistake_in_a_recipe_file(tmp_path, text, message):
    with pytest.raises(ConfigError) as error:
        resolve(read_recipe(write(tmp_path, "mine.yaml", text)))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_base_is_found_beside_the_recipe(tmp_path):
    write(tmp_path, "lower.yaml", "base: demo\noptim: {lr: 0.5}")
    recipe = read_recipe(write(tmp_path, "upper.yaml", "base: lower.yaml\ntrain: {epochs: 3}"))
    config = resolve(recipe)
    assert (config.optim.lr, config.train.epochs) == (0.5, 3)


def test_the_list_is_short_and_begins_with_what_is_measured():
    found = all_recipes()
    assert len(found) <= 40
    measured = [recipe.measured is not None for recipe in found]
    assert measured == sorted(measured, reverse=True)
    assert any(measured)


def test_every_file_of_the_folder_is_a_recipe():
    assert {find_recipe(name) for name in recipe_names()} == set(FOLDER.rglob("*.yaml"))


PART = """
from textwrap import dedent, indent

from cifarlab import BACKBONES, LOSSES
from cifarlab.doctor import check

@BACKBONES.register(name="mine")
def {function}(image_size, *, width: int = {width}): ...

LOSSES.register({foreign}, name="foreign")

@check("static", "note", "fix")
def check_{function}(case):
    yield from ()
"""


def test_an_edited_file_of_parts_is_read_again(tmp_path):
    path = tmp_path / "parts.py"
    path.write_text(PART.format(function="first", width=8, foreign="dedent"))
    words = [f"imports=[{path}]", "model.backbone=mine"]

    def width() -> int:
        return resolve(read_recipe("demo"), words).model.backbone.kwargs()["width"]

    assert width() == 8
    first = BACKBONES["mine"].call
    assert width() == 8, "it runs once"
    assert BACKBONES["mine"].call is first, "it runs once"
    # Of the same size and within the same second, and with other code under a name that stays.
    for function, number, foreign in (("first", 9, "dedent"), ("other", 7, "dedent"), ("third", 6, "indent")):
        path.write_text(PART.format(function=function, width=number, foreign=foreign))
        assert width() == number
        assert LOSSES["foreign"].call is getattr(textwrap, foreign)
        checks = [name for name, each in CHECKS.items() if each.look.__module__ == first.__module__]
        assert checks == [f"check_{function}"]
    path.write_text("import nothing_of_the_kind")
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"imports: cannot import .*parts\.py: ModuleNotFoundError"):
            width()
    path.write_text("")
    with pytest.raises(ConfigError, match="unknown backbone 'mine'"):
        width()


def test_a_file_of_parts_has_its_own_future(tmp_path):
    """Whether annotations are text is for the file to say."""
    path = tmp_path / "parts.py"
    path.write_text("def f(x: int): ...\nassert f.__annotations__ == {'x': int}")
    resolve(read_recipe("demo"), [f"imports={path}"])
