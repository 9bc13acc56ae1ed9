"""A module is a function of its parameters with two right derivatives, or it is refused by name with what to do."""

from __future__ import annotations

import math
import random
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hpc_dmaml import InnerLoop, meta_gradient
from hpc_dmaml.engine import objective_for, prepare, try_out
from hpc_dmaml.engine.autograd import AutogradObjective
from hpc_dmaml.engine.layers import LAYERS
from hpc_dmaml.engine.trial import BESIDE, Trial
from hpc_dmaml.losses import GaussianPolicyGradient, SquaredError
from hpc_dmaml.models import GaussianPolicy
from hpc_dmaml.parameters import Layout, constants, set_constants
from hpc_dmaml.tasks import Samples
from tests.engine.reference import PROBLEMS

SHAPE, OUTPUTS = (3,), 2


class Own(nn.Module):
    """Two linear layers and, between them, what is on trial."""

    def __init__(self, between: Callable[[Tensor], Tensor], *parts: nn.Module) -> None:
        super().__init__()
        self.enter, self.leave, self.between = nn.Linear(3, 4), nn.Linear(4, OUTPUTS), between
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.between(torch.tanh(self.enter(x))))


class Once(torch.autograd.Function):
    """max(x, 0), whose derivative claims to be differentiable and is not."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, y_bar):
        return y_bar * 2 * ctx.saved_tensors[0].detach()


def tried(
    module: nn.Module, second_order: bool = True, shape: tuple[int, ...] = SHAPE, outputs: int = OUTPUTS
) -> Trial:
    torch.manual_seed(0)
    module = prepare(module, shape)
    dtype = next(module.parameters()).dtype
    support = Samples(torch.randn(1, 6, *shape, dtype=dtype), torch.arange(6)[None] % outputs)
    return try_out(module, Layout.of(module), support, outputs, "cross_entropy", second_order)


@pytest.mark.parametrize(
    "problem", [p for p in PROBLEMS.values() if p.loss == "cross_entropy"], ids=lambda p: p.sample_shape
)
def test_a_sound_module_passes_and_a_chain_of_known_layers_takes_their_formulas(problem) -> None:
    for dtype in (torch.float32, torch.float64):
        trial = tried(problem.module(dtype=dtype), shape=problem.sample_shape, outputs=problem.outputs)
        assert trial == (problem.fast, [])


def test_the_trial_leaves_the_module_and_the_random_generators_as_they_were() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, OUTPUTS))
    before, state = {n: p.clone() for n, p in module.named_parameters()}, torch.get_rng_state()
    support = Samples(torch.ones(1, 4, 3), torch.zeros(1, 4, dtype=torch.int64))
    try_out(module, Layout.of(module), support, OUTPUTS, "cross_entropy", True)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[n], p) and p.grad is None for n, p in module.named_parameters())
    assert not any(part._forward_hooks for part in module.modules())


# ---- randomness and state

RANDOM = {
    "dropout": (lambda: nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.ReLU(), nn.Dropout()), nn.Linear(4, 2)), r"1\.1 \(Dropout\)"),
    "rare dropout": (lambda: nn.Sequential(nn.Linear(3, 4), nn.Dropout(1e-6), nn.Linear(4, 2)), r"1 \(Dropout\)"),
    "random slopes": (lambda: nn.Sequential(nn.Linear(3, 4), nn.RReLU(), nn.Linear(4, 2)), r"1 \(RReLU\)"),
    "functional dropout": (lambda: Own(lambda h: F.dropout(h, 0.5)), "Own"),
    "noise of torch": (lambda: Own(lambda h: h + torch.randn_like(h)), "Own"),
    "noise of numpy": (lambda: Own(lambda h: h * float(np.random.rand())), "Own"),  # noqa: NPY002
    "noise of Python": (lambda: Own(lambda h: h * random.random()), "Own"),
    "dropout of attention": (lambda: Attending(dropout=0.5), r"attention \(MultiheadAttention\)"),
    "dropout of a recurrent layer": (lambda: Recurrent(dropout=0.5), r"lstm \(LSTM\)"),
}  # fmt: skip


class Attending(nn.Module):
    def __init__(self, need_weights: bool = True, **options: float) -> None:
        super().__init__()
        self.need_weights = need_weights
        self.enter, self.leave = nn.Linear(3, 4), nn.Linear(4, OUTPUTS)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True, **options)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)[None]
        return self.leave(self.attention(h, h, h, need_weights=self.need_weights)[0][0])


class Recurrent(nn.Module):
    def __init__(self, **options: float) -> None:
        super().__init__()
        self.lstm, self.leave = nn.LSTM(1, 4, num_layers=2, batch_first=True, **options), nn.Linear(4, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.lstm(x[..., None])[0][:, -1])


@pytest.mark.parametrize(("build", "name"), RANDOM.values(), ids=RANDOM)
def test_a_random_part_is_refused_by_name(build: Callable[[], nn.Module], name: str) -> None:
    with pytest.raises(ValueError, match=rf"model: (layer )?{name} is random.*\.eval\(\)"):
        tried(build())


def test_randomness_that_is_switched_off_is_no_reason_to_refuse() -> None:
    assert not tried(nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.0), nn.Linear(4, 2))).warnings
    for name in ("dropout", "random slopes", "dropout of attention"):
        assert not tried(RANDOM[name][0]().eval()).warnings


def test_a_generator_of_its_own_is_noticed_by_the_outputs() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="other outputs for the same samples"):
        tried(Own(lambda h: h * rng.random()))


def test_a_module_that_keeps_a_state_is_refused() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, OUTPUTS)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.layer(x) * self.calls

    with pytest.raises(ValueError, match="keeps a state"):
        tried(Counting())


def test_a_module_that_overwrites_its_input_is_refused() -> None:
    with pytest.raises(ValueError, match="changes its input in place"):
        tried(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, OUTPUTS)))


# ---- modes


def with_a_lambda() -> nn.Module:
    module = Own(torch.tanh)
    module.between = lambda z: torch.tanh(module.more(z))
    module.more = nn.Linear(4, 4)
    return module


def with_a_hook() -> nn.Module:
    module = Own(torch.tanh)
    module.scale = nn.Parameter(torch.ones(4))
    module.enter.register_forward_hook(lambda part, given, z: z * module.scale)
    return module


@pytest.mark.parametrize("build", [with_a_lambda, with_a_hook])
def test_a_function_that_refers_to_the_modules_own_parts_is_refused(build: Callable[[], nn.Module]) -> None:
    """A copy with a task's parameters would go on with the original's, and these would never be learned."""
    with pytest.raises(ValueError, match="model: Own holds a function that refers to its own parts"):
        tried(build())
    x, y = torch.rand(2, 5, 3), torch.rand(2, 5, OUTPUTS)
    with pytest.raises(ValueError, match="model: Own .*refers to its own parts"):
        meta_gradient(build(), "squared_error", (x, y), (x, y), InnerLoop(0.1))


def test_the_users_samples_stay_as_they_are() -> None:
    module = Own(lambda z: z)
    module.register_forward_pre_hook(lambda part, given: (given[0].div_(10),))
    x, y = torch.rand(2, 5, 3), torch.rand(2, 5, OUTPUTS)
    before = x.clone()
    meta_gradient(module, "squared_error", (x, y), (x, y), InnerLoop(0.1, 2))
    torch.testing.assert_close(x, before, rtol=0, atol=0)


class OtherwiseInEvaluation(Own):
    def forward(self, x: Tensor) -> Any:
        z = super().forward(x)
        return z if self.training else self.answer(z)


@pytest.mark.parametrize("answer", [lambda z: (z, 1), lambda z: z.mean(0), lambda z: z.nothing])
def test_what_only_evaluation_mode_gives_is_no_reason_to_refuse(answer: Callable[[Tensor], Any]) -> None:
    module = OtherwiseInEvaluation(torch.tanh)
    module.answer = answer
    assert "gives other outputs in evaluation mode" in tried(module).warnings[0]


class Slip(SquaredError):
    """The usual slips of a loss of one's own."""

    def __init__(self, value: Any = None, measure: Any = None) -> None:
        object.__setattr__(self, "given", (value, measure))

    def value(self, z: Tensor, targets: Tensor) -> Tensor:
        return (self.given[0] or super().value)(z, targets)

    def measure(self, z: Tensor, targets: Tensor) -> Tensor:
        return (self.given[1] or super().measure)(z, targets)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (Slip(lambda z, y: (z[..., 0] - y).square().mean((1, 2))), r"Slip.value cannot take outputs \(2, "),
        (Slip(lambda z, y: z.sub_(y).square().mean((1, 2))), "Slip.value changes outputs or targets in place"),
        (
            Slip(None, lambda z, y: (z > y).sum((1, 2))),
            r"Slip.measure must give a number for each task, .*, not shape .* of torch.int64",
        ),
        (Slip(None, lambda z, y: z.sub_(y).mean((1, 2))), "Slip.measure changes outputs or targets in place"),
    ],
)
def test_slips_of_a_loss_are_said_of_the_loss(loss: Slip, message: str) -> None:
    module = nn.Linear(3, 4)
    samples = Samples(torch.randn(1, 4, 3), torch.randn(1, 4, 4))
    with pytest.raises(ValueError, match=f"task: loss {message}"):
        try_out(module, Layout.of(module), samples, 4, loss, True)


