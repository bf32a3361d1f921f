"""Files of weights from elsewhere: read in any usual wrapping, else refused in one line; nothing is run."""

import enum
import os
import pickle
import zipfile
from argparse import Namespace
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from cifarlab.config import ModelConfig
from cifarlab.core.errors import ConfigError
from cifarlab.models.backbones import timm_backbone
from cifarlab.models.classifier import build_classifier
from cifarlab.models.weights import load_weights, read_weights
from tests.tiny import train_tiny

NAME = "test_resnet"
State = dict[str, torch.Tensor]


def a_model(seed: int = 0, name: str = NAME) -> Any:
    """Return a model of 10 classes whose batch norms have statistics of their own."""
    torch.manual_seed(seed)
    model = timm.create_model(name, num_classes=10)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.randn(module.num_features)
            module.running_var = torch.rand(module.num_features) + 0.5
    return model


@pytest.fixture(scope="module")
def model() -> Any:
    return a_model(0)


@pytest.fixture(scope="module")
def state(model: Any) -> State:
    return model.state_dict()


@pytest.fixture(scope="module")
def average() -> State:
    return a_model(1).state_dict()


def prefixed(state: State, prefix: str) -> State:
    return {f"{prefix}{name}": value for name, value in state.items()}


def loads(path: Path, expected: State, *words: str) -> None:
    """Check that a backbone loads the file, tensor for tensor, and that the report says `words`."""
    backbone: Any = timm_backbone(NAME, 32, pretrained=str(path))
    own = backbone.state_dict()
    assert own.keys() < expected.keys()
    for name, value in own.items():
        assert torch.equal(value, expected[name].to(value.dtype)), name
        assert value.dtype in (torch.float32, torch.int64)
    assert backbone.loaded.loaded == len(own)
    for word in words:
        assert word in str(backbone.loaded)


def refused(path: Path, *words: str, name: str = NAME) -> None:
    """Check that the file is refused in one readable line that says `words`."""
    with pytest.raises(ConfigError) as caught:
        timm_backbone(name, 32, pretrained=str(path))
    assert caught.value.path == ("model", "backbone", "pretrained")
    message = str(caught.value)
    for word in (str(path), *words):
        assert word in message, message
    assert message.isprintable(), message
    assert "weights_only" not in message
    assert "..." not in message
    assert len(message) < 500 + len(str(path))


