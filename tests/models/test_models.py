from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import from_yaml
from torch import Tensor, nn

from bnexp.experiment.choices import INITS  # all of them: some are registered outside of bnexp.models
from bnexp.models import ACTIVATIONS, MODELS, Units
from bnexp.models.init import adjust, initialize
from bnexp.models.layers import Linear
from bnexp.norms import NORMS, Norm
from bnexp.randomness import seed_streams
from bnexp.training.population import Population
from bnexp.training.precision import Precision

GREY, COLOUR = (1, 28, 28), (3, 32, 32)
# Options that make a model small enough to be filled with numbers and trained a step; a model without is small enough.
SMALL = {
    "mlp": {"width": 9, "depth": 2},
    "cnn": {"widths": [3, 5]},
    "plain": {"depth": 8, "width": 3},
    "resnet": {"depth": 8, "width": 3},
    "resnet9": {"width": 2},
    "resmlp": {"width": 9, "blocks": 2},
    "rnn": {"width": 5},
    "vit": {"width": 8, "blocks": 1},
}
SHAPE = (2, 16, 16)
# Made of the same layers as the others, and of many millions of weights, which take their time.
TORCHVISION = ("resnet18", "resnet34", "resnet50")
OWN = [name for name in MODELS if name not in TORCHVISION]


def build(name: str, shape: tuple[int, ...], *, classes: int = 10, norm: str = "bn", **changes: Any) -> nn.Module:
    """A model without storage; ``activation`` and ``placement`` among the changes, options from the yaml."""
    units = Units(
        NORMS.bind(from_yaml("norm", norm)), changes.pop("activation", "relu"), changes.pop("placement", "before")
    )
    with torch.device("meta"):
        return MODELS.bind(from_yaml("model", name) | changes)(shape, classes, units)


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def norms(model: nn.Module) -> list[Norm]:
    return [module for module in model.modules() if isinstance(module, Norm)]


def of_kind(model: nn.Module, kind: type[nn.Module]) -> Iterator[nn.Module]:
    return (module for module in model.modules() if isinstance(module, kind))


# ------------------------------------------------------------------------------------------------- sizes and parameters


@pytest.mark.parametrize(
    ("name", "shape", "changes", "parameters", "channels"),
    [
        # 61,706 is LeNet of Dive into Deep Learning, section 7.6; a norm adds a gain for each of 6 + 16 + 120 + 84.
        ("lenet", GREY, {"norm": "none"}, 61_706, [6, 16, 120, 84]),
        ("lenet", GREY, {"norm": "bn"}, 61_706 + 226, [6, 16, 120, 84]),
        ("lenet", GREY, {"norm": "none", "placement": "after"}, 61_706 + 226, [6, 16, 120, 84]),
        # 62,158 and 44,878 of its batch norm net, with padding and as printed, count biases in front of norms.
        ("lenet", GREY, {"norm": "bn", "padding": 2}, 62_158 - 226, [6, 16, 120, 84]),
        ("lenet", GREY, {"norm": "bn", "padding": 0}, 44_878 - 226, [6, 16, 120, 84]),
        ("lenet", GREY, {"norm": "bn", "padding": 0, "placement": "after"}, 44_878, [6, 16, 120, 84]),
        ("lenet", COLOUR, {"norm": "none"}, 61_706 + 2 * 6 * 25 + 16 * (36 - 25) * 120, [6, 16, 120, 84]),
        # 784-100-100-100-10 with a shift for each hidden unit, as an ordinary perceptron.
        ("mlp", GREY, {"norm": "none"}, 78_400 + 100 + 2 * 10_100 + 1_010, [100] * 3),
        ("mlp", GREY, {"norm": "bn"}, 78_400 + 200 + 2 * 10_200 + 1_010, [100] * 3),
        ("mlp", (7,), {"norm": "bn", "depth": 1, "width": 5, "dropout": 0.5}, 35 + 10 + 60, [5]),
        # He et al. 2016, table 6: 0.27 M, 0.85 M and 1.7 M; the digits are those of the usual option A code.
        ("resnet", COLOUR, {"depth": 20}, 269_722, [16] * 7 + [32] * 6 + [64] * 6),
        ("resnet", COLOUR, {"depth": 56}, 853_018, [16] * 19 + [32] * 18 + [64] * 18),
        ("resnet", COLOUR, {"depth": 110}, 1_727_962, [16] * 37 + [32] * 36 + [64] * 36),
        # Page 2018: 6,573,120 without the ten biases of the head.
        ("resnet9", COLOUR, {}, 6_573_130, [64, 128, 128, 128, 256, 512, 512, 512]),
        ("resnet9", GREY, {"width": 8}, None, [8, 16, 16, 16, 32, 64, 64, 64]),
        # torchvision's 11,689,512 with 1000 classes; 10 classes and the 3x3 stem: 11,173,962.
        ("resnet18", COLOUR, {"small_stem": False, "classes": 1000}, 11_689_512, None),
        ("resnet18", COLOUR, {"small_stem": True}, 11_173_962, None),
        ("resnet18", GREY, {"small_stem": True}, 11_173_962 - 2 * 64 * 9, None),
        ("resnet18", GREY, {"small_stem": False}, 11_173_962 + 64 * (49 - 27), None),
        ("resnet34", COLOUR, {"small_stem": False, "classes": 1000}, 21_797_672, None),
        ("resnet50", COLOUR, {"small_stem": False, "classes": 1000}, 25_557_032, None),
    ],
)
def test_models_have_the_published_parameters_and_a_norm_behind_every_linear_map(
    name, shape, changes, parameters, channels
):
    model = build(name, shape, **changes)
    assert parameters is None or count(model) == parameters
    linear_maps = [*of_kind(model, nn.Conv2d | nn.Linear)]
    assert len(norms(model)) == len(linear_maps) - 1  # all but the head
    assert channels is None or [norm.channels for norm in norms(model)] == channels
    widths = [layer.weight.shape[0] for layer in linear_maps]
    assert sorted(norm.channels for norm in norms(model)) == sorted(widths[:-1])


