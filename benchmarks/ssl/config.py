"""The configuration of a run: committed files, one a method, a preset over them, then overrides.

Layers, the later ones win: configs/base.toml, configs/<method>.toml, each preset
(configs/presets/<name>.toml, its [methods.<method>] tables, then the weights that a search chose,
<name>.weights.json), and what the caller sets. An unknown key is an error that names the nearest
known one.
"""

import dataclasses
import difflib
import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from benchmarks.data import NAMES
from benchmarks.ssl.methods import METHODS, Method
from benchmarks.ssl.networks import check_queue

CONFIGS = Path(__file__).parent / "configs"
Kind = Literal["none", "lu", "w2"]
KINDS: tuple[str, ...] = get_args(Kind)


class ConfigError(ValueError):
    """A configuration that names something unknown or asks for something impossible."""


class Section(BaseModel):
    """Part of a configuration: no unknown keys, no change after it was made."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(Section):
    dataset: str
    train_count: int | None = Field(None, ge=1)  # first images trained on; all by default
    test_count: int | None = Field(None, ge=1)
    holdout: int = Field(0, ge=0)  # training images, kept out of training, that replace the tests
    side: int | None = Field(
        None, ge=8
    )  # of the images that the network sees; their own by default
    verify: bool = True  # compare files with the published checksums

    @model_validator(mode="after")
    def _known(self) -> "Data":
        if self.dataset not in NAMES:
            raise ValueError(f"must be one of {', '.join(NAMES)}, got {self.dataset!r}")
        return self


class Network(Section):
    backbone: Literal["resnet18", "resnet-small"]
    width: int = Field(16, ge=1)  # of resnet-small's first stage
    hidden: int = Field(ge=1)  # of projector and predictor
    dim: int = Field(ge=2)


class Augment(Section):
    crop: bool = True
    crop_scale: tuple[float, float]
    flip: float = Field(ge=0, le=1)
    jitter: float = Field(ge=0, le=1)  # probability
    brightness: float = Field(ge=0)
    contrast: float = Field(ge=0)
    saturation: float = Field(ge=0)  # colour images only, as are hue and grey
    hue: float = Field(ge=0, le=0.5)
    grey: float = Field(ge=0, le=1)
    blur: float = Field(ge=0, le=1)
    blur_sigma: tuple[float, float]
    solarise: float = Field(ge=0, le=1)


class Optimizer(Section):
    name: Literal["lars", "sgd", "adamw"]
    lr: float = Field(gt=0)  # of matrices and filters, at batch 256, scaled in proportion
    lr_bias: float = Field(gt=0)  # of parameters with one dimension
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(ge=0)  # not on parameters with one dimension
    eta: float = Field(0.02, gt=0)  # LARS
    warmup_epochs: float = Field(ge=0)
    final_factor: float = Field(0.001, ge=0, le=1)  # of the cosine


class Weight(Section):
    """alpha_e = start - e (start - end) / epochs, for epochs e = 1, 2, ..."""

    start: float = Field(ge=0)
    end: float = Field(ge=0)

    def at(self, epoch: int, epochs: int) -> float:
        """In the epoch of this number, counted from 1."""
        return self.start - epoch * (self.start - self.end) / epochs


class Uniformity(Section):
    kind: Kind = "none"
    lu: Weight
    w2: Weight
    t: float = Field(2.0, gt=0)  # of L_U
    ridge: float = Field(0.0, ge=0)  # of W2

    def weight(self, epoch: int, epochs: int) -> float:
        """Factor on the uniformity loss in an epoch, counted from 1."""
        return 0.0 if self.kind == "none" else getattr(self, self.kind).at(epoch, epochs)


class Probe(Section):
    epochs: int = Field(ge=0)  # 0: no probe
    lr: float = Field(gt=0)
    momentum: float = Field(ge=0, lt=1)
    weight_decay: float = Field(ge=0)
    batch: int = Field(ge=1)
    augment: bool  # crop and flip
    copies: int = Field(0, ge=0)  # of the augmented training set, taken in turn; 0: new each epoch


class Evaluation(Section):
    every: int = Field(ge=1)  # epochs; the last one always
    neighbours: int = Field(ge=1)
    probe: Probe


class Config(Section):
    """Everything that decides a run's figures, but the machine."""

    preset: list[str] = []
    method_name: str
    method: dict[str, Any]
    seed: int = 0
    epochs: int = Field(ge=1)
    batch: int = Field(ge=2)  # images a step, over all processes
    precision: Literal["float32", "bfloat16", "float16"] = "float32"  # autocast, on CUDA only
    data: Data
    network: Network
    augment: Augment
    optimizer: Optimizer
    uniformity: Uniformity
    evaluation: Evaluation

    @model_validator(mode="after")
    def _possible(self) -> "Config":
        rows = self.build_method().queue_rows
        if rows:
            check_queue(rows, self.batch)
        return self

    def build_method(self) -> Method:
        """The method with its settings."""
        kind = METHODS[self.method_name]
        fields = {field.name: field for field in dataclasses.fields(kind)}
        for name, value in self.method.items():
            if name not in fields:
                raise ValueError(f"method.{name}: unknown{_nearest(name, fields)}")
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError(f"method.{name}: must be a number, got {value!r}")
        return kind(**self.method)

    def name(self) -> str:
        """As "mocov2-w2-s0": of a run among others of one recipe."""
        return f"{self.method_name}-{self.uniformity.kind}-s{self.seed}"

    def to_json(self) -> str:
        """Every setting, readable."""
        return json.dumps(self.model_dump(mode="json"), indent=2) + "\n"

    def recipe(self) -> str:
        """Twelve characters that differ where anything but method, uniformity and seed does."""
        kept = self.model_dump(mode="json")
        for key in ("method_name", "method", "seed", "uniformity", "preset"):
            del kept[key]
        text = json.dumps(kept, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def load(
    method: str, presets: Sequence[str] = (), overrides: Mapping[str, Any] | None = None
) -> Config:
    """The configuration of a method; overrides are by dotted name, as {"optimizer.lr": 0.1}."""
    if method not in METHODS:
        raise ConfigError(f"method: unknown, {method!r}{_nearest(method, METHODS)}")
    merged: dict[str, Any] = {}
    for layer in (_read(CONFIGS / "base.toml"), _read(CONFIGS / f"{method}.toml")):
        _merge(merged, layer)
    for preset in presets:
        path = CONFIGS / "presets" / f"{preset}.toml"
        if not path.exists():
            raise ConfigError(f"preset: unknown, {preset!r}{_nearest(preset, preset_names())}")
        layer = _read(path)
        of_methods = layer.pop("methods", {})
        _merge(merged, layer)
        _merge(merged, of_methods.get(method, {}))
        _merge(merged, {"uniformity": searched_weights(preset).get(method, {})})
    for name, value in (overrides or {}).items():
        *parents, last = name.split(".")
        nested: dict[str, Any] = {last: value}
        for parent in reversed(parents):
            nested = {parent: nested}
        _merge(merged, nested)
    merged |= {"method_name": method, "preset": list(presets)}
    return from_dict(merged)


def from_dict(values: Mapping[str, Any]) -> Config:
    """A checked configuration; ConfigError tells of every fault."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(values, fault) for fault in error.errors())) from None


def preset_names() -> list[str]:
    """The presets that are committed."""
    return sorted(path.stem for path in (CONFIGS / "presets").glob("*.toml"))


def weights_file(preset: str) -> Path:
    """Where a search leaves the weights that it chose for a preset."""
    return CONFIGS / "presets" / f"{preset}.weights.json"


def searched_weights(preset: str) -> dict[str, Any]:
    """By method: {"lu": {"start": ..., "end": ...}, "w2": ...}; empty before any search."""
    path = weights_file(preset)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def parse_setting(text: str) -> tuple[str, Any]:
    """("a.b", value) from "a.b=value"; the value is JSON, or a string where it is not."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ConfigError(f"--set {text}: expected name=value, as optimizer.lr=0.1")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _read(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return tomllib.load(file)


def _merge(into: dict[str, Any], layer: Mapping[str, Any]) -> None:
    for name, value in layer.items():
        if isinstance(value, Mapping) and isinstance(into.get(name), dict):
            _merge(into[name], value)
        else:
            into[name] = dict(value) if isinstance(value, Mapping) else value


def _explain(values: Mapping[str, Any], fault: Mapping[str, Any]) -> str:
    """As "optimizer.leaning_rate: unknown; the nearest known is lr"."""
    where = ".".join(map(str, fault["loc"]))
    if fault["type"] == "extra_forbidden":
        return f"{where}: unknown{_nearest(str(fault['loc'][-1]), _known(fault['loc'][:-1]))}"
    message = str(fault["msg"]).removeprefix("Value error, ")
    given = f", got {fault['input']!r}" if fault["type"] != "missing" and where else ""
    given = "" if "got" in message or isinstance(fault["input"], Mapping) else given
    return f"{where}: {message}{given}" if where else message


def _known(location: Sequence[Any]) -> Iterable[str]:
    """Keys of the section at this place."""
    section: Any = Config
    for part in location:
        section = section.model_fields[part].annotation
    return section.model_fields


def _nearest(name: str, known: Iterable[str]) -> str:
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; the nearest known is {close[0]}" if close else f"; known are {', '.join(names)}"
