import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cifarlab.config import ROOT, Config
from cifarlab.config.merge import apply_before, differences, merge_sections, parse_override
from cifarlab.config.recipes import import_and_validate
from cifarlab.config.sections.section import Section
from cifarlab.core.errors import ConfigError
from cifarlab.core.registries import REGISTRIES

pytestmark = pytest.mark.quick


def resolved(**changes):
    plain = merge_sections(ROOT, {"objective": {"cross_entropy": {}}})
    return import_and_validate(merge_sections(plain, changes))


def fails(*overrides):
    def check() -> None:
        plain = merge_sections(ROOT, {"objective": {"cross_entropy": {}}})
        for text in overrides:
            plain = merge_sections(plain, parse_override(text))
        import_and_validate(plain)

    with pytest.raises(ConfigError) as error:
        check()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_one_run_has_one_spelling_as_the_source_of_weights():
    spellings = ("runs/a/0", "./runs/a/0/", "runs//a/./0")
    assert {resolved(model={"init": spelling}).model.init for spelling in spellings} == {"runs/a/0"}
    assert resolved(model={"freeze": None}).model.freeze == ()


def test_defaults_land_in_the_saved_config_and_build_an_equal_one():
    config = resolved(optim={"schedule": "cosine"}, data={"augment": {"crop": {}, "flip": {"p": 0.5}}})
    plain = yaml.safe_load(yaml.safe_dump(config.dump()))
    assert plain["data"]["val"] == 0.1
    assert plain["data"]["augment"]["crop"]["padding"] == 4
    assert plain["data"]["augment"]["flip"]["p"] == 0.5
    assert plain["optim"]["betas"] == [0.9, 0.999]
    assert import_and_validate(plain).dump() == plain


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.ler=1", "optim.ler: unknown; did you mean lr?"),
        ("optim.momentun=1", "optim.momentun: unknown"),
        ("optim.lr=fast", "optim.lr: "),
        ("optim.lr=0", "optim.lr: "),
        ("optim.layer_decay=0", "optim.layer_decay: "),
        ("optim.layer_decay=1.1", "optim.layer_decay: "),
        ("optim.layer_deacy=0.7", "optim.layer_deacy: unknown; did you mean layer_decay?"),
        ("optim.optimizer=sgd", "optim.optimizer: unknown"),
        ("model.freeze=[1]", "model.freeze.0: "),
        ("model.freeze={backbone: true}", "model.freeze: "),
        ("model.batch_norm_eval=all", "model.batch_norm_eval: "),
        ("optim.lr=.inf", "optim.lr: "),
        ("objective.cross_entropy.weight=.nan", "objective.cross_entropy.weight: expected a finite number"),
        (
            "data.augment.one_of={choices: {flip: {before: crop}}}",
            "data.augment.one_of.choices.flip.before: unknown",
        ),
        ("optim.name=adam", "optim: unknown optimizer 'adam'; did you mean adamw?"),
        ("optim.schedule.warmup=2", "optim.schedule.warmup: "),
        ("objective.arcface.margim=1", "objective.arcface.margim: unknown; did you mean margin?"),
        ("objective.cross_entropy.weight=heavy", "objective.cross_entropy.weight: expected a number"),
        ("objective.total=cross_entropy", "objective.total: total is the name of"),
        ("objective={total: {name: cross_entropy, weight: 2}}", "objective.total: total is the name of"),
        ("objective={with.dot: cross_entropy}", "objective.with.dot: a label becomes a metric's name"),
        ("objective.cross_entropi=null", "objective.cross_entropi: nothing to remove"),
        ("objective.cross_entropy=null", "objective: expected at least one loss"),
        ("data.agument.flip={}", "data.agument: unknown; did you mean augment?"),
        ("data.augment.flip.p=1.5", "data.augment.flip.p: expected a probability"),
        ("data.augment.one_of.choices.croop={}", "data.augment.one_of.choices.croop: unknown augmentation"),
        ("data.val=-1", "data.val: "),
        ("data.val=1.5", "data.val: "),
        ("data.dataset=cifar1000", "data.dataset: unknown data set"),
        ("model.backbone=resnet19", "model.backbone: "),
        ("model.backbone.stem=imagenette", "model.backbone.stem: "),
        ("train.epochs=0", "train.epochs: "),
        ("train.select=train", "train.select: "),
        ("trian.epochs=1", "trian: unknown; did you mean train?"),
        ("data=5", "data: "),
        ("just words", "is not an override"),
    ],
)
def test_a_mistake_is_one_line_with_the_full_path(override, message):
    assert message in fails(override)