class CfgNode(dict):
    """A dictionary with attributes, as yacs, easydict and Lightning have them."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.__dict__["frozen"] = True


class Mode(enum.Enum):
    FAST = 1


class Slots:
    __slots__ = ("a",)

    def __init__(self):
        self.a = 1


def stored_as(dtype: torch.dtype) -> Callable[[State], State]:
    return lambda s: {n: v.to(dtype) if v.is_floating_point() else v for n, v in s.items()}


# Name of the wrapping: (what the file holds, words of the report).
WRAPPINGS: dict[str, tuple[Callable[[State], Any], str]] = {
    "plain": (dict, "tensors loaded"),
    "net": (lambda s: {"net": s, "acc": 93.1, "epoch": 3}, "from net"),
    "model": (lambda s: {"model": s, "optimizer": {"state": {}, "param_groups": []}}, "from model"),
    "model_state_dict": (lambda s: {"model_state_dict": s, "loss": torch.tensor(0.5)}, "model_state_dict"),
    "state_dict": (lambda s: {"state_dict": s, "best_acc1": torch.tensor(70.0)}, "from state_dict"),
    "network": (lambda s: {"network": s}, "from network"),
    "weights": (lambda s: {"weights": s, "meta": {"lr": 0.1}}, "from weights"),
    "params": (lambda s: {"params": s}, "from params"),
    "state_dict_ema alone": (lambda s: {"state_dict_ema": s}, "from state_dict_ema"),
    "model_ema": (lambda s: {"model_ema": s, "epoch": 1}, "from model_ema"),
    "ema one deeper": (lambda s: {"ema": {"module": s, "decay": 0.999}}, "from ema.module"),
    "a user's own word": (lambda s: {"mine": s, "epoch": 1}, "from mine"),
    "two deeper": (lambda s: {"checkpoint": {"model": s, "rng": torch.get_rng_state()}}, "checkpoint.model"),
    "DataParallel": (lambda s: prefixed(s, "module."), "module. removed"),
    "torch.compile": (lambda s: prefixed(s, "_orig_mod."), "_orig_mod. removed"),
    "DataParallel of compiled": (lambda s: prefixed(s, "module._orig_mod."), "module._orig_mod. removed"),
    "Lightning of compiled": (lambda s: {"state_dict": prefixed(s, "model._orig_mod.")}, "removed"),
    "net.": (lambda s: prefixed(s, "net."), "net. removed"),
    "backbone.": (lambda s: prefixed(s, "backbone."), ""),
    "module.backbone.": (lambda s: {"model": prefixed(s, "module.backbone.")}, "module. removed"),
    "a user's own prefix": (lambda s: prefixed(s, "my_trunk.inner."), "my_trunk.inner. removed"),
    "a loss with a buffer": (
        lambda s: {**prefixed(s, "model."), "criterion.weight": torch.ones(10)},
        "criterion.weight: not in the module",
    ),
    "AveragedModel": (lambda s: {**prefixed(s, "module."), "n_averaged": torch.tensor(7)}, "7 models"),
    "Namespace": (lambda s: {"state_dict": s, "args": Namespace(lr=0.1)}, "argparse.Namespace"),
    "CfgNode": (lambda s: {"model": s, "config": CfgNode(lr=0.1, deep=CfgNode())}, "CfgNode"),
    "other objects": (
        lambda s: {"model": s, "path": Path("x"), "mode": Mode.FAST, "log": defaultdict(list, a=[1])},
        "PosixPath",
    ),
    "slots": (lambda s: {"model": s, "of": Slots()}, "Slots"),
    "half": (stored_as(torch.half), "float16"),
    "bfloat16": (stored_as(torch.bfloat16), "bfloat16"),
    "float64": (stored_as(torch.double), ""),
    "numpy": (lambda s: {"state_dict": {n: v.numpy() for n, v in s.items()}}, "from state_dict"),
    "numpy of the other byte order": (
        lambda s: {n: v.numpy().astype(v.numpy().dtype.newbyteorder(">"), order="F") for n, v in s.items()},
        "",
    ),
    "parameters": (lambda s: {n: nn.Parameter(v, v.is_floating_point()) for n, v in s.items()}, ""),
    "a number beside them": (lambda s: {**s, "version": 2}, "version"),
}  # fmt: skip


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_a_wrapping_that_fits(wrapping: str, state: State, tmp_path: Path):
    wrap, words = WRAPPINGS[wrapping]
    path = tmp_path / "file.pth"
    torch.save(wrap(state), path)
    expected = state
    if wrapping in ("half", "bfloat16"):
        dtype = torch.half if wrapping == "half" else torch.bfloat16
        expected = {n: v.to(dtype).float() if v.is_floating_point() else v for n, v in state.items()}
    loads(path, expected, words)


@pytest.mark.parametrize("kind", ["plain", "wrapped", "objects"])
def test_a_file_from_before_pytorch_1_6(kind: str, state: State, tmp_path: Path):
    content: Any = {"plain": state, "wrapped": {"state_dict": prefixed(state, "module.")},
                    "objects": {"state_dict": state, "args": Namespace(lr=1)}}[kind]  # fmt: skip
    torch.save(content, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    loads(tmp_path / "old.pth", state)


@pytest.mark.parametrize("ending", [".bin", ".pt", ".pth", "", ".safetensors"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_safetensors_under_any_ending(ending: str, dtype: torch.dtype, state: State, tmp_path: Path):
    stored = {n: v.to(dtype) if v.is_floating_point() else v for n, v in prefixed(state, "model.").items()}
    save_file(stored, tmp_path / f"file{ending}")
    expected = {n: v.to(dtype).float() if v.is_floating_point() else v for n, v in state.items()}
    loads(tmp_path / f"file{ending}", expected, "model. removed")


def test_torchs_file_under_the_ending_of_safetensors(state: State, tmp_path: Path):
    torch.save(state, tmp_path / "file.safetensors")
    loads(tmp_path / "file.safetensors", state)


@pytest.mark.parametrize("ema", [False, True])
def test_a_checkpoint_of_timms_training_script(ema: bool, model: Any, state: State, tmp_path: Path):
    """timm's own saver, with the arguments of its script and an average."""
    from timm.utils.checkpoint_saver import CheckpointSaver
    from timm.utils.model_ema import ModelEmaV3

    averaged = ModelEmaV3(model)
    torch.manual_seed(3)
    for value in averaged.module.parameters():
        value.data.add_(torch.randn_like(value))
    saver = CheckpointSaver(
        nn.DataParallel(model), torch.optim.SGD(model.parameters(), 0.1, momentum=0.9),
        args=Namespace(model=NAME, lr=0.1, out=Path("x")), model_ema=averaged if ema else None,
        checkpoint_dir=str(tmp_path),
    )  # fmt: skip
    saver.save_checkpoint(0, metric=0.5)
    expected = averaged.module.state_dict() if ema else state
    word = "from state_dict_ema, an average (not used: state_dict)" if ema else "from state_dict"
    loads(tmp_path / "last.pth.tar", expected, word, "argparse.Namespace")


