"""What is particular to whitening, rms, filter response, switchable norm and dynamic tanh."""

from __future__ import annotations

import itertools

import pytest
import test_norms as common
import torch
from formulas_sample import FORMULAS
from measured import kinds
from test_norms import CHANNELS, assert_close, buffers, build, gradients, normal
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from bnexp.data import Split
from bnexp.norms.base import per_channel
from bnexp.norms.whitening import group_width
from bnexp.training.population import Population
from bnexp.training.statistics import precise_statistics

VECTORS = (8, CHANNELS)  # two values more than groups of three channels need
WHITENING = ["zca", "pca_whiten", "iternorm"]
whitening = pytest.mark.parametrize("name", WHITENING)
shapes = pytest.mark.parametrize("shape", [VECTORS, (4, CHANNELS, 2, 3)], ids=["2-D", "4-D"])


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def rows(x: Tensor) -> Tensor:
    """(B, C, ...) as [C, values]."""
    return x.transpose(0, 1).flatten(1)


def covariances(x: Tensor, width: int) -> Tensor:
    """Biased, of groups of channels in a row, [G, d, d]."""
    return torch.stack([torch.cov(group, correction=0) for group in rows(x).split(width)])


def inverse_root(cov: Tensor) -> Tensor:
    eigenvalues, vectors = torch.linalg.eigh(cov)
    return vectors @ torch.diag_embed(eigenvalues**-0.5) @ vectors.mT


@whitening
def test_formula_on_vectors(name):
    norm, x = build(name), normal(*VECTORS).requires_grad_()
    given, wanted = norm(x), FORMULAS[name](norm, x)
    assert_close(given, wanted)
    assert_close(gradients(given, x, *norm.parameters()), gradients(wanted, x, *norm.parameters()))


# ----------------------------------------------------------------------------------------------------------- whitening


@pytest.mark.parametrize("name", ["zca", "pca_whiten"])
@shapes
def test_groups_come_out_white(name, shape):
    norm = build(name, affine=False, eps=1e-13)
    y = norm(normal(*shape))
    assert norm.width == 3
    assert_close(y.transpose(0, 1).flatten(1).mean(1), torch.zeros(CHANNELS))
    assert_close(covariances(y, 3), torch.eye(3).expand(3, 3, 3), atol=1e-9)


@whitening
def test_eps_is_added_to_the_covariance(name):
    norm, x = build(name, affine=False, eps=0.5, **({"iterations": 30} if name == "iternorm" else {})), normal(*VECTORS)
    cov, half = covariances(x, 3), 0.5 * torch.eye(3)
    w = norm.whitener(cov)
    assert_close(w @ (cov + half) @ w.mT, torch.eye(3).expand(3, 3, 3))


def test_zca_is_the_symmetric_root_and_pca_its_rotation():
    cov = covariances(normal(*VECTORS), 3)
    zca, pca = build("zca").whitener(cov), build("pca_whiten").whitener(cov)
    assert_close(zca, inverse_root(cov + 1e-5 * torch.eye(3)))
    assert_close(pca.mT @ pca, zca @ zca, atol=1e-9)
    # Rows are orthogonal and grow longer: 1/s, the largest variance first.
    products = pca @ pca.mT
    assert_close(products, torch.diag_embed(products.diagonal(dim1=-2, dim2=-1)))
    assert (products.diagonal(dim1=-2, dim2=-1).diff() > 0).all()


def test_axes_swap_from_batch_to_batch_in_pca_and_not_in_zca():
    batches = [torch.randn(256, 8, dtype=torch.float64) for _ in range(2)]
    first, second = [
        {name: build(name, 8, group_size=8).whitener(covariances(x, 8)) for name in ("zca", "pca_whiten")}
        for x in batches
    ]
    alike = {name: torch.cosine_similarity(first[name].flatten(), second[name].flatten(), 0) for name in first}
    assert alike["zca"] > 0.95
    assert alike["pca_whiten"] < 0.5


