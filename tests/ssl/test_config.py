"""benchmarks.ssl.config: layers in their order, the paper's numbers, faults named."""

import json

import pytest

from benchmarks.ssl import config as module
from benchmarks.ssl.config import ConfigError, Weight, from_dict, load, parse_setting, preset_names
from benchmarks.ssl.methods import METHODS
from tests.ssl.conftest import tiny


def test_defaults_are_the_papers() -> None:
    moco = load("mocov2")
    assert (moco.epochs, moco.batch, moco.network.dim, moco.network.hidden) == (500, 256, 256, 2048)
    assert moco.method == {
        "temperature": 0.2, "ema_decay": 0.99, "ema_final": 0.999, "queue_rows": 4096,
    }  # fmt: skip
    optimizer = moco.optimizer
    assert (optimizer.name, optimizer.lr, optimizer.lr_bias) == ("lars", 0.2, 0.005)
    assert (optimizer.eta, optimizer.weight_decay, optimizer.warmup_epochs) == (0.02, 1e-4, 10)
    assert load("barlow").build_method().off_diagonal_weight == 0.08
    assert load("byol").build_method().decay(1.0) == 0.99
    assert moco.evaluation.neighbours == 200
    assert (moco.evaluation.probe.epochs, moco.evaluation.probe.lr) == (100, 0.3)


@pytest.mark.parametrize("method", METHODS)
def test_w2_weights_agree_with_the_methods(method: str) -> None:
    """The training steps of `benchmarks.steps` take the method's own number."""
    assert load(method).uniformity.w2.start == METHODS[method].w2_weight
    assert load("barlow").uniformity.w2.end == 0


@pytest.mark.parametrize("preset", preset_names())
@pytest.mark.parametrize("method", METHODS)
def test_every_preset_fits_every_method(method: str, preset: str) -> None:
    assert load(method, [preset]).preset == [preset]


def test_weight_is_linear_and_counts_epochs_from_one() -> None:
    weight = Weight(start=30.0, end=0.0)
    assert [weight.at(epoch, 3) for epoch in (1, 2, 3)] == [20.0, 10.0, 0.0]


def test_layers() -> None:
    config = load("byol", ["cpu-small"], {"optimizer.lr": 0.5, "data.dataset": "digits"})
    assert config.optimizer.lr == 0.5
    assert config.optimizer.name == "adamw"  # the preset's
    assert config.optimizer.momentum == 0.9  # the base's
    assert config.data.dataset == "digits"
    assert load("mocov2", ["cpu-small"]).method["ema_final"] == 0.99  # the preset's, of one method
    assert load("mocov2", ["cpu-small"]).method["queue_rows"] == 4096


def test_searched_weights_are_a_layer(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.json"
    path.write_text(json.dumps({"byol": {"lu": {"start": 7.0, "end": 6.0}}}))
    monkeypatch.setattr(module, "weights_file", lambda preset: path)
    assert load("byol", ["tiny"]).uniformity.lu == Weight(start=7.0, end=6.0)
    assert load("byol", ["tiny"]).uniformity.w2 == load("byol").uniformity.w2
    assert load("barlow", ["tiny"]).uniformity.lu == load("barlow").uniformity.lu


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"optimizer.momentun": 1}, "optimizer.momentun: unknown; the nearest known is momentum"),
        ({"optimiser.lr": 1}, "optimiser: unknown; the nearest known is optimizer"),
        ({"evaluation.probe.epoch": 1}, "probe.epoch: unknown; the nearest known is epochs"),
        ({"uniformity.w2.xyz": 1}, "uniformity.w2.xyz: unknown; known are start, end"),
        ({"method.temprature": 1}, "method.temprature: unknown; the nearest known is temperature"),
        ({"method.temperature": "hot"}, "method.temperature: must be a number, got 'hot'"),
        ({"optimizer.lr": -1}, "optimizer.lr: .* greater than 0, got -1"),
        ({"epochs": "many"}, "epochs: .* valid integer.*, got 'many'"),
        ({"data.dataset": "imagenet"}, "data: must be one of .*, got 'imagenet'"),
        ({"network.backbone": "vit"}, "network.backbone: .*resnet18.*, got 'vit'"),
        ({"uniformity.kind": "w3"}, "uniformity.kind: .*none.*, got 'w3'"),
        ({"batch": 300}, "queue of 4096 rows takes no batches of 600 keys"),
        ({"method.queue_rows": 0}, "queue_rows must be a whole number from 1, got 0"),
        ({"method.temperature": 0}, "temperature must be above 0, got 0"),
        ({"method.queue_rows": 256}, "queue of 256 rows takes no batches of 512 keys"),
    ],
)  # fmt: skip
def test_faults_are_named(overrides: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load("mocov2", (), overrides)


def test_unknown_method_and_preset() -> None:
    with pytest.raises(ConfigError, match="the nearest known is mocov2"):
        load("moco2")
    with pytest.raises(ConfigError, match="the nearest known is cpu-small"):
        load("byol", ["cpu-smal"])


def test_settings_from_text() -> None:
    assert parse_setting("optimizer.lr=0.1") == ("optimizer.lr", 0.1)
    assert parse_setting("augment.crop_scale=[0.5, 1]") == ("augment.crop_scale", [0.5, 1])
    assert parse_setting("data.dataset=digits") == ("data.dataset", "digits")
    with pytest.raises(ConfigError, match="expected name=value"):
        parse_setting("optimizer.lr")


def test_json_and_back() -> None:
    config = tiny("mocov2", "w2")
    assert from_dict(json.loads(config.to_json())) == config


def test_recipe_ignores_what_a_table_varies() -> None:
    assert tiny("byol", "w2", seed=1).recipe() == tiny("barlow").recipe()
    assert tiny("byol", epochs=3).recipe() != tiny("byol").recipe()