def test_norms_use_the_batch_in_training_and_evaluation_mode_alike() -> None:
    module = prepare(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), SHAPE)
    x = torch.randn(5, 3)
    trained = module(x)
    torch.testing.assert_close(module.eval()(x), trained, rtol=0, atol=0)


def test_a_norm_that_was_put_into_evaluation_mode_is_left_as_it_is() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, OUTPUTS))
    module[1].eval().running_mean.fill_(3.0)
    prepare(module, SHAPE)
    assert not module[1].training
    assert module[1].running_mean.tolist() == [3.0] * 4
    assert tried(module) == (False, [])


def test_a_module_that_answers_otherwise_in_evaluation_mode_gets_a_warning() -> None:
    class Moody(Own):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * (1 if self.training else 5)

    (warning,) = tried(Moody(torch.tanh)).warnings
    assert "Moody gives other outputs in evaluation mode" in warning
    assert not tried(Moody(torch.tanh).eval()).warnings


# ---- shapes


@pytest.mark.parametrize(
    ("module", "came"),
    [
        (nn.Linear(3, 5), r"\(6, 5\)"),
        (Own(lambda h: h[:, None]), r"\(6, 1, 2\)"),
        (Own(lambda h: h[:1]), r"\(1, 2\)"),
        (nn.LSTM(3, 2), "tuple"),
    ],
    ids=["numbers", "axes", "samples", "no tensor"],
)
def test_outputs_of_another_shape_are_refused(module: nn.Module, came: str) -> None:
    with pytest.raises(ValueError, match=rf"gives {came}.* where the task needs \(6, 2\)"):
        tried(module)