def test_equal_eigenvalues_have_an_exact_gradient_in_zca_and_a_finite_one_in_pca():
    # Between two orthogonal matrices every variance is the same.
    x = torch.linalg.qr(torch.randn(12, 3, dtype=torch.float64)).Q
    x = torch.cat([x, -x]).requires_grad_()
    assert covariances(x.detach(), 3)[0].diagonal().diff().abs().max() < 1e-15
    assert torch.autograd.gradcheck(build("zca", 3), (x,))
    (dx,) = gradients(build("pca_whiten", 3)(x), x)
    assert dx.isfinite().all()
    assert dx.abs().max() < 100


def test_nearly_equal_eigenvalues_do_not_blow_up_zca():
    cov = torch.diag(1 + torch.tensor([0.0, 1e-14, 2e-14], dtype=torch.float64)).requires_grad_()
    (dcov,) = gradients(build("zca", 3).whitener(cov), cov)
    assert dcov.abs().max() < 2  # torch's own eigh answers 1e13


def test_newton_schulz_comes_from_below_and_arrives():
    cov = torch.diag(torch.logspace(0, -3, 8, dtype=torch.float64))
    reached = []
    for iterations in (1, 3, 5, 10, 30):
        w = build("iternorm", 8, group_size=8, iterations=iterations, eps=1e-12).whitener(cov)
        reached.append(torch.linalg.eigvalsh(w @ cov @ w).min())
    assert all(low < high for low, high in itertools.pairwise(reached))
    assert reached[2] < 0.1
    assert_close(reached[-1], torch.tensor(1.0), atol=1e-8)


def test_many_steps_are_stable_where_the_published_iteration_diverges():
    cov = torch.diag(torch.logspace(0, -3, 8))
    cov = torch.linalg.qr(torch.randn(8, 8)).Q @ cov @ torch.linalg.qr(torch.randn(8, 8)).Q.mT
    cov = (cov @ cov.mT).double()
    trace, p = cov.trace(), torch.eye(8, dtype=torch.float64)
    for _ in range(40):
        p = 1.5 * p - 0.5 * p @ p @ p @ cov / trace
    assert not (p / trace.sqrt()).isfinite().all()
    w = build("iternorm", 8, group_size=8, iterations=40, eps=1e-12).whitener(cov)
    assert_close(w, inverse_root(cov + 1e-12 * torch.eye(8)), rtol=1e-6)


@pytest.mark.parametrize("name", ["zca", "pca_whiten"])
def test_groups_of_one_are_batch_norm_up_to_sign(name):
    norm, bn, x = build(name, group_size=1), build("bn"), normal(4, CHANNELS, 2, 2)
    bn.load_state_dict(norm.state_dict(), strict=False)
    assert_close(norm(x), bn(x))
    assert_close(norm.running_mean, bn.running_mean)
    assert_close(norm.running_var, bn.running_var)


@pytest.mark.parametrize(
    ("channels", "asked", "width"), [(16, 8, 8), (6, 8, 6), (84, 8, 7), (120, 8, 8), (100, 8, 5), (1, 8, 1), (7, 1, 1)]
)
def test_groups_divide_the_channels(channels, asked, width):
    assert group_width(channels, asked) == width


def test_a_prime_number_of_channels_is_refused():
    with pytest.raises(ValueError, match=r"^norm.group_size=6: 11 channels have no such groups; allowed is 1, 11"):
        build("zca", 11)


@whitening
@pytest.mark.parametrize("shape", [(5, CHANNELS), (5, CHANNELS, 1, 1), (1, CHANNELS, 2, 2)])
def test_fewer_values_than_twice_the_group_are_refused(name, shape):
    norm = build(name)
    sentence = (
        rf"^norm={name}: an input of shape .* gives [45] values per channel, and groups of 3 channels need 6; "
        "use a larger batch_size, drop_last=true or a smaller norm.group_size"
    )
    with pytest.raises(ValueError, match=sentence):
        norm(normal(*shape))
    assert norm.batches_seen == 0
    assert norm.eval()(normal(*shape)).isfinite().all()
    norm.source = "batch"
    with pytest.raises(ValueError, match=sentence):
        norm(normal(*shape))


@whitening
@shapes
def test_with_the_batch_as_population_evaluation_is_training(name, shape):
    norm, x = build(name, momentum=1.0), normal(*shape)
    trained = norm(x)
    assert_close(norm.eval()(x), trained)
    assert_close(norm.running_var, rows(x).var(1))