@pytest.mark.parametrize("word", ["model", "net"])
@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_of_lightning(word: str, tmp_path: Path):
    """Lightning's own trainer and callbacks, with hyperparameters of several types."""
    import pytorch_lightning as pl
    from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint

    class Lit(pl.LightningModule):
        def __init__(self, args: Namespace, config: CfgNode, mode: Mode):
            super().__init__()
            self.save_hyperparameters()
            setattr(self, word, a_model(4))

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            loss = getattr(self, word)(batch[0]).square().mean()
            self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters())
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

    lit = Lit(Namespace(lr=0.1), CfgNode(a=1), Mode.FAST)
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.rand(4, 3, 32, 32)), batch_size=2)
    callbacks: Any = [EarlyStopping("loss"), ModelCheckpoint(tmp_path, monitor="loss")]
    trainer = pl.Trainer(
        max_epochs=1, logger=False, accelerator="cpu", enable_progress_bar=False, callbacks=callbacks,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(lit, data)
    trainer.save_checkpoint(tmp_path / "lit.ckpt")
    loads(tmp_path / "lit.ckpt", getattr(lit, word).state_dict(), "from state_dict", f"{word}. removed")


@pytest.mark.parametrize(
    ("both", "word"),
    [
        (lambda s, e: {"state_dict": s, "state_dict_ema": e}, "from state_dict_ema, an average"),
        (lambda s, e: {"model_ema": prefixed(e, "module."), "model": s}, "(not used: model)"),
        (lambda s, e: {"ema": {"module": e}, "net": prefixed(s, "module.")}, "(not used: net)"),
        (lambda s, e: {"model": s, "swa": {**prefixed(e, "module."), "n_averaged": torch.tensor(2)}}, "swa"),
        (lambda s, e: {"current_model_state": s, "state_dict": e}, "(not used: current_model_state)"),
    ],
)
def test_of_a_model_and_its_average_the_average_is_taken(both: Any, word: str, state: State, average: State,
                                                         tmp_path: Path):  # fmt: skip
    torch.save(both(state, average), tmp_path / "both.pt")
    loads(tmp_path / "both.pt", average, word)


def test_an_average_of_no_models_is_not_taken(model: Any, state: State, tmp_path: Path):
    stale = {**prefixed(a_model(5).state_dict(), "module."), "n_averaged": torch.tensor(0)}
    assert stale.keys() == AveragedModel(model).state_dict().keys()
    torch.save({"model": state, "average": stale}, tmp_path / "both.pt")
    loads(tmp_path / "both.pt", state, "not used: average")


def test_results_beside_a_model_are_no_state_dict(state: State, tmp_path: Path):
    torch.save({"model": state, "scores": {"top1": torch.tensor(0.5)}}, tmp_path / "file.pt")
    backbone: Any = timm_backbone(NAME, 32, pretrained=str(tmp_path / "file.pt"))
    assert backbone.loaded.notes == ["from model"]


def test_the_last_checkpoint_of_a_run_gives_its_average(tmp_path: Path):
    """best.pt holds the averaged weights, too."""
    words = ["model.backbone={name: test_resnet}", "train.epochs=1", "train.average=ema"]
    folder = train_tiny(tmp_path / "first" / "0", *words)[0].folder
    best = read_weights(folder / "best.pt").state
    last = read_weights(folder / "last.pt", names=best)
    assert last.notes[0].startswith("from engine.average, an average of ")
    assert last.state.keys() == best.keys()
    assert all(torch.equal(last.state[name], best[name]) for name in best)


def test_of_several_models_the_one_that_fits_is_taken(state: State, tmp_path: Path):
    other = a_model(2, "test_convnext").state_dict()
    torch.save({"student": prefixed(state, "module."), "teacher": other}, tmp_path / "two.pt")
    loads(tmp_path / "two.pt", state, "from student (not used: teacher)")


@pytest.mark.parametrize("added", ["", "module.", "model.", "_orig_mod.module.", "anything."])
def test_a_model_whose_top_module_is_called_model(added: str, tmp_path: Path):
    own = {"model.0.weight": torch.rand(3, 2), "model.0.bias": torch.rand(3)}
    torch.save(prefixed(own, added), tmp_path / "file.pt")
    read = read_weights(tmp_path / "file.pt", names=own).state
    assert read.keys() == own.keys()
    assert all(torch.equal(read[name], own[name]) for name in own)


def a_classifier(seed: int, **options: Any) -> Any:
    torch.manual_seed(seed)
    config = ModelConfig.model_validate({"backbone": NAME, "head": "linear", **options})
    return build_classifier(config, 32, 5)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"model": s, "args": Namespace(a=1)},
        lambda s: {"state_dict": prefixed(s, "module.")},
        lambda s: prefixed(s, "_orig_mod."),
        lambda s: {"net": prefixed(s, "classifier.")},
        lambda s: {"state_dict": a_classifier(8).state_dict(), "state_dict_ema": s},
    ],
)
def test_init_from_a_wrapped_classifier(wrap: Any, tmp_path: Path):
    other = a_classifier(1)
    torch.save(wrap(other.state_dict()), tmp_path / "file.pt")
    model = a_classifier(0, init=str(tmp_path / "file.pt"))
    for name, value in model.state_dict().items():
        assert name in ("mean", "std") or torch.equal(value, other.state_dict()[name]), name
    assert torch.equal(model.head.fc.weight, other.head.fc.weight)