def test_outputs_of_another_precision_are_said_of_the_model() -> None:
    class Double(Own):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).double()

    with pytest.raises(ValueError, match=r"model: Double gives torch.float64 where its parameters are torch.float32"):
        tried(Double(torch.tanh))


def test_whole_numbers_that_are_calculated_with_are_refused_with_what_to_do() -> None:
    support = Samples(torch.ones(1, 6, 3, dtype=torch.int64), torch.arange(6)[None] % OUTPUTS)
    module = nn.Linear(3, OUTPUTS)
    with pytest.raises(ValueError, match=r"they are torch.int64: store numbers that .* as float32"):
        try_out(module, Layout.of(module), support, OUTPUTS, "cross_entropy", True)


def test_samples_that_the_module_cannot_take_are_refused() -> None:
    pools = nn.Sequential(*(nn.MaxPool2d(2) for _ in range(4)), nn.Flatten(), nn.Linear(4, OUTPUTS))
    for module, shape in ((nn.Linear(4, OUTPUTS), (3,)), (pools, (1, 9, 9))):
        with pytest.raises(ValueError, match=r"cannot take a task's samples \("):
            tried(module, shape=shape)


def test_outputs_that_are_not_finite_at_the_start_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite at its initial parameters"):
        tried(Own(lambda h: h / 0))