def sections_with_parts():
    """{key: (registry, fields)} of each kind of part whose options stand among the fields of a section."""
    found = {}
    for key, registry in REGISTRIES.items():
        model = Config
        for name in key.split("."):
            model = model.model_fields[name].annotation
        if isinstance(model, type) and issubclass(model, Section):
            found[key] = registry, set(model.model_fields)
    return found


def test_an_option_cannot_have_the_name_of_a_field_beside_it():
    """The value would reach the field, the part would train with its default, and the file would say that."""
    sections = sections_with_parts()
    assert {key: fields >= {"lr", "weight_decay", "schedule"} for key, (_, fields) in sections.items()} == {
        "optim": True
    }
    for registry, fields in sections.values():
        for name in fields:
            scope = {}
            exec(f"def part(groups, rate, *, {name}: float = 1.0): ...", scope)
            with pytest.raises(TypeError, match=f"part: option '{name}' .*rename it"):
                registry.register(scope["part"])
        assert "part" not in registry


def test_a_file_with_such_a_part_is_refused_in_one_line(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from cifarlab import OPTIMIZERS\n\n"
        "@OPTIMIZERS.register\n"
        "def mine(groups, lr, *, weight_decay: float = 0.1):\n"
        "    ...\n"
    )
    message = fails(f"imports=[{path}]", "optim={name: mine, weight_decay: 0.01}")
    assert "mine: option 'weight_decay' has the name of a field" in message


def test_settings_that_contradict_each_other():
    assert "data.batch_size: data.mix pairs" in fails("data.batch_size=25", "data.mix.mixup={}")
    assert "objective.arcface" in fails(
        "objective.arcface={}", "objective.cross_entropy=null", "data.mix.mixup={}"
    )
    assert "objective.arcface" in fails("objective.arcface={}")


def test_a_label_is_added_edited_and_removed():
    base = {"objective": {"cross_entropy": {"smoothing": 0.1}, "arcface": {}}}
    assert merge_sections(base, {"objective": {"arcface": None}}) == {
        "objective": {"cross_entropy": {"smoothing": 0.1}}
    }
    edited = merge_sections(base, {"objective": {"cross_entropy": {"weight": 2}}})
    assert edited["objective"]["cross_entropy"] == {"smoothing": 0.1, "weight": 2}
    assert merge_sections(base, {"objective": None}) == {}


@pytest.mark.parametrize(
    ("section", "label"),
    [("objective", "supcon"), ("data.augment", "flip"), ("data.mix", "cutmix"),
     ("data.augment.one_of.choices", "cutout")],
)  # fmt: skip
def test_a_bare_name_is_a_label_without_options(section, label):
    # In the command line's order: what supcon has no form for goes first.
    mix = [] if section == "objective" else ["data.mix.mixup={}"]
    start = ["data.augment={crop: {padding: 2}, one_of: {choices: {flip: {}}}}", *mix]

    def under(*overrides):
        plain = merge_sections(ROOT, {"objective": {"cross_entropy": {"smoothing": 0.1}}})
        for text in (*start, *overrides):
            plain = merge_sections(plain, parse_override(text))
        plain = import_and_validate(plain).dump()
        inner = plain
        for key in section.split("."):
            inner = inner[key]
        return plain, inner

    before, (short, inside) = under()[1], under(f"{section}={label}")
    assert short == under(f"{section}={{{label}: {{}}}}")[0]
    assert list(inside) == [*before, label]
    assert inside[label]["name"] == label
    assert {key: inside[key] for key in before} == before


