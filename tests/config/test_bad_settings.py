"""Settings that do not fit together are one line that names the option and what to do."""

import pytest

from tests.tiny import TINY, once

MARGIN = ("model.head=margin", "objective={cross_entropy: null, arcface: {}}")
SMALL = ("data.dataset={name: synthetic, train: 300, test: 100}", "data.val=100", "train.device=cpu")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            (*TINY, *MARGIN, "data.mix={mixup: {}}"),
            "objective.arcface: arcface does not support mixed targets; remove data.mix",
        ),
        (
            (*TINY, "data.augment.flip=false"),
            "data.augment.flip: expected options or a name, got False; null removes it",
        ),
        ((*TINY, "data.mix.mixup=0"), "data.mix.mixup: expected options or a name, got 0; null removes it"),
        (
            (*TINY, "data.augment={one_of: {choices: {flip: 0.5}}}"),
            "data.augment.one_of.choices.flip: expected options or a name, got 0.5",
        ),
        (
            (*TINY, "objective={name: triplet}"),
            "objective: expected {label: options}, one loss each; write {triplet: {}}",
        ),
        (
            (*TINY, "optim.sharpness=sam", "train.accumulate=2"),
            "train.accumulate: optim.sharpness=sam needs all pictures of a step in one batch; set "
            "optim.sharpness=null, or train.accumulate=1",
        ),
        (
            (*TINY, "optim.sharpness={name: asam, rho: 0.1}", "train.accumulate=4"),
            "train.accumulate: optim.sharpness=asam needs all pictures of a step",
        ),
        *(
            (
                (*TINY, f"objective.near={{name: {name}}}", "train.accumulate=2"),
                f"train.accumulate: {name} compares the pictures of a step, but each of several batches has "
                "only some of them; set train.accumulate=1, or remove objective.near",
            )
            for name in ("triplet", "supcon", "rkd")
        ),
        (
            (*SMALL, "data.image_size=8", "model.backbone=vgg11_bn"),
            "data.image_size: vgg11_bn cannot take pictures of 8 px (",
        ),
        (
            (*SMALL, "data.image_size=32", "model.backbone=inception_v3"),
            "data.image_size: inception_v3 cannot take pictures of 32 px (",
        ),
        (
            (*SMALL, "data.multi_scale={sizes: [8, 32], per: stage}", "model.backbone=vgg11_bn"),
            "data.multi_scale.sizes: vgg11_bn cannot take pictures of 8 px (",
        ),
        (
            (*TINY, "data.augment={trivial_agument_wide: {}}"),
            "data.augment.trivial_agument_wide: unknown augmentation 'trivial_agument_wide'; did you mean "
            "trivial_augment",
        ),
        (
            (*TINY, "data.augment={one_of: {choices: {rand_augmnet: {}}}}"),
            "data.augment.one_of.choices.rand_augmnet: unknown augmentation 'rand_augmnet'; did you mean "
            "rand_augment?",
        ),
        (
            (*TINY, "train.patience=3", "train.select=last"),
            "train.patience: needs a score, and train.select=last has none; set train.select=val, or "
            "train.patience=null",
        ),
        (
            (*TINY, "train.keep_activations=maybe"),
            "train.keep_activations: input should be 'auto' or a valid boolean (got 'maybe')",
        ),
        ((*TINY, "model.freeze=3"), "model.freeze: expected a part's name, or a list of them; got 3"),
        ((*TINY, "model.freeze=0"), "model.freeze: expected a part's name, or a list of them; got 0"),
        ((*TINY, "model.freeze=[head, 1]"), "model.freeze.1: input should be a valid string (got 1)"),
        ((*TINY, "model.init=''"), "model.init: expected a run's folder or a checkpoint; got ''"),
        ((*TINY, "imports=false"), "imports: expected a list of Python files or modules"),
        (
            (*TINY, "data.multi_scale={sizes: [16, 32], per: stages}"),
            "data.multi_scale.per: ",
        ),
        (
            (*TINY, "data.limit=1"),
            "data.limit: leaves one picture to train on, and batch norm needs two; keep",
        ),
        ((*TINY, "data.val=299"), "data.val: leaves one picture to train on, and batch norm needs two; hold"),
        (
            (*TINY, "optim.schedule={name: cosine_restarts, cycles: 100, growth: 1e4}"),
            "optim.schedule.growth: input should be less than or equal to 10",
        ),
        (
            (*TINY, "optim.schedule={name: one_cycle, flor: 0.1}"),
            "optim.schedule.flor: unknown; did you mean floor?",
        ),
        (
            (*TINY, "optim.lr=0,001"),
            "optim.lr: input should be a valid number (got '0,001'); write 0.001: decimals have a point",
        ),
        ((*TINY, "optim={lr: 1,5e-3}"), "optim.lr: "),
        ((*TINY, "train.epochs=1:30"), "train.epochs: '1:30': 1:30 is 90 in YAML, which counts in sixties"),
        ((*TINY, "train.seed=010"), "train.seed: '010': 010 is 8 in YAML, which reads it in base 8"),
    ],
)
def test_it_is_one_line_and_status_2(cifarlab, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    status, out, err = cifarlab("train", "demo", *once(*words))
    assert status == 2, err
    assert err.startswith(f"error: {message}"), err
    assert len(err.splitlines()) == 1, err
    assert "Traceback" not in out + err
    assert list(tmp_path.iterdir()) == [], "nothing half-made is left"