# Every norm in the models that ask most of it (vectors and maps; residual branches), every model with three norms.
PAIRS = {(name, norm) for name in ("lenet", "resnet") for norm in NORMS} | set(product(MODELS, ("none", "bn", "ln")))


@pytest.mark.parametrize(("name", "norm"), sorted(PAIRS))
def test_every_model_answers_a_number_a_class_with_every_norm(name, norm):
    model = build(name, COLOUR, norm=norm, classes=7)
    x = torch.empty(64, *COLOUR, device="meta")  # enough values for the covariances of whitening norms
    assert model(x).shape == (64, 7)
    assert model.eval()(x).shape == (64, 7)
    if name == "vit":  # its norms stand in front of linear maps, and leave them their biases
        return
    linear_maps = [*of_kind(model, nn.Conv2d | nn.Linear)]
    own = NORMS.capabilities(norm).bias_in_linear and name not in TORCHVISION
    assert [layer.bias is not None for layer in linear_maps[:-1]] == [own] * (len(linear_maps) - 1)
    assert not own or all(layer.bias is None for layer in norms(model)[: -1 if name == "resmlp" else None])
    assert linear_maps[-1].bias is not None


@pytest.mark.parametrize("side", [12, 13, 15, 28, 33])
def test_lenet_fits_its_first_dense_layer_to_the_image(side):
    shape = (1, side, side + 5)
    assert build("lenet", shape)(torch.empty(2, *shape, device="meta")).shape == (2, 10)


def maps_of_stages(model: nn.Module, side: int) -> list[int]:
    """The sides of the maps that the blocks of torchvision's ResNet return."""
    sides = []
    for layer in ("maxpool", "layer1", "layer2", "layer3", "layer4"):
        model.get_submodule(layer).register_forward_hook(lambda *args: sides.append(args[2].shape[-1]))
    model(torch.empty(2, 3, side, side, device="meta"))
    return sides


def test_the_small_stem_keeps_the_resolution():
    assert maps_of_stages(build("resnet18", COLOUR, small_stem=True), 32) == [32, 32, 16, 8, 4]
    assert maps_of_stages(build("resnet18", COLOUR, small_stem=False), 224) == [56, 56, 28, 14, 7]


def test_stages_of_the_cifar_resnet_halve_the_map():
    model, sides = build("resnet", COLOUR, depth=8), []
    for block in model:
        block.register_forward_hook(lambda *args: sides.append(tuple(args[2].shape[1:])))
    model(torch.empty(2, *COLOUR, device="meta"))
    assert sides[:5] == [(16, 32, 32), (16, 32, 32), (32, 16, 16), (64, 8, 8), (64, 1, 1)]


# ------------------------------------------------------------------------------------------------------------ functions


def real(name: str, shape: tuple[int, ...], **changes: Any) -> Any:
    """A model with storage, in float64, gains and biases drawn at random."""
    torch.manual_seed(0)
    model = build(name, shape, **changes).to_empty(device="cpu").double()
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -0.5, 0.5)
    for layer in norms(model):
        for buffer in layer.buffers():
            buffer.fill_(1)
    return model