def test_a_bare_name_below_options():
    base = {"objective": "cross_entropy", "data": {"augment": {"one_of": {"choices": "flip"}}}}
    merged = merge_sections(base, parse_override("objective={cross_entropy: {smoothing: 0.1}, triplet: {}}"))
    assert merged["objective"] == {"cross_entropy": {"smoothing": 0.1}, "triplet": {}}
    merged = merge_sections(base, parse_override("data.augment.one_of.choices.crop.padding=2"))
    assert merged["data"]["augment"]["one_of"] == {"choices": {"flip": {}, "crop": {"padding": 2}}}


def test_a_bare_name_over_another_adds_its_label():
    merged = merge_sections({"objective": "cross_entropy"}, {"objective": "triplet"})
    assert merged == {"objective": {"cross_entropy": {}, "triplet": {}}}
    edited = merge_sections({"data": {"augment": "flip"}}, {"data": {"augment": {"crop": {"padding": 2}}}})
    assert edited == {"data": {"augment": {"flip": {}, "crop": {"padding": 2}}}}
    assert merge_sections({"objective": {"cross_entropy": {}}}, {"objective": {"name": "triplet"}}) == {
        "objective": {"cross_entropy": {}, "name": "triplet"}
    }


def test_a_new_name_drops_that_parts_options_and_nothing_beside_them():
    base = {"name": "adamw", "lr": 1, "betas": [0, 0], "schedule": {"name": "step", "gamma": 0.5}}
    merged = merge_sections({"optim": base}, {"optim": {"name": "sgd", "momentum": 0.8}})["optim"]
    assert merged == {"name": "sgd", "lr": 1, "momentum": 0.8, "schedule": {"name": "step", "gamma": 0.5}}
    assert merge_sections({"optim": base}, {"optim": {"schedule": "cosine"}})["optim"]["schedule"] == {
        "name": "cosine"
    }
    loss = {"objective": {"main": {"name": "cross_entropy", "smoothing": 0.1, "weight": 3}}}
    assert merge_sections(loss, {"objective": {"main": {"name": "arcface"}}})["objective"]["main"] == {
        "name": "arcface",
        "weight": 3,
    }


def test_one_part_to_freeze_needs_no_list():
    def frozen(text):
        plain = merge_sections(
            merge_sections(ROOT, {"objective": {"cross_entropy": {}}}), parse_override(text)
        )
        return import_and_validate(plain).dump()["model"]["freeze"]

    assert frozen("model.freeze=backbone.layer1") == ["backbone.layer1"]
    assert frozen("model.freeze=[backbone.conv1, head]") == ["backbone.conv1", "head"]
    assert frozen("model.freeze=null") == frozen("model.freeze=[]") == []


def test_what_stands_around_an_optimizer_stays_when_it_changes():
    plain = resolved(optim={"name": "adamw", "sharpness": "asam", "lookahead": {"steps": 3}}).dump()
    changed = import_and_validate(
        merge_sections(plain, parse_override("optim={name: muon, rest: {name: sgd, momentum: 0.5}}"))
    )
    assert changed.optim.sharpness.kwargs() == {"rho": 0.5, "eta": 0.01}
    assert changed.optim.lookahead.steps == 3
    assert import_and_validate(changed.dump()).dump() == changed.dump()
    assert changed.dump()["optim"]["rest"] == {"name": "sgd", "momentum": 0.5, "nesterov": True}
    without = import_and_validate(
        merge_sections(plain, parse_override("optim={sharpness: null, lookahead: null}"))
    )
    assert without.optim.sharpness is without.optim.lookahead is None


def test_layer_decay_stays_when_the_optimizer_changes():
    plain = resolved(optim={"name": "adamw", "layer_decay": 0.7}).dump()
    assert plain["optim"]["layer_decay"] == 0.7
    assert (
        import_and_validate(merge_sections(plain, parse_override("optim.name=sgd"))).optim.layer_decay == 0.7
    )