@whitening
def test_running_matrices_are_averages_of_whiteners_and_in_pca_of_covariances(name):
    norm = build(name, momentum=None)
    batches = [normal(*VECTORS) for _ in range(3)]
    for x in batches:
        norm(x)
    covs = [covariances(x, 3) for x in batches]
    wanted = covs if name == "pca_whiten" else [norm.whitener(cov) for cov in covs]
    assert_close(norm.running_matrix, sum(wanted) / 3)
    assert_close(norm.running_mean, sum(x.mean(0) for x in batches) / 3)
    x = normal(*VECTORS)
    w = norm.whitener(norm.running_matrix) if name == "pca_whiten" else norm.running_matrix
    centred = (x - norm.running_mean).view(-1, 3, 3)
    x_hat = torch.einsum("gij,ngj->ngi", w, centred).reshape(x.shape)
    assert_close(norm.eval()(x), norm.gain * x_hat + norm.bias)


@pytest.mark.parametrize("name", [*WHITENING, "switchable"])
def test_evaluation_by_the_batch_at_hand_touches_no_buffer(name):
    norm, x = build(name), normal(*VECTORS)
    trained, before = norm(x), buffers(norm)
    norm.eval().source = "batch"
    assert_close(norm(x), trained)
    assert_close(buffers(norm), before, atol=0)


@pytest.mark.parametrize("name", [*WHITENING, "switchable"])
def test_buffers_are_updated_in_place(name):
    norm = build(name)
    before = {key: (buffer.data_ptr(), buffer.clone()) for key, buffer in norm.named_buffers()}
    norm(normal(*VECTORS))
    for key, (address, value) in before.items():
        assert norm.get_buffer(key).data_ptr() == address
        assert (norm.get_buffer(key) != value).any()


@whitening
def test_a_member_whose_numbers_explode_leaves_the_others_of_a_stack_alone(name):
    members = [build(name) for _ in range(2)]
    parameters, stacked_buffers = stack_module_state(members)
    x_M = normal(2, *VECTORS)
    x_M[0, 0, 0] = torch.inf
    y_M = vmap(lambda p, b, x: functional_call(members[0], (p, b), (x,)))(parameters, stacked_buffers, x_M)
    assert y_M[0, :, :3].isnan().all()
    assert_close(y_M[1], members[1](x_M[1]))
    x = x_M[0].clone().requires_grad_()
    (dx,) = gradients(members[0](x), x)
    assert dx[:, :3].isnan().all()


@whitening
def test_second_derivatives_raise_rather_than_mislead(name):
    norm, x = build(name), normal(*VECTORS).requires_grad_()
    (dx,) = torch.autograd.grad(norm(x).sin().sum(), x, create_graph=True)
    if name == "iternorm":
        assert torch.autograd.grad(dx.sum(), x)[0].isfinite().all()
    else:
        with pytest.raises(RuntimeError, match="once_differentiable"):
            dx.sum().backward()


@pytest.mark.parametrize("name", [*WHITENING, "switchable", "rms"])
def test_large_mean_in_float32(name):
    x = (1000 + 0.1 * torch.randn(16, CHANNELS, 3, 3)).float()
    norm = build(name).float()
    assert_close(norm(x).double(), norm.double()(x.double()), atol=0.05)


# -------------------------------------------------------------------------------------------------- precise statistics


def network(name: str) -> nn.Module:
    model = nn.Sequential(build(name, 3), nn.Tanh(), nn.Conv2d(3, 6, 3), build(name, 6), nn.Flatten(), nn.Linear(24, 4))
    return model.double()


def sorted_split(count: int = 40) -> Split:
    """Batches differ far more than the images of one."""
    x = torch.randn(count, 3, 4, 4, dtype=torch.float64)
    return Split(x + torch.linspace(-5, 5, count, dtype=torch.float64).view(-1, 1, 1, 1), torch.arange(count) % 4)


