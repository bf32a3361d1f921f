"""The steps of gpu_suite.py, in order of worth."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
RECIPES = HERE.parent / "src" / "cifarlab" / "recipes"
# The tutorial's rows that need no ResNet-50, written out: the suite begins before what it needs is installed.
ROWS = (
    "resnet18_baseline", "resnet18_augment", "resnet18_baseline_lbsmooth", "resnet18_baseline_wd01",
    "resnet18_pretrained", "resnet18_pretrained_arcface", "resnet18_pretrained_arcface_mst",
    "resnet18_pretrained_arcface_224x224",
)  # fmt: skip
# What a rehearsal lays over every recipe.
DRY = (
    "data.dataset={name: synthetic, train: 300, test: 100}", "data.val=100", "data.batch_size=50",
    "data.image_size=32", "model.backbone=resnet18", "model.init=null", "train.epochs=1", "train.stop=null",
)  # fmt: skip


@dataclass(frozen=True)
class Step:
    """A command, without `python`, and where its result is.

    result: a JSON file that it writes; a folder: of a run, whose summary, metrics and environment are the
    result; None: what it prints.
    """

    name: str
    words: tuple[str, ...]
    result: Path | None = None


@dataclass(frozen=True)
class Plan:
    """What the steps depend on.

    out: the folder of results. engine: the one that captures steps. dry: seconds a step, for a rehearsal.
    timm_train: timm's train.py. start: a run whose weights replace ImageNet's. Without one of these two,
    the steps that need it are left out.
    """

    out: Path
    engine: str = "graph"
    dry: bool = False
    timm_train: Path | None = None
    start: Path | None = None

    def steps(self) -> list[Step]:
        return [*self._first(), *self._speed(), *(() if self.dry else self._tables())]

    def _first(self) -> list[Step]:
        """Does the loop run on the device, and compute what the CPU computes, whichever engine runs it?"""
        return [
            self._benchmark("gpu_tests", "gpu_tests"),
            *(
                self._benchmark(f"gpu_losses_{recipe}", "gpu_losses", *self._pictures(), "--recipes", recipe,
                                "--engines", "eager", "compiled", self.engine)
                for recipe in ("resnet18_baseline", "resnet18_augment", "resnet18_pretrained_arcface")
            ),
        ]  # fmt: skip

    def _speed(self) -> list[Step]:
        """What whole runs cost, with evaluations and checkpoints; what others' cost; time to an accuracy."""
        captured, from_scratch = f"train.engine={self.engine}", "model.backbone.pretrained=false"
        large = ("data.image_size=224", "train.stop=3")
        eager, compiled = "train.engine=eager", "train.engine=compiled"
        return [
            self._run("resnet18_baseline_graph", "resnet18_baseline", captured),
            self._run("resnet18_baseline_eager", "resnet18_baseline", eager),
            self._run("resnet18_baseline_compiled", "resnet18_baseline", compiled),
            self._benchmark("compare_seed_32", "compare_seed", *self._pictures(), "--sizes", "32",
                            "--engine", self.engine),
            self._benchmark("compare_seed_224", "compare_seed", *self._pictures(), "--sizes", "224",
                            "--engine", self.engine),
            self._run("resnet18_224_graph", "resnet18_baseline", captured, *large),
            self._run("resnet18_224_compiled", "resnet18_baseline", compiled, *large),
            *(self._seeds(number, captured, "train.stop=50") for number in (1, 8)),
            *self._overlapping(captured, "train.stop=50"),
            *(
                self._run(recipe, recipe, captured)
                for recipe in ("resnet18_augment", "resnet18_baseline_lbsmooth", "resnet18_baseline_wd01")
            ),
            *(
                self._run(recipe, recipe, captured, from_scratch)
                for recipe in ("resnet18_pretrained", "resnet18_pretrained_arcface")
            ),
            *(
                self._cifarlab(f"profile_{engine}", "profile", "resnet18_baseline", "--json",
                               f"train.engine={engine}", *self._short())
                for engine in dict.fromkeys((self.engine, "eager", "compiled"))
            ),
            self._benchmark("live_taps", "live_taps", *self._pictures(), "--device", "auto"),
            self._time_to("speed/cpu_75", seeds=30),
            self._time_to("speed/cpu_70", seeds=30),
            self._time_to("gpu_80", seeds=3),
            *self._timm(),
            *(
                self._benchmark(f"scaling_{key}", "scaling", *self._pictures(), "--engine", self.engine,
                                "--vary", key, "--seeds")
                for key in ("pictures", "epochs", "batch", "pixels", "classes")
            ),
            self._benchmark("scaling_seeds", "scaling", *self._pictures(), "--engine", self.engine, "--vary"),
        ]  # fmt: skip

    def _tables(self) -> list[Step]:
        """The ladder and the tutorial's table: first what they need, a recipe a step, then each whole.

        Their runs lie apart: those of the same names above have other settings.
        """
        rungs = [f"ladder/{path.stem}" for path in sorted((RECIPES / "ladder").glob("*.yaml"))]
        # A ResNet-18's weights are a start for no ResNet-50, and without a network there are no others.
        experiments = [name for name in ROWS if self.start is not None or "pretrained" not in name]
        start: tuple[str, ...] = ("--start", str(self.start.resolve())) if self.start else ()
        only = [word for name in experiments for word in ("--only", name)]
        how = (f"train.engine={self.engine}", "--runs", str(self.out / "tables"))
        whole = ("--budget", "whole", "--json", *start, *how)
        return [
            *(
                self._cifarlab(rung.replace("/", "_"), "train", rung, "--seeds", "3", *how) for rung in rungs
            ),
            self._cifarlab("ladder", "ladder", "ladder/", "--seeds", "3", "--json", *how),
            *(
                self._cifarlab(f"reproduce_{name}", "reproduce", "--only", name, *whole)
                for name in experiments
            ),
            self._cifarlab("reproduce", "reproduce", *only, *whole),
        ]  # fmt: skip

    def _benchmark(self, name: str, script: str, *options: str) -> Step:
        """A script of this folder, which writes its result itself; not where a result counts as done."""
        out = self.out / f"{name}.part.json"
        tiny = ("--tiny",) if self.dry else ()
        return Step(name, (str(HERE / f"{script}.py"), "--out", str(out), *options, *tiny), out)

    def _cifarlab(self, name: str, *words: str) -> Step:
        return Step(name, ("-m", "cifarlab", *words))

    def _run(self, name: str, recipe: str, *overrides: str) -> Step:
        """A training run, whose result is its summary."""
        words = ("train", recipe, *self._short(*overrides), "--name", name, *self._runs())
        return Step(name, ("-m", "cifarlab", *words), self.out / "runs" / name / "0")

    def _seeds(self, at_once: int, *overrides: str, name: str = "") -> Step:
        name = f"eight_seeds_{at_once}_at_once{name}"
        how = ("--seeds", "8", "--at-once", str(at_once), "--name", name, *self._runs())
        return self._cifarlab(name, "train", "resnet18_baseline", *self._short(*overrides), *how)

    def _overlapping(self, *overrides: str) -> list[Step]:
        """Eight seeds whose kernels may run at the same time; without that, processes take turns on a GPU."""
        step = self._seeds(8, *overrides, name="_mps")
        return [] if self.dry else [replace(step, words=(str(HERE / "with_mps.py"), *step.words))]

    def _time_to(self, recipe: str, seeds: int) -> Step:
        own = ("--recipe", recipe, "--override", f"train.engine={self.engine}", "--device", "auto")
        which = ("--seeds", "2" if self.dry else str(seeds))
        name = f"speed_{recipe.removeprefix('speed/')}"
        return self._benchmark(name, "speed", *self._pictures(), *own, *which)

    def _timm(self) -> list[Step]:
        if self.timm_train is None:
            return []
        # Two rounds are what a step's time allows.
        own = ("--timm-train", str(self.timm_train.resolve()), "--engine", self.engine, "--rounds", "2")
        return [self._benchmark("compare_timm", "compare_timm", *self._pictures(), *own)]

    def _pictures(self) -> tuple[str, ...]:
        return () if self.dry else ("--dataset", "cifar100")

    def _runs(self) -> tuple[str, ...]:
        return ("--runs", str(self.out / "runs"))

    def _short(self, *overrides: str) -> tuple[str, ...]:
        """The overrides of a run; in a rehearsal DRY, and of the others those of another key."""
        short = {text.partition("=")[0]: text for text in (*overrides, *(DRY if self.dry else ()))}
        return tuple(short.values())