def test_a_label_is_its_name_until_said_otherwise():
    base = {"objective": {"cross_entropy": {"smoothing": 0.1}}}
    merged = merge_sections(base, {"objective": {"cross_entropy": {"name": "cross_entropy"}}})
    assert merged["objective"]["cross_entropy"] == {"smoothing": 0.1, "name": "cross_entropy"}


SECTIONS = {
    "data.augment": lambda order: {"data": {"augment": order}},
    "data.mix": lambda order: {"data": {"mix": order}},
    "objective": lambda order: {"objective": order},
    "data.augment.one_of.choices": lambda order: {"data": {"augment": {"one_of": {"choices": order}}}},
    "data.augment.a.b.c.d": lambda order: {"data": {"augment": {"a": {"b": {"c": {"d": order}}}}}},
}


@given(st.sampled_from(sorted(SECTIONS)), st.permutations("abcd"), st.permutations("abcd"))
def test_the_order_of_labels_is_a_difference(section, one, other):
    old, new = ({label: {"p": 1.0} for label in order} for order in (one, other))
    found = differences(SECTIONS[section](old), SECTIONS[section](new))
    assert found == ({} if one == other else {section: (tuple(one), tuple(other))})
    # It is told beside other differences, and by the labels that both sides have.
    del new["a"]
    found = differences(SECTIONS[section](old), SECTIONS[section](new))
    assert found.pop(f"{section}.a") == ({"p": 1.0}, None)
    rest = [label for label in one if label != "a"]
    assert found == ({} if rest == list(new) else {section: (tuple(one), tuple(new))})


def test_fields_and_options_have_no_order_of_the_users():
    old = {"optim": {"lr": 1, "name": "sgd"}, "data": {"augment": {"crop": {"name": "crop", "p": 1.0}}}}
    new = {"data": {"augment": {"crop": {"p": 1.0, "name": "crop"}}}, "optim": {"name": "sgd", "lr": 1}}
    assert differences(old, new) == {}


def test_before_sets_the_order():
    plain = {"data": {"augment": {"crop": {}, "flip": {}, "cutout": {"before": "crop", "size": 4}}}}
    ordered = apply_before(plain)["data"]["augment"]
    assert list(ordered.items()) == [("cutout", {"size": 4}), ("crop", {}), ("flip", {})]
    with pytest.raises(ConfigError, match="did you mean crop"):
        apply_before({"data": {"augment": {"crop": {}, "flip": {"before": "crap"}}}})


def test_merge_leaves_its_arguments_alone():
    base = {"data": {"augment": {"crop": {"padding": 4}}}}
    merge_sections(base, {"data": {"augment": {"crop": {"padding": 2}}}})["data"]["augment"]["crop"][
        "padding"
    ] = 9
    assert base == {"data": {"augment": {"crop": {"padding": 4}}}}


keys = st.sampled_from(["a", "b", "c"])
trees = st.recursive(st.integers(), lambda inner: st.dictionaries(keys, inner, max_size=3), max_leaves=8)
dicts = st.dictionaries(keys, trees, max_size=3)


@given(dicts, dicts)
def test_the_child_wins_and_the_rest_stays(base, child):
    merged = merge_sections(base, child)
    for path, (old, new) in differences(merged, merge_sections(merged, child)).items():
        raise AssertionError(f"merging again changes {path}: {old} -> {new}")
    assert set(merged) == set(base) | set(child)


@given(dicts, dicts)
def test_differences_are_none_exactly_for_equal_trees(old, new):
    assert (not differences(old, new)) == (old == new) or _only_empty(old, new)


def _only_empty(old, new):
    """An empty section and an absent one hold the same settings."""

    def prune(tree):
        return {
            k: v for k, v in ((k, prune(v) if isinstance(v, dict) else v) for k, v in tree.items()) if v != {}
        }

    return prune(old) == prune(new)