@pytest.mark.parametrize("placement", ["before", "after"])
def test_lenet_is_the_formula_with_the_norm_on_the_side_asked_for(placement):
    model = real("lenet", (1, 14, 14), activation="sigmoid", placement=placement)
    first, _, second, _, _, third, fourth, head = model
    x = torch.randn(5, 1, 14, 14, dtype=torch.float64)

    def finish(z, norm):
        z = torch.sigmoid(z) if placement == "after" else z
        y = F.batch_norm(z, None, None, norm.gain, norm.bias, training=True)
        return y if placement == "after" else torch.sigmoid(y)

    h = F.avg_pool2d(finish(F.conv2d(x, first.linear.weight, first.linear.bias, padding=2), first.norm), 2)
    h = F.avg_pool2d(finish(F.conv2d(h, second.linear.weight, second.linear.bias), second.norm), 2).flatten(1)
    for unit in (third, fourth):
        h = finish(F.linear(h, unit.linear.weight, unit.linear.bias), unit.norm)
    torch.testing.assert_close(model(x), F.linear(h, head.weight, head.bias), rtol=0, atol=1e-12)
    assert (first.linear.bias is None) == (placement == "before")


def test_a_residual_block_adds_a_shortcut_that_pads_channels_with_zeros():
    model = real("resnet", (3, 8, 8), depth=8, width=4, norm="none")
    block = model[2]
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    inner = F.conv2d(x, block.first.linear.weight, block.first.linear.bias, stride=2, padding=1)
    residual = F.conv2d(inner.relu(), block.linear.weight, block.linear.bias, padding=1)
    shortcut = torch.cat([x[:, :, ::2, ::2], torch.zeros(2, 4, 4, 4, dtype=torch.float64)], 1)
    torch.testing.assert_close(block(x), (shortcut + residual).relu(), rtol=0, atol=1e-12)


def test_with_batch_norm_resnet18_is_torchvisions():
    import torchvision.models

    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(num_classes=4).double()
    ours = real("resnet18", (3, 32, 32), classes=4, small_stem=False)
    renamed = {name: (name.replace("weight", "gain"), name) for name, _ in theirs.named_parameters()}
    own = dict(ours.named_parameters())
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            own[next(alias for alias in renamed[name] if alias in own)].copy_(parameter)
    x = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", list(MODELS))
def test_the_activation_is_swapped_everywhere(name):
    relus = len([*of_kind(build(name, COLOUR), nn.ReLU)])
    model = build(name, COLOUR, activation="tanh")
    assert relus > 0
    assert len([*of_kind(model, nn.Tanh)]) == relus
    assert not any(of_kind(model, nn.ReLU))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_activation_is_the_function_of_its_name(activation):
    functions = {"identity": lambda x: x, "sigmoid": torch.sigmoid, "tanh": torch.tanh}
    x = torch.linspace(-4, 4, 50)
    function = functions.get(activation) or getattr(F, activation)
    torch.testing.assert_close(ACTIVATIONS[activation]()(x), function(x))


def test_selu_keeps_mean_0_and_variance_1():
    """The fixed point of Klambauer et al. 2017, theorem 1, by the trapezoidal rule."""
    z = torch.linspace(-12, 12, 2_000_001, dtype=torch.float64)
    y, density = ACTIVATIONS["selu"]()(z), torch.exp(-(z**2) / 2) / (2 * torch.pi) ** 0.5
    mean = torch.trapezoid(y * density, z)
    variance = torch.trapezoid((y - mean) ** 2 * density, z)
    assert abs(mean) < 1e-6
    assert abs(variance - 1) < 1e-6


@pytest.mark.parametrize("name", list(MODELS))
def test_copies_do_not_share_layers(name):
    model = build(name, COLOUR)
    assert not {id(p) for p in model.parameters()} & {id(p) for p in copy.deepcopy(model).parameters()}
    assert len(norms(model)) == len({id(norm) for norm in norms(model)})


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("shape", [(1, 11, 28), (1, 28, 11), (1, 8, 8)])
def test_lenet_refuses_images_that_pooling_would_use_up(shape):
    with pytest.raises(ValueError, match=rf"^model=lenet: {shape[1]}x{shape[2]} images are too small; 12x12 at least"):
        build("lenet", shape)


@pytest.mark.parametrize("padding", range(5))
def test_the_least_side_of_lenet_follows_its_padding(padding):
    least = 16 - 2 * padding
    model = build("lenet", (1, least, least), padding=padding)
    assert model(torch.empty(2, 1, least, least, device="meta")).shape == (2, 10)
    with pytest.raises(ValueError, match=rf"^model=lenet: .* too small; {least}x{least} at least"):
        build("lenet", (1, least - 1, least), padding=padding)