@whitening
def test_precise_statistics_are_the_covariance_of_all_batches_together(name):
    population, train = Population([network(name)]), sorted_split()
    (model,) = population.members
    first, second = model[0], model[3]
    seen = []
    second.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with precise_statistics(population, train, 10):
        for layer, x in ((first, train.x), (second, torch.cat(seen))):
            cov = covariances(x, layer.width)
            assert_close(layer.running_mean, rows(x).mean(1))
            assert_close(layer.running_var, rows(x).var(1, correction=0))
            assert_close(layer.running_matrix, cov if name == "pca_whiten" else layer.whitener(cov), rtol=1e-9)
    assert_close(first.running_matrix, torch.eye(3)[None], atol=0)


def test_precise_statistics_of_switchable_norm_are_moments():
    population, train = Population([network("switchable")]), sorted_split()
    with precise_statistics(population, train, 10):
        layer = population.members[0][0]
        assert_close(layer.running_mean, rows(train.x).mean(1))
        assert_close(layer.running_var, rows(train.x).var(1, correction=0))


def test_images_left_over_that_are_too_few_for_a_covariance_join_the_last_batch():
    population = Population([nn.Sequential(nn.Flatten(), build("zca", 48), nn.Linear(48, 4).double())])
    measured = kinds(population, sorted_split(35), sorted_split(), batch_size=10, train_batch_size=16)
    assert set(measured) == {"running", "precise", "batch"}
    assert 0 <= measured["batch"]["accuracy"][0] <= 1


# ----------------------------------------------------------------------------------------------------------------- rms


def test_rms_on_vectors_is_torchs():
    norm, x = build("rms"), normal(*VECTORS)
    twin = nn.RMSNorm(CHANNELS, eps=norm.eps).double()
    twin.weight.data.copy_(norm.gain.data)
    assert_close(norm(x), twin(x) + norm.bias)


def test_rms_ignores_the_scale_of_a_sample_and_not_its_shift():
    norm, x = build("rms", affine=False, eps=1e-14), normal(4, CHANNELS, 2, 2)
    assert_close(norm(x * torch.tensor([1, 2, 0.1, 30]).view(-1, 1, 1, 1)), norm(x))
    assert (norm(x + 1) - norm(x)).abs().max() > 0.1
    assert_close(norm(x).square().mean((1, 2, 3)), torch.ones(4))


def test_rms_by_position_is_torchs_on_tokens_and_another_than_that_of_the_sample():
    norm, x = build("rms_c"), normal(4, CHANNELS, 7)
    twin = nn.RMSNorm(CHANNELS, eps=norm.eps).double()
    twin.weight.data.copy_(norm.gain.data)
    assert_close(norm(x), twin(x.transpose(1, 2)).transpose(1, 2) + norm.bias[:, None])
    by_position, by_sample = (build(name, affine=False) for name in ("rms_c", "rms"))
    assert (by_sample(x) - by_position(x)).abs().max() > 0.1
    assert_close(by_sample(x[..., 0]), by_position(x[..., 0]))


ALONE = [("rms", (4, 1)), ("rms", (4, 1, 1, 1)), ("rms_c", (4, 1, 2, 2)), ("frn", (4, CHANNELS, 1, 1))]


@pytest.mark.parametrize(("name", "shape"), ALONE)
def test_a_mean_square_of_one_value_is_refused(name, shape):
    with pytest.raises(
        ValueError,
        match=rf"^norm={name}: an input of shape .* gives one value per .*, of which the sign alone .*; (use|it)",
    ):
        build(name, shape[1])(normal(*shape))


# --------------------------------------------------------------------------------------------------------- frn with tlu


def test_frn_skips_vectors_and_keeps_its_threshold():
    norm, x = build("frn"), normal(*VECTORS)
    assert_close(norm(x), torch.maximum(norm.gain * x + norm.bias, norm.tau))
    assert norm.skipped
    norm(normal(4, CHANNELS, 2, 2))
    assert not norm.skipped


@pytest.mark.parametrize("learn_eps", [True, False])
def test_frn_can_refuse_vectors(learn_eps):
    with pytest.raises(
        ValueError, match=r"^norm=frn: an input of shape \[8, 9\] gives one value per sample and channel"
    ):
        build("frn", vectors="refuse", learn_eps=learn_eps)(normal(*VECTORS))