# What is refused.


def onnx_file(path: Path) -> None:
    """Write a model of one node in ONNX's format (protocol buffers), as torch.onnx does."""
    path.write_bytes(b"\x08\x08\x12\x07pytorch\x1a\x052.0.0:\x10\n\x06\n\x01x\x12\x01y\x12\x06main_g")


def cut(path: Path, share: float = 0.6) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def text(words: str) -> Callable[[Path, Any], object]:
    return lambda path, _: path.write_text(words)


def cut_torch(path: Path, model: Any) -> None:
    torch.save(model.state_dict(), path)
    cut(path)


def cut_old(path: Path, model: Any) -> None:
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=False)
    cut(path)


def cut_safetensors(path: Path, model: Any) -> None:
    save_file(model.state_dict(), path)
    cut(path)


def keras_file(path: Path, _: Any) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("metadata.json", "config.json", "model.weights.h5"):
            archive.writestr(name, "{}")


def optimizer_alone(path: Path, model: Any) -> None:
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model(torch.rand(2, 3, 32, 32)).sum().backward()
    optimizer.step()
    torch.save({"optimizer": optimizer.state_dict(), "epoch": 3}, path)


def script(path: Path, _: Any) -> None:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)


def exported(path: Path, _: Any) -> None:
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.rand(1, 2),)), path)


