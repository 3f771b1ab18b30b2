"""Small models of other people's kinds, each with a loss and data: what a stranger would bring.

Each has at most 400 parameters, and a dense Hessian that owes nothing to the library:

    @pytest.mark.parametrize("name", ZOO)
    def test_products(name):
        risk = ZOO[name]()
        hessian = dense_hessian(risk)
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from flatminima.curvature import EmpiricalRisk

ZOO: dict[str, Callable[..., EmpiricalRisk]] = {}
"""Name -> a function of a dtype, float64 by default, that builds the risk anew."""

N = 6


def model(name: str):
    """Enter what a function of no arguments builds, (model, loss, data[, options]), by a name."""

    def entered(build):
        def risk(dtype: torch.dtype = torch.float64) -> EmpiricalRisk:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(5)
                network, loss, data, *options = build()
            cast = lambda t: t.to(dtype) if t.is_floating_point() else t  # noqa: E731
            data = torch.utils._pytree.tree_map_only(Tensor, cast, data)
            return EmpiricalRisk(network.to(dtype), loss, data, **(options[0] if options else {}))

        ZOO[name] = risk
        return build

    return entered


def gradient(risk: EmpiricalRisk) -> Tensor:
    """(n,) by ``backward``, in plain PyTorch."""
    for weight, loss in risk.terms():
        value = weight * loss()
        if value.requires_grad:
            value.backward()
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in risk.parameters]
    risk.model.zero_grad(set_to_none=True)
    return torch.cat([part.to_dense().flatten() for part in parts])


def at(risk: EmpiricalRisk, vector: Tensor, function: Callable):
    """What a function returns with the parameters at a flat vector; they are put back."""
    kept = [p.detach().clone() for p in risk.parameters]
    try:
        for p, part in zip(risk.parameters, risk.unflatten(vector).values(), strict=True):
            p.data.copy_(part)
        return function()
    finally:
        for p, part in zip(risk.parameters, kept, strict=True):
            p.data.copy_(part)


def slope(function: Callable, step: float):
    """Derivative of a function of a number at 0, by differences of fourth order."""
    near, far = (function(k * step) - function(-k * step) for k in (1, 2))
    return (8 * near - far) / (12 * step)


def dense_hessian(risk: EmpiricalRisk, step: float = 1e-4) -> Tensor:
    """(n, n) by differences of the gradient: no second derivative of PyTorch takes part.

    In float64 they err by 1e-16 / step for rounding, and by step^4 times a fifth derivative.
    """
    point, unit = risk.flat(), torch.eye(risk.size, dtype=torch.float64)
    rows = [
        slope(lambda s, e=e: at(risk, point + s * e, lambda: gradient(risk)), step) for e in unit
    ]
    return torch.stack(rows)


class Through(nn.Module):
    """Layers, and the way through them as a function of them and the inputs."""

    def __init__(self, way: Callable, **layers: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.way = way
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        return self.way(self, *inputs, **named)


def labels(*shape: int, classes: int = 3) -> Tensor:
    return torch.randint(classes, shape or (N,))


def mlp(*layers: nn.Module) -> nn.Sequential:
    """Whose hidden layer of width 5 is followed by these."""
    return nn.Sequential(nn.Linear(4, 5), *(layers or (nn.Tanh(),)), nn.Linear(5, 3))


@model("mlp")
def _():
    return mlp(), "mse", (torch.randn(N, 4), torch.randn(N, 3))


for _name, _activation in {
    "relu": nn.ReLU(), "elu": nn.ELU(), "gelu": nn.GELU(), "silu": nn.SiLU(), "mish": nn.Mish(),
    "prelu": nn.PReLU(), "leaky relu": nn.LeakyReLU(), "selu": nn.SELU(), "softplus": nn.Softplus(),
}.items():  # fmt: skip

    @model(_name)
    def _(activation=_activation):
        return mlp(activation), "cross_entropy", (torch.randn(N, 4), labels())


@model("cnn")
def _():
    body = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.GELU(), nn.AvgPool2d(2), nn.Conv2d(3, 2, 2), nn.Tanh(),
        nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip
    return body, "cross_entropy", (torch.randn(N, 1, 6, 6), labels())


@model("max pooling")
def _():
    body = nn.Sequential(
        nn.Conv1d(2, 3, 3), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(9, 3)
    )
    return body, "cross_entropy", (torch.randn(N, 2, 8), labels())


@model("residual block with group normalization")
def _():
    def way(m, x):
        x = m.stem(x)
        return m.head((x + m.two(functional.silu(m.norm(m.one(x))))).mean((2, 3)))

    layers = {
        "stem": nn.Conv2d(1, 4, 1), "norm": nn.GroupNorm(2, 4),
        "one": nn.Conv2d(4, 4, 3, padding=1), "two": nn.Conv2d(4, 4, 1), "head": nn.Linear(4, 3),
    }  # fmt: skip
    return Through(way, **layers), "cross_entropy", (torch.randn(N, 1, 4, 4), labels())


@model("vision transformer block")
def _():
    def way(m, x):
        tokens = m.patch(x).flatten(2).mT
        tokens = torch.cat([m.token.expand(len(x), 1, 4), tokens], 1) + m.place
        return m.head(m.block(tokens)[:, 0])

    layers = {
        "patch": nn.Conv2d(1, 4, 2, stride=2), "token": nn.Parameter(torch.randn(1, 1, 4)),
        "place": nn.Parameter(torch.randn(5, 4)), "head": nn.Linear(4, 3),
        "block": nn.TransformerEncoderLayer(
            4, 2, 6, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        ),
    }  # fmt: skip
    return Through(way, **layers), "cross_entropy", (torch.randn(N, 1, 4, 4), labels())


@model("transformer encoder in evaluation mode")
def _():
    layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.1, batch_first=True)
    body = nn.Sequential(nn.TransformerEncoder(layer, 1), nn.Flatten(), nn.Linear(12, 3))
    return body.eval(), "cross_entropy", (torch.randn(N, 3, 4), labels())


@model("scaled dot product attention with a mask")
def _():
    def way(m, x):
        q, k, v = m.qkv(x).chunk(3, -1)
        return m.head(functional.scaled_dot_product_attention(q, k, v, is_causal=True))

    layers = {"qkv": nn.Linear(4, 12), "head": nn.Linear(4, 3)}
    return Through(way, **layers), "cross_entropy", (torch.randn(N, 3, 4), labels(N, 3))


class GPT(nn.Module):
    """One block, its embedding also the head."""

    def __init__(self, words: int = 5, width: int = 4) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(words, width), nn.Embedding(4, width)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.grow, self.shrink = nn.Linear(width, 6), nn.Linear(6, width)
        self.head = nn.Linear(width, words, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, words: Tensor) -> Tensor:
        t = words.shape[1]
        x = self.embed(words) + self.place(torch.arange(t))
        ahead = torch.triu(torch.ones(t, t, dtype=torch.bool), 1)
        y = self.first(x)
        x = x + self.attention(y, y, y, attn_mask=ahead, need_weights=False)[0]
        return self.head(x + self.shrink(functional.gelu(self.grow(self.second(x)))))


@model("gpt with tied embeddings")
def _():
    words = labels(N, 4, classes=5)
    return GPT(), "cross_entropy", (words, words.roll(-1, 1))


for _kind in (nn.RNN, nn.LSTM, nn.GRU):

    @model(_kind.__name__.lower())
    def _(kind=_kind):
        layers = {"recur": kind(3, 3, batch_first=True), "head": nn.Linear(3, 3)}
        way = lambda m, x: m.head(m.recur(x)[0][:, -1])  # noqa: E731
        return Through(way, **layers), "cross_entropy", (torch.randn(N, 4, 3), labels())


@model("two directions and layers")
def _():
    layers = {"recur": nn.GRU(2, 1, 2, bidirectional=True), "head": nn.Linear(2, 3)}
    way = lambda m, x: m.head(m.recur(x.transpose(0, 1))[0][-1])  # noqa: E731
    return Through(way, **layers), "cross_entropy", (torch.randn(N, 4, 2), labels())


@model("lstm cell")
def _():
    def way(m, x):
        state = None
        for step in x.unbind(1):
            state = m.cell(step, state)
        return m.head(state[0])

    layers = {"cell": nn.LSTMCell(2, 3), "head": nn.Linear(3, 3)}
    return Through(way, **layers), "cross_entropy", (torch.randn(N, 4, 2), labels())


@model("frozen and shared parameters")
def _():
    def way(m, x):
        return m.head(m.two(torch.tanh(m.two(torch.tanh(m.one(x))))) @ m.one.weight)

    layers = {"one": nn.Linear(4, 4), "two": nn.Linear(4, 4), "head": nn.Linear(4, 3)}
    body = Through(way, **layers)
    body.two.weight = body.one.weight
    body.head.bias.requires_grad_(False)
    return body, "cross_entropy", (torch.randn(N, 4), labels())


@model("sparse gradients")
def _():
    body = nn.Sequential(nn.Embedding(5, 3, sparse=True), nn.Flatten(), nn.Tanh(), nn.Linear(6, 3))
    return body, "cross_entropy", (labels(N, 2, classes=5), labels())


@model("embedding with padding")
def _():
    body = nn.Sequential(
        nn.Embedding(5, 3, padding_idx=0), nn.Flatten(), nn.Tanh(), nn.Linear(6, 3)
    )
    return body, "cross_entropy", (labels(N, 2, classes=5), labels())


@model("dict of inputs")
def _():
    way = lambda m, left, right: torch.tanh(m.one(left)) * m.two(right)  # noqa: E731
    layers = {"one": nn.Linear(4, 3), "two": nn.Linear(4, 3)}
    inputs = {"left": torch.randn(N, 4), "right": torch.randn(N, 4)}
    return Through(way, **layers), "mse", (inputs, torch.randn(N, 3))


@model("tuple of inputs, in batches of unequal size")
def _():
    body = Through(lambda m, x, z: m.mix(x, z), mix=nn.Bilinear(3, 2, 3))
    x, z, y = torch.randn(N, 3), torch.randn(N, 2), labels()
    return body, "cross_entropy", [((x[:4], z[:4]), y[:4]), ((x[4:], z[4:]), y[4:])]


@model("dict of outputs")
def _():
    def loss(outputs, targets):
        one = functional.mse_loss(outputs["value"][:, 0], targets.to(outputs["value"]))
        return one + functional.cross_entropy(outputs["class"], targets)

    way = lambda m, x: {"value": m.one(x), "class": m.two(torch.tanh(x * m.one.weight))}  # noqa: E731
    layers = {"one": nn.Linear(4, 1), "two": nn.Linear(4, 3)}
    return Through(way, **layers), loss, (torch.randn(N, 4), labels())


@model("ignored places")
def _():
    y = labels(N, 4)
    y[0, :2] = -100
    loss = nn.CrossEntropyLoss(ignore_index=-100)
    body = Through(lambda m, x: m.body(x).mT, body=mlp())
    x = torch.randn(N, 4, 4)
    return body, loss, [(x[:2], y[:2]), (x[2:], y[2:])]


@model("label smoothing")
def _():
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    return mlp(), loss, (torch.randn(N, 4), labels())


@model("class weights")
def _():
    weights = torch.tensor([1.0, 2.0, 0.5])
    loss = lambda o, t: functional.cross_entropy(o, t, weight=weights.to(o))  # noqa: E731
    return mlp(), loss, (torch.randn(N, 4), labels())


@model("binary cross-entropy of logits")
def _():
    targets = torch.randint(2, (N, 3)).float()
    return mlp(), nn.BCEWithLogitsLoss(), (torch.randn(N, 4), targets)


@model("binary cross-entropy of probabilities")
def _():
    targets = torch.randint(2, (N, 3)).float()
    body = nn.Sequential(*mlp(), nn.Sigmoid())
    return body, nn.BCELoss(reduction="sum"), [(torch.randn(N, 4), targets)]


@model("huber")
def _():
    return mlp(), nn.HuberLoss(), (torch.randn(N, 4), 2 * torch.randn(N, 3))


@model("divergence of log-probabilities")
def _():
    body = nn.Sequential(*mlp(), nn.LogSoftmax(-1))
    loss = nn.KLDivLoss(reduction="batchmean")
    return body, loss, (torch.randn(N, 4), torch.randn(N, 3).softmax(-1))


@model("gaussian likelihood")
def _():
    loss = lambda o, t: functional.gaussian_nll_loss(o[:, 0], t, o[:, 1].exp())  # noqa: E731
    return mlp(), loss, (torch.randn(N, 4), torch.randn(N))


@model("contrast of pairs")
def _():
    def loss(outputs, targets):
        unit = functional.normalize(outputs)
        return functional.cross_entropy(unit @ unit.flip(0).T / 0.5, targets)

    return mlp(), loss, (torch.randn(N, 4), torch.arange(N))


@model("penalized weights")
def _():
    body = mlp()
    penalty = lambda: sum(p.square().sum() for p in body.parameters())  # noqa: E731
    loss = lambda o, t: functional.mse_loss(o, t) + 0.01 * penalty()  # noqa: E731
    return body, loss, (torch.randn(N, 4), torch.randn(N, 3))


@model("complex intermediate values")
def _():
    def way(m, x):
        return torch.fft.rfft(m.one(x)).abs().square() @ m.mix

    layers = {"one": nn.Linear(4, 4), "mix": nn.Parameter(torch.randn(3, 3))}
    return Through(way, **layers), "cross_entropy", (torch.randn(N, 4), labels())


@model("spectral normalization")
def _():
    body = mlp()
    nn.utils.parametrizations.spectral_norm(body[0])
    return body.eval(), "cross_entropy", (torch.randn(N, 4), labels())


@model("orthogonal weights")
def _():
    body = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
    nn.utils.parametrizations.orthogonal(body[0])
    return body, "cross_entropy", (torch.randn(N, 4), labels())


@model("weight normalization")
def _():
    body = mlp()
    nn.utils.parametrizations.weight_norm(body[0])
    nn.utils.parametrizations.weight_norm(body[2], dim=None)
    return body, "cross_entropy", (torch.randn(N, 4), labels())


@model("einsum")
def _():
    def way(m, x):
        return torch.einsum("ni,ijk,nj->nk", x, m.core, torch.tanh(x @ m.mix))

    layers = {"core": nn.Parameter(torch.randn(4, 2, 3)), "mix": nn.Parameter(torch.randn(4, 2))}
    return Through(way, **layers), "cross_entropy", (torch.randn(N, 4), labels())


@model("mixture of experts")
def _():
    def way(m, x):
        share = m.gate(x).softmax(-1)
        return sum(s[:, None] * e(x) for s, e in zip(share.unbind(-1), m.experts, strict=True))

    layers = {"gate": nn.Linear(4, 2), "experts": nn.ModuleList([mlp(), mlp()])}
    return Through(way, **layers), "cross_entropy", (torch.randn(N, 4), labels())


@model("layer normalization")
def _():
    return mlp(nn.LayerNorm(5), nn.Tanh()), "cross_entropy", (torch.randn(N, 4), labels())


@model("root mean square normalization")
def _():
    return mlp(nn.RMSNorm(5), nn.Tanh()), "cross_entropy", (torch.randn(N, 4), labels())


@model("batch normalization in evaluation mode")
def _():
    body = mlp(nn.BatchNorm1d(5), nn.Tanh())
    body[1].running_mean.normal_()
    body[1].running_var.uniform_(0.5, 2)
    return body.eval(), "cross_entropy", (torch.randn(N, 4), labels())


@model("batch normalization over the batch")
def _():
    norm = nn.BatchNorm1d(5, track_running_stats=False)
    return mlp(norm, nn.Tanh()), "cross_entropy", (torch.randn(N, 4), labels())


@model("instance normalization")
def _():
    body = nn.Sequential(
        nn.Conv1d(2, 3, 3), nn.InstanceNorm1d(3, affine=True), nn.Tanh(), nn.Flatten(),
        nn.Linear(12, 3),
    )  # fmt: skip
    return body, "cross_entropy", (torch.randn(N, 2, 6), labels())


@model("activation checkpointing")
def _():
    def way(m, x):
        return m.two(torch.utils.checkpoint.checkpoint(m.one, x, use_reentrant=False))

    layers = {
        "one": nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Tanh()), "two": nn.Linear(5, 3)
    }  # fmt: skip
    return Through(way, **layers), "cross_entropy", (torch.randn(N, 4), labels())


@model("physics: a derivative in the inputs")
def _():
    def way(m, x):
        x = x.detach().requires_grad_()
        u = m.body(x)
        return torch.autograd.grad(u.sum(), x, create_graph=True)[0] - u

    body = nn.Sequential(nn.Linear(1, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 1))
    return Through(way, body=body), "mse", (torch.randn(N, 1), torch.zeros(N, 1))


@model("a step within the model")
def _():
    def way(m, x):
        inner = torch.func.grad(lambda w: torch.tanh(x @ w).square().mean())
        return x @ (m.weight - 0.5 * inner(m.weight))

    weight = {"weight": nn.Parameter(torch.randn(4, 3))}
    return Through(way, **weight), "cross_entropy", (torch.randn(N, 4), labels())


@model("an ensemble by vmap")
def _():
    way = lambda m, x: torch.vmap(lambda w: torch.tanh(x @ w))(m.weight).mean(0)  # noqa: E731
    weight = {"weight": nn.Parameter(torch.randn(2, 4, 3))}
    return Through(way, **weight), "cross_entropy", (torch.randn(N, 4), labels())


@model("scripted")
def _():
    return torch.jit.script(mlp()), "cross_entropy", (torch.randn(N, 4), labels())


@model("sparse inputs")
def _():
    way = lambda m, x: m.two(torch.tanh(torch.sparse.mm(x, m.one)))  # noqa: E731
    layers = {"one": nn.Parameter(torch.randn(4, 5)), "two": nn.Linear(5, 3)}
    inputs = torch.randn(N, 4) * (torch.rand(N, 4) < 0.6)
    return Through(way, **layers), "cross_entropy", (inputs.to_sparse(), labels())


@model("linear model of a linear loss")
def _():
    loss = lambda outputs, targets: (outputs * targets).mean()  # noqa: E731
    return nn.Linear(4, 3), loss, (torch.randn(N, 4), torch.randn(N, 3))