# ---- derivatives


def test_a_function_that_can_be_differentiated_once_alone_is_refused_for_the_second_order() -> None:
    with pytest.raises(ValueError, match=r"second derivative of Own is wrong by \d+%.*first_order"):
        tried(Own(Once.apply))
    assert tried(Own(Once.apply), second_order=False) == (False, [])


def test_a_second_derivative_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be differentiated as MAML needs it"):
        tried(Own(lambda h: checkpoint(torch.tanh, h, use_reentrant=True)))
    with pytest.raises(ValueError, match="cannot be differentiated as MAML needs it"):
        tried(Own(lambda h: h, nn.Linear(1, 1)).requires_grad_(False).apply(_thaw_last))


def _thaw_last(part: nn.Module) -> None:
    if isinstance(part, Own):
        part.parts.requires_grad_()


def test_a_stopped_gradient_is_refused_for_the_second_order() -> None:
    with pytest.raises(ValueError, match=r"wrong by \d+%.*stops gradients"):
        tried(Own(lambda h: h.detach()))
    assert tried(Own(lambda h: h.detach()), second_order=False) == (False, [])


def test_a_function_that_says_so_is_refused_without_a_trial() -> None:
    """PyTorch leaves its part out of the second derivative, and says nothing."""

    class Marked(Once):
        backward = staticmethod(torch.autograd.function.once_differentiable(Once.backward))

    module = Own(Marked.apply).double()
    objective, x = objective_for(module, SHAPE, "cross_entropy"), torch.randn(1, 4, 3, dtype=torch.float64)
    theta = Layout.of(module).flatten(module)
    at = objective.gradient(objective.unflatten(theta, 1), x, torch.zeros(1, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="once_differentiable"):
        objective.hessian_vector(at.record, objective.unflatten(theta, 1))


@pytest.mark.parametrize("need_weights", [True, False])
def test_attention_is_differentiated_twice(need_weights: bool) -> None:
    assert tried(Attending(need_weights)) == (False, [])
    assert torch.backends.cuda.flash_sdp_enabled()


class Padded(nn.Module):
    """A Transformer in evaluation mode, for which PyTorch has another computation where no gradients are needed."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder, self.leave = nn.TransformerEncoder(layer, 2).eval(), nn.Linear(8, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.encoder(x, src_key_padding_mask=(x == 0).all(-1)).mean(1))


@pytest.mark.filterwarnings("ignore:.*nested tensor")
def test_a_transformer_is_the_same_model_with_and_without_gradients() -> None:
    module = prepare(Padded(), (5, 8))
    x, y = torch.randn(1, 6, 5, 8), torch.arange(6)[None] % OUTPUTS
    x[:, :, 3:] = 0
    assert try_out(module, Layout.of(module), Samples(x, y), OUTPUTS, "cross_entropy", True) == (False, [])
    objective = objective_for(module, (5, 8), "cross_entropy")
    parameters = objective.unflatten(Layout.of(module).flatten(module), 1)
    with torch.no_grad():
        torch.testing.assert_close(objective.value(parameters, x, y)[0], objective.gradient(parameters, x, y).losses)


def test_what_computes_otherwise_without_gradients_is_refused() -> None:
    with pytest.raises(ValueError, match="gives other outputs where no gradients are needed"):
        tried(Own(lambda h: h if torch.is_grad_enabled() else 2 * h))


def test_a_policy_whose_actions_depend_on_other_observations_is_refused() -> None:
    def policy(norm: nn.Module) -> nn.Module:
        return prepare(nn.Sequential(nn.Linear(3, 4), norm, nn.Tanh(), nn.Linear(4, 2)), SHAPE)

    support = Samples(torch.zeros(1, 6, 3), torch.ones(1, 6, 5))
    for norm in (nn.LayerNorm(4), nn.BatchNorm1d(4).eval()):
        module = policy(norm)
        try_out(module, Layout.of(module), support, 2, GaussianPolicyGradient(), second_order=False)
    module = policy(nn.BatchNorm1d(4))
    with pytest.raises(ValueError, match="for an observation depends on the others .* use LayerNorm"):
        try_out(module, Layout.of(module), support, 2, GaussianPolicyGradient(), second_order=False)


def test_many_relus_are_no_reason_to_doubt_a_second_derivative() -> None:
    """Some change their sign within any step of the finite difference."""
    for seed in range(5):
        torch.manual_seed(seed)
        wide = nn.Sequential(nn.Flatten(), nn.Linear(49, 3000), nn.ReLU(), nn.Linear(3000, OUTPUTS))
        assert tried(wide, shape=(1, 7, 7)) == (True, [])


def test_a_start_on_a_kink_is_no_reason_to_doubt_a_second_derivative() -> None:
    """With biases of 0, a sample that is 0 lies on the kink of every ReLU: there the two sides differ."""
    policy = GaussianPolicy((5,)).build((2,), 4)
    own = nn.Sequential(nn.Identity(), *policy[:-1], nn.Linear(2, 4))
    for module in (policy, own):
        support = Samples(torch.zeros(1, 6, 2), torch.randn(1, 6, 4))
        trial = try_out(module, Layout.of(module), support, 4, "squared_error", second_order=True)
        assert trial.warnings == []


def test_a_kink_beside_the_start_is_no_reason_to_doubt_a_second_derivative() -> None:
    """The derivative is tried beside the start: here a ReLU bends exactly where it is tried first."""

    class Bent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3 * OUTPUTS))
            direction = torch.randn(len(self.weight), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
            direction *= len(self.weight) ** 0.5 / direction.norm()
            self.register_buffer("kink", 1 + BESIDE[0] * direction)

        def forward(self, x: Tensor) -> Tensor:
            return x @ (self.weight + torch.relu(self.weight - self.kink)).view(3, OUTPUTS)

    assert tried(Bent().double()) == (False, [])


def test_layers_whose_formulas_do_not_fit_are_left_to_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    linear = LAYERS[nn.Linear]
    monkeypatch.setattr(linear, "adjoint_w", lambda *pairs, of=linear.adjoint_w: 1.001 * of(*pairs))
    layerwise, (warning,) = tried(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, OUTPUTS)))
    assert not layerwise
    assert "gives other numbers: it is differentiated by autograd" in warning


def test_a_module_of_single_precision_alone_is_tried_in_it() -> None:
    class Single(Own):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.float())

    assert tried(Single(torch.tanh)) == (False, [])
    with pytest.raises(ValueError, match="second derivative"):
        tried(Single(Once.apply))


# ---- what can be built


def test_lazy_layers_get_their_shapes() -> None:
    module = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(OUTPUTS))
    assert tried(module, shape=(1, 6, 6)) == (True, [])
    assert module[4].in_features == 64


def test_lazy_layers_behind_an_embedding_get_their_shapes() -> None:
    module = prepare(nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.LazyLinear(OUTPUTS)), (7,))
    assert module[2].in_features == 28


def test_the_padding_of_an_embedding_is_constant() -> None:
    """PyTorch defines its gradient as 0, whatever a finite difference along it would say."""
    module = nn.Sequential(nn.Embedding(7, 4, padding_idx=0), nn.Flatten(), nn.Linear(12, OUTPUTS)).double()
    tokens, labels = torch.tensor([[[0, 1, 2], [3, 0, 0], [4, 5, 6], [0, 6, 1]]]), torch.tensor([[0, 1, 0, 1]])
    trial = try_out(module, Layout.of(module), Samples(tokens, labels), OUTPUTS, "cross_entropy", second_order=True)
    assert trial == (False, [])
    found = meta_gradient(module, "cross_entropy", (tokens, labels), (tokens, labels), InnerLoop(0.1, 2))
    assert found.gradients["0.weight"][0].eq(0).all()
    assert found.gradients["0.weight"][1].ne(0).any()


def with_a_buffer(table: Tensor) -> nn.Module:
    module = nn.Sequential(nn.Linear(3, OUTPUTS))
    module.register_buffer("table", table)
    return module


def test_an_expanded_buffer_can_be_written() -> None:
    module = prepare(with_a_buffer(torch.ones(1).expand(3)), SHAPE)
    set_constants(module, {"table": np.arange(3.0, dtype=np.float32)}, "a file")
    assert module.table.tolist() == [0, 1, 2]


def test_frozen_parameters_and_buffers_are_constants() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, OUTPUTS))
    module[0].weight.requires_grad_(False)
    module.register_buffer("table", torch.ones(2))
    assert Layout.of(module).names == ("0.bias", "2.weight", "2.bias")
    assert set(constants(module)) == {"0.weight", "table"}
    assert tried(module) == (False, [])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: nn.Sequential(nn.Flatten(), nn.ReLU()), "no parameters to learn"),
        (lambda: nn.Linear(3, OUTPUTS).requires_grad_(False), "no parameters to learn"),
        (lambda: nn.Linear(3, OUTPUTS, device="meta"), r"weight has no values \(device meta\)"),
        (lambda: nn.Linear(3, OUTPUTS, dtype=torch.complex64), "weight is complex"),
        (lambda: with_a_buffer(torch.eye(3).to_sparse()), "table is sparse"),
        (lambda: nn.Sequential(nn.utils.weight_norm(nn.Linear(3, OUTPUTS))), "weight_norm"),
        (lambda: nn.Sequential(torch.jit.script(nn.Linear(3, 2))), "RecursiveScriptModule is not supported"),
        (lambda: nn.DataParallel(nn.Linear(3, 2)), "DataParallel is not supported"),
        (lambda: Own(threading.Lock()), r"Own cannot be copied: "),
        (lambda: nn.Sequential(nn.LazyLinear(4), nn.Linear(9, 2)), "lazy layers cannot take samples"),
        (lambda: nn.Embedding(3, OUTPUTS, max_norm=1.0), "Embedding with max_norm changes its weights"),
    ],
    ids=[
        "none",
        "all frozen",
        "meta",
        "complex",
        "sparse",
        "old weight norm",
        "compiled",
        "parallel",
        "lock",
        "lazy",
        "max_norm",
    ],
)
def test_what_is_no_model_is_refused(build: Callable[[], nn.Module], message: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = build()
    with pytest.raises(ValueError, match=rf"model: .*{message}"):
        prepare(module, SHAPE)


class Clipping(nn.Linear):
    """Limits its weights whenever it is called."""

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data.clamp_(-0.1, 0.1)
        return super().forward(x)


def test_a_module_that_changes_its_parameters_when_it_is_called_is_refused_and_changes_no_others() -> None:
    module = nn.Sequential(Clipping(3, 4), nn.Linear(4, OUTPUTS))
    with pytest.raises(ValueError, match=r"changes its parameter 0\.weight when it is called"):
        tried(module)
    layout, x, y = Layout.of(module), torch.randn(2, 6, 3), torch.arange(6).expand(2, 6) % OUTPUTS
    objective, theta = objective_for(module, SHAPE, "cross_entropy"), layout.flatten(module)
    before = theta.clone()
    objective.gradient(objective.unflatten(theta, 2), x, y)
    objective.value(objective.unflatten(theta, 2), x, y)
    assert torch.equal(theta, before)


def test_a_gradient_hook_is_refused() -> None:
    module = nn.Linear(3, OUTPUTS)
    module.weight.register_hook(lambda gradient: 0 * gradient)
    with pytest.raises(ValueError, match="weight has a gradient hook"):
        prepare(module, SHAPE)


def test_a_frozen_part_has_no_share_in_the_gradient_and_stays() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, OUTPUTS)).double()
    module[0].requires_grad_(False)
    x, y = torch.randn(1, 5, 3, dtype=torch.float64), torch.tensor([[0, 1, 1, 0, 1]])
    objective = objective_for(module, SHAPE, "cross_entropy")
    assert isinstance(objective, AutogradObjective)
    theta = Layout.of(module).flatten(module)
    at = objective.gradient(objective.unflatten(theta, 1), x, y)
    loss = F.cross_entropy(module(x[0]), y[0])
    expected = torch.autograd.grad(loss, list(module[2].parameters()))
    torch.testing.assert_close(objective.flatten(at.value)[0], torch.cat([g.flatten() for g in expected]))
    assert len(theta) == sum(math.prod(p.shape) for p in module[2].parameters())