def nothing_in(_: Any) -> dict:
    return {"model": {}, "epoch": 3}


def save(build: Callable[[Any], Any]) -> Callable[[Path, Any], object]:
    return lambda path, model: torch.save(build(model), path)


def with_value(value: float, place: Any = slice(None)) -> Callable[[Any], State]:
    def changed(model: Any) -> State:
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        state["layer1.0.conv1.weight"].flatten()[place] = value
        return state

    return changed


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
SAVE = "torch.save(model.state_dict(), 'weights.pt')"
REFUSED: dict[str, tuple[Callable[[Path, Any], object], tuple[str, ...]]] = {
    "whole model": (save(lambda m: m), ("a whole model (timm.models.resnet.ResNet)", SAVE)),
    "whole model, wrapped": (save(lambda m: {"model": m, "epoch": 1}), ("a whole model (timm.", SAVE)),
    "whole old model": (lambda path, m: torch.save(m, path, _use_new_zipfile_serialization=False),
                        ("a whole model (timm.models.resnet.ResNet)", SAVE)),
    "pointer": (text(POINTER), ("a pointer of Git LFS", "git lfs pull")),
    "html": (text("\n<!DOCTYPE html>\n<html><title>404</title></html>"), ("HTML page", "download")),
    "html with a comment": (text("<!-- x --><HTML lang='en'>"), ("HTML page", "download")),
    "empty": (text(""), ("is empty",)),
    "cut zip": (cut_torch, ("cut off or damaged", "again")),
    "cut old file": (cut_old, ("cut off or damaged", "again")),
    "cut safetensors": (cut_safetensors, ("cut off or damaged", "again")),
    "hdf5": (lambda path, _: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(500)), ("HDF5", "Keras")),
    "keras": (keras_file, ("Keras",)),
    "onnx": (lambda path, _: onnx_file(path), ("ONNX",)),
    "gzip": (lambda path, _: path.write_bytes(b"\x1f\x8b\x08" + bytes(500)), ("gzip", "unpack")),
    "text": (text("epoch,loss\n1,0.5\n\x1b[31m"), ("a text file",)),
    "json": (text('{"weight_map": {"a": "b"}}'), ("a text file",)),
    "binary": (lambda path, _: path.write_bytes(bytes(range(128, 256)) * 9), ("of an unknown kind",)),
    "torchscript": (script, ("TorchScript", SAVE)),
    "exported": (exported, ("torch.export", SAVE)),
    "other zip": (lambda path, _: zipfile.ZipFile(path, "w").close(), ("a zip archive",)),
    "optimizer": (optimizer_alone, ("an optimizer's state", SAVE)),
    "no tensors": (save(nothing_in), ("no tensors", SAVE)),
    "a list": (save(lambda m: [*m.state_dict().values()]), ("a list", SAVE)),
    "an object": (save(lambda m: Namespace(lr=1)), ("an object (argparse.Namespace)", SAVE)),
    "an object of slots": (save(lambda m: Slots()), ("an object (tests.models.test_weight", SAVE)),
    "a name twice": (
        save(lambda m: prefixed(m.state_dict(), "a.") | {"conv1.0.weight": torch.rand(24, 3, 3, 3)}),
        ("both conv1.0.weight and a.conv1.0.weight", SAVE),
    ),
    "plain pickle": (lambda path, m: path.write_bytes(pickle.dumps(m.state_dict())), ("pickle", SAVE)),
    "protocol 4": (lambda path, m: torch.save({"a": 1, "b": Namespace()}, path, pickle_protocol=4),
                   ("protocol 4",)),
    "NaN": (save(with_value(float("nan"))), ("layer1.0.conv1.weight", "not finite")),
    "one infinite": (save(with_value(float("inf"), 7)), ("layer1.0.conv1.weight", "1 of 9216", "not finite")),
    "NaN in half": (save(lambda m: {n: v.half() for n, v in with_value(float("nan"), 3)(m).items()}),
                    ("layer1.0.conv1.weight", "not finite")),
    "two models": (save(lambda m: {"student": m.state_dict(), "teacher": a_model(1).state_dict()}),
                   ("student, teacher", "torch.save(")),
    "quantized": (save(lambda m: {"a.weight": torch.quantize_per_tensor(torch.rand(4), 0.1, 0, torch.qint8)}),
                  ("a.weight", "quantized")),
    "no values": (save(lambda m: {n: v.to("meta") for n, v in m.state_dict().items()}), ("without values",)),
    "names of control characters": (save(lambda m: {"\x1b[31mred": torch.rand(9)}), (r"\x1b[31mred",)),
}  # fmt: skip


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.filterwarnings("ignore")
def test_what_is_no_file_of_weights_is_refused_for_what_it_is(kind: str, ending: str, tmp_path: Path):
    write, words = REFUSED[kind]
    path = tmp_path / f"file{ending}"
    write(path, a_model())
    refused(path, *words)