@pytest.mark.parametrize("side", [7, 8, 11, 32])
def test_resnet9_takes_images_that_its_three_poolings_leave_something_of(side):
    shape = (3, side, side + 3)
    if side < 8:
        with pytest.raises(ValueError, match=r"^model=resnet9: 7x10 images are too small; allowed is 8x8 or more"):
            build("resnet9", shape)
        return
    assert build("resnet9", shape)(torch.empty(2, *shape, device="meta")).shape == (2, 10)


@pytest.mark.parametrize("name", list(MODELS))
def test_a_model_takes_vectors_or_says_that_it_needs_images(name):
    if name in ("mlp", "resmlp"):
        assert build(name, (64,))(torch.empty(4, 64, device="meta")).shape == (4, 10)
        return
    with pytest.raises(ValueError, match=rf"^model={name}: needs images .* vectors \(64,\); use model=mlp$"):
        build(name, (64,))


@pytest.mark.parametrize("depth", [1, 2, 7, 18, 21])
def test_a_depth_that_is_not_6n_plus_2_is_refused(depth):
    with pytest.raises(ValueError, match=rf"^model\.depth={depth}: not 6n \+ 2; allowed are 8, 14, 20"):
        build("resnet", COLOUR, depth=depth)


@pytest.mark.parametrize("name", list(MODELS))
def test_the_norm_stands_behind_the_activation_or_is_refused_there(name):
    if name in ("cnn", "lenet", "mlp", "plain"):
        assert build(name, COLOUR, placement="after")(torch.empty(4, *COLOUR, device="meta")).shape == (4, 10)
        return
    with pytest.raises(ValueError, match=rf"^placement=after: model={name} "):
        build(name, COLOUR, placement="after")


# --------------------------------------------------------------------------------------- every model with every init


def started(name: str, init: str, seed: int) -> tuple[nn.Module, dict[str, Tensor]]:
    """A model whose weights an init has drawn over infinities, and these weights by layer."""
    model = build(name, SHAPE, norm="none", classes=4, **SMALL.get(name, {})).to_empty(device="cpu")
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data.fill_(0 if tensor.dtype == torch.int64 else torch.inf)
    for norm in norms(model):
        if norm.bias is not None:
            nn.init.zeros_(norm.bias)
    initialize(model, INITS.bind(from_yaml("init", init))(), seed)
    return model, {layer: p for layer, p in model.named_parameters() if layer.endswith("weight")}


@pytest.mark.parametrize(("name", "init"), [*product(OWN, INITS), *product(TORCHVISION, ["kaiming"])])
def test_every_init_starts_every_model(name, init):
    """Every parameter is drawn, the seed decides which numbers, and the first batch gives finite answers."""
    model, weights = started(name, init, seed=0)
    assert len(weights) == len([*of_kind(model, Linear)])
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    if name in SMALL:
        again, others = (started(name, init, seed)[1] for seed in (0, 1))
        assert all(torch.equal(weight, again[layer]) for layer, weight in weights.items())
        alike = {torch.equal(weight, others[layer]) for layer, weight in weights.items()}
        assert alike == {init in ("constant", "zero")}
    x = torch.randn(8, *SHAPE, generator=torch.Generator().manual_seed(0))
    rule = INITS.bind(from_yaml("init", init))()
    if name == "rnn" and rule.adjust is not None:  # refused, see test_model_functions.py
        return
    adjust(model, rule, x, restore=False)
    assert model(x).isfinite().all()


# ------------------------------------------------------------------------------------------------- members in a stack


@pytest.mark.parametrize("name", OWN)
def test_stacked_members_are_members_one_by_one(name):
    def members() -> list[nn.Module]:
        built = [started(name, "kaiming", seed)[0].double() for seed in range(2)]
        for seed, member in enumerate(built):
            seed_streams(member, seed)
        return built

    x_MB = torch.randn(2, 5, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    answers = []
    for stacked in (False, True):
        population = Population(members(), stacked=stacked)
        labels = torch.arange(x_MB.shape[0] * x_MB.shape[1]).view(x_MB.shape[:2]) % 4
        _, logits_MBK = population.learn(x_MB, labels, Precision("fp32", 2, torch.device("cpu")))
        answers.append((logits_MBK.detach(), population.gradient_MP.clone(), dict(population.buffers)))
    torch.testing.assert_close(answers[0], answers[1], rtol=0, atol=1e-10)