def test_a_learnt_eps_defines_frn_on_1x1_maps():
    norm, x = build("frn", learn_eps=True, tlu=False, affine=False), normal(4, CHANNELS, 1, 1)
    with torch.no_grad():
        norm.eps.fill_(-0.25)
    assert_close(norm(x), x / (x**2 + 0.25).sqrt())
    (deps,) = gradients(norm(x), norm.eps)
    assert deps.abs() > 1e-3
    assert [key for key, _ in norm.named_parameters()] == ["eps"]


def test_the_threshold_starts_as_relu():
    norm, plain = (common.NORMS.bind(common.config("frn") | {"tlu": tlu})(CHANNELS).double() for tlu in (True, False))
    x = normal(4, CHANNELS, 2, 2)
    assert plain.tau is None
    assert_close(norm(x), plain(x).relu())


# ---------------------------------------------------------------------------------------------------------- switchable


def one_hot(norm: nn.Module, kind: int) -> nn.Module:
    """A switch turned to one of in, ln, bn."""
    with torch.no_grad():
        for logits in (norm.mean_logits, norm.var_logits):
            logits.copy_(1e4 * (torch.arange(3) == kind))
    return norm


@pytest.mark.parametrize(("kind", "other"), [(0, "in"), (1, "ln"), (2, "bn")])
def test_switchable_norm_turned_to_one_kind_is_that_kind(kind, other):
    norm, twin = one_hot(build("switchable"), kind), build(other)
    twin.load_state_dict(norm.state_dict(), strict=False)
    for _ in range(2):
        x = normal(4, CHANNELS, 2, 2)
        assert_close(norm(x), twin(x))
    assert_close(norm.eval()(x), twin.eval()(x))
    if other == "bn":
        assert_close(buffers(norm), buffers(twin))


@pytest.mark.parametrize("shape", [VECTORS, (8, CHANNELS, 1, 1)])
def test_without_positions_switchable_norm_mixes_layer_and_batch_norm(shape):
    norm, x = build("switchable", affine=False), normal(*shape)
    with torch.no_grad():
        norm.mean_logits.copy_(torch.tensor([9.0, 0.5, -0.5]))
        norm.var_logits.zero_()
    flat, share = x.flatten(1), torch.tensor(1.0, dtype=torch.float64).sigmoid()
    mean = share * flat.mean(1, keepdim=True) + (1 - share) * flat.mean(0, keepdim=True)
    var = (flat.var(1, keepdim=True, correction=0) + flat.var(0, keepdim=True, correction=0)) / 2
    assert_close(norm(x).flatten(1), (flat - mean) / (var + norm.eps).sqrt())
    for gradient in gradients(norm(x), norm.mean_logits, norm.var_logits):
        assert gradient[0] == 0
        assert gradient[1:].abs().min() > 1e-6


def test_switchable_norm_starts_with_equal_shares():
    norm = common.NORMS.bind(common.config("switchable"))(CHANNELS)
    assert torch.equal(norm.mean_logits, torch.zeros(3))
    assert torch.equal(norm.var_logits, torch.zeros(3))


@pytest.mark.parametrize("shape", [(4, 1), (4, 1, 1, 1)])
def test_switchable_norm_refuses_a_sample_of_one_value(shape):
    with pytest.raises(ValueError, match=r"^norm=switchable: .* one value per sample"):
        build("switchable", 1)(normal(*shape))


# --------------------------------------------------------------------------------------------------------- dynamic tanh


def test_dynamic_tanh_starts_at_alpha_and_learns_it():
    norm, x = common.NORMS.bind(common.config("dyt"))(CHANNELS).double(), normal(4, CHANNELS, 2, 2)
    assert norm.alpha.shape == ()
    assert_close(norm(x), torch.tanh(0.5 * x))
    (dalpha,) = gradients(norm(x), norm.alpha)
    weights = torch.linspace(-1, 2, x.numel(), dtype=x.dtype).view_as(x).sin()
    assert_close(dalpha, (weights * x / torch.cosh(0.5 * x) ** 2).sum())


def test_dynamic_tanh_is_bounded_by_gain_and_bias():
    norm, x = build("dyt"), 1e3 * normal(4, CHANNELS, 2, 2)
    assert ((norm(x) - per_channel(norm.bias, x)).abs() <= per_channel(norm.gain, x) + 1e-12).all()