@pytest.mark.parametrize("share", [0.0001, 0.001, 0.01, 0.3, 0.9999])
@pytest.mark.parametrize("write", [cut_torch, cut_safetensors], ids=["torch", "safetensors"])
def test_a_file_cut_off_anywhere(write: Any, share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(f"{__name__}.cut", lambda path: None)
    path = tmp_path / "file.safetensors"
    write(path, a_model())
    whole = path.read_bytes()
    for size in (1, 3, 9, int(len(whole) * share)):
        path.write_bytes(whole[:size])
        refused(path, "cut off or damaged")


def test_a_pattern_of_minus_infinity_that_the_module_has_too_is_no_mistake():
    module = nn.Linear(2, 2)
    module.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
    state = {name: value.clone() for name, value in module.state_dict().items()}
    assert load_weights(module, state, source="x.pt").loaded == 3


def test_a_tensor_that_is_not_used_may_be_nan(state: State, tmp_path: Path):
    torch.save({**state, "fc.weight": torch.full((10, 4), float("nan"))}, tmp_path / "file.pt")
    timm_backbone(NAME, 32, pretrained=str(tmp_path / "file.pt"))


def test_the_command_ends_with_status_2(cifarlab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    torch.save(a_model(), tmp_path / "whole.pt")
    for key in ("model.backbone.pretrained", "model.init"):
        status, _, err = cifarlab("train", "demo", "model.backbone={name: test_resnet}", f"{key}=whole.pt")
        assert status == 2
        assert err.startswith(f"error: {key}: whole.pt: ")
        assert "a whole model (timm.models.resnet.ResNet)" in err
        assert err.count("\n") == 1


# Hostile files.


class Canary:
    """Code that a pickle asks to run: it creates a file."""

    def __init__(self, run: Any, *words: Any):
        self.run, self.words = run, words

    def __reduce__(self) -> Any:
        return self.run, self.words

    def __hash__(self) -> int:
        return 1


def touch(path: str) -> str:
    """Create a file: a function of an importable module, which no list of known dangers has."""
    Path(path).touch()
    return path


HOSTILE: dict[str, Callable[[State, Canary], Any]] = {
    "top": lambda s, evil: evil,
    "beside": lambda s, evil: {"state_dict": s, "extra": evil},
    "nested in args": lambda s, evil: {"state_dict": s, "args": Namespace(deep=[{"a": (evil,)}])},
    "a key": lambda s, evil: {"state_dict": s, evil: 1},
    "a key of the state dict": lambda s, evil: {**s, evil: torch.rand(1)},
    "among the tensors": lambda s, evil: {**s, "evil": evil},
    "in the state of an object": lambda s, evil: {"state_dict": s, "args": CfgNode(a=evil)},
    "an argument": lambda s, evil: {"state_dict": s, "extra": Canary(OrderedDict, [("a", evil)])},
    "a tensor's storage": lambda s, evil: {
        **s, "fc.bias": Canary(torch._utils._rebuild_tensor_v2, evil, 0, (1,), (1,), False, {})
    },
    "a tensor's hooks": lambda s, evil: {
        **s, "fc.bias": Canary(torch._utils._rebuild_parameter, torch.rand(1), False, evil)
    },
    "an array's bytes": lambda s, evil: {**s, "fc.bias": Canary(np_reconstruct(), evil, (0,), b"b")},
}  # fmt: skip


def np_reconstruct() -> Any:
    import numpy as np

    return np.zeros(1).__reduce__()[0]


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("place", HOSTILE)
@pytest.mark.parametrize("function", ["os.system", "exec", "subprocess", "own", "map"])
def test_a_hostile_file_runs_nothing(function: str, place: str, old: bool, state: State, tmp_path: Path):
    import subprocess

    mark = tmp_path / "mark"
    code = f"open({str(mark)!r}, 'w').close()"
    evil = {
        "os.system": Canary(os.system, f"touch {mark}"),
        "exec": Canary(exec, code),
        "subprocess": Canary(subprocess.check_output, ["touch", str(mark)]),
        "own": Canary(touch, str(mark)),
        "map": Canary(list, Canary(map, touch, [str(mark)])),
    }[function]
    path = tmp_path / "file.pt"
    torch.save(HOSTILE[place](state, evil), path, _use_new_zipfile_serialization=not old)
    for load in (
        lambda: loads(path, state),
        lambda: a_classifier(0, init=str(path)),
    ):
        said = ""
        try:
            load()
        except ConfigError as error:
            said = str(error)
        assert said.isprintable()
        assert "weights_only" not in said
    assert not mark.exists()


def test_the_canary_would_run(tmp_path: Path):
    mark = tmp_path / "mark"
    pickle.loads(pickle.dumps({"a": Canary(os.system, f"touch {mark}")}))
    assert mark.exists()


def test_a_file_that_asks_for_the_system_is_refused_and_says_so(state: State, tmp_path: Path):
    torch.save({"state_dict": state, "extra": Canary(os.system, "true")}, tmp_path / "file.pt")
    refused(tmp_path / "file.pt", f"{os.system.__module__}.system", "do not trust")


def test_reading_imports_nothing(state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A class of a module that is not imported yet stays so."""
    import sys

    (tmp_path / "not_imported_yet.py").write_text("class Thing:\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import not_imported_yet  # pyright: ignore[reportMissingImports]

    torch.save({"state_dict": state, "args": not_imported_yet.Thing()}, tmp_path / "file.pt")
    del sys.modules["not_imported_yet"]
    loads(tmp_path / "file.pt", state, "not_imported_yet.Thing")
    assert "not_imported_yet" not in sys.modules


def test_what_the_user_allows_torch_to_load_is_as_before(state: State, tmp_path: Path):
    torch.save({"state_dict": state, "args": Namespace()}, tmp_path / "file.pt")
    before = set(torch.serialization.get_safe_globals())
    loads(tmp_path / "file.pt", state)
    assert set(torch.serialization.get_safe_globals()) == before
