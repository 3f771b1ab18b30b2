"""curvature.distributed: two processes with unequal shards against one that has all the data."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from curvature_cases import CASES, EXAMPLES
from torch import distributed

from flatminima import curvature, models
from flatminima.curvature import DistributedOperator, EmpiricalRisk, MatrixOperator
from study import ROOT
from study.pages import notebooks

SUPPORT = Path(__file__).parents[1] / "support"
NAME, SHARDS, TOL = "mlp-tanh-cross-entropy", (9, EXAMPLES - 9), 1e-9

needs_gloo = pytest.mark.skipif(
    not (distributed.is_available() and distributed.is_gloo_available()), reason="needs gloo"
)

WORKER = """
import json, sys
import torch
from torch import distributed
from curvature_cases import CASES
from flatminima import curvature
from flatminima.curvature import DistributedOperator, EmpiricalRisk

rank, store, name, shards = int(sys.argv[1]), sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
torch.set_num_threads(1)
distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
problem = next(c for c in CASES if c.name == name).build()
start = sum(shards[:rank])
shard = tuple(t[start : start + shards[rank]] for t in problem.data)
{body}
distributed.destroy_process_group()
"""

MEASURES = """
if rank:  # one shard in batches, as of a loader
    shard = [tuple(t[i : i + 2] for t in shard) for i in range(0, shards[1], 2)]
risk = EmpiricalRisk(problem.model, problem.loss_function, shard)
operator = DistributedOperator(risk)
pairs = curvature.top_eigenpairs(operator, 2, "both", tol=1e-9)
gn = DistributedOperator(curvature.GaussNewtonOperator(risk), risk.examples)
tracked = curvature.EigenTracker(k=2, tol=1e-6).update(operator)
print(json.dumps({
    "values": pairs.eigenvalues.tolist(),
    "vector": pairs.eigenvectors[0].tolist(),
    "gn": curvature.sharpness(gn, tol=1e-9),
    "tracked": tracked.eigenvalues.tolist(),
    "trace": curvature.trace(operator, products=30).value,
    "along": curvature.directional_sharpness(operator),
    "loss": operator.loss,
    "gradient": operator.gradient.tolist(),
}))
"""

ERRORS = """
def said(attempt):
    try:
        attempt()
    except ValueError as error:
        return str(error)

risk = EmpiricalRisk(problem.model, problem.loss_function, shard)
operator = DistributedOperator(risk)
seeded = torch.Generator().manual_seed(rank)
vectors = said(lambda: curvature.sharpness(operator, generator=seeded))
# The same sum and length, in another order.
flipped = torch.arange(1.0, problem.size + 1).double()
order = said(lambda: operator.matvec(flipped.flip(0) if rank else flipped))
with torch.no_grad():
    problem.parameters[0].add_(1e-3 * rank)
parameters = said(lambda: DistributedOperator(risk))
smaller = risk.hessian(risk.parameters[rank:])
sizes = said(lambda: DistributedOperator(smaller, 1.0))
print(json.dumps([vectors, order, parameters, sizes]))
"""

SUMS = """
loss = torch.nn.MSELoss(reduction="sum")
targets = torch.nn.functional.one_hot(shard[1], 3).double()
risk = EmpiricalRisk(problem.model, loss, (shard[0], targets))
print(json.dumps([curvature.sharpness(DistributedOperator(risk), tol=1e-9)]))
"""


def both(folder, body):
    """What the two processes print, each a value of JSON."""
    script = folder / "worker.py"
    script.write_text(WORKER.replace("{body}", body))
    env = dict(os.environ, PYTHONPATH=str(SUPPORT), OMP_NUM_THREADS="1")
    given = [f"file://{folder}/store", NAME, json.dumps(SHARDS)]
    processes = [
        subprocess.Popen(
            [sys.executable, script, str(rank), *given],
            env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    said = [process.communicate(timeout=600) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    return [json.loads(out.splitlines()[-1]) for out, _ in said]


@needs_gloo
def test_two_processes_find_what_one_finds(tmp_path):
    first, second = both(tmp_path, MEASURES)
    assert first == second, "to the bit"
    problem = next(c for c in CASES if c.name == NAME).build()
    whole = curvature.top_eigenpairs(problem, 2, "both", tol=TOL)
    values = torch.tensor(first["values"], dtype=torch.float64)
    scale = float(whole.eigenvalues.abs().max())
    # Either solve is within its relative residual, 1e-9, of an eigenvalue.
    assert (values - whole.eigenvalues).abs().max() <= 2.1 * TOL * scale <= 1e-7 * scale
    # The angle is at most residual / gap.
    gap = float(whole.eigenvalues[0] - whole.eigenvalues[1])
    overlap = torch.tensor(first["vector"], dtype=torch.float64) @ whole.eigenvectors[0]
    assert 1 - abs(float(overlap)) <= (2.1 * TOL * scale / gap) ** 2 + 1e-12
    gn = curvature.sharpness(curvature.GaussNewtonOperator(problem), tol=TOL)
    assert first["gn"] == pytest.approx(gn, rel=2.1 * TOL)
    assert first["tracked"] == pytest.approx(whole.eigenvalues[:2].tolist(), abs=1.1e-6 * scale)
    # The same random signs, and products equal to rounding.
    assert first["trace"] == pytest.approx(curvature.trace(problem, products=30).value, rel=1e-9)
    assert first["along"] == pytest.approx(curvature.directional_sharpness(problem), rel=1e-10)
    assert first["loss"] == pytest.approx(problem.value(), rel=1e-13)
    assert first["gradient"] == pytest.approx(problem.gradient().tolist(), abs=1e-14)


@needs_gloo
def test_what_differs_between_processes_is_an_error_in_both(tmp_path):
    first, second = both(tmp_path, ERRORS)
    assert first == second
    for message, what in zip(
        first, ("the vectors", "the vectors", "the parameters", "the parameters"), strict=True
    ):
        assert message.startswith(f"{what} must be the same in all processes, got"), message


@needs_gloo
def test_losses_that_are_sums_are_added(tmp_path):
    first, second = both(tmp_path, SUMS)
    assert first == second
    problem = next(c for c in CASES if c.name == NAME).build()
    targets = torch.nn.functional.one_hot(problem.data[1], 3).double()
    loss = torch.nn.MSELoss(reduction="sum")
    whole = EmpiricalRisk(problem.model, loss, (problem.data[0], targets))
    assert first[0] == pytest.approx(curvature.sharpness(whole, tol=TOL), rel=2.1 * TOL)


@pytest.fixture
def alone(tmp_path):
    """A group of this process alone."""
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/alone", rank=0, world_size=1
    )
    yield
    distributed.destroy_process_group()


@needs_gloo
@pytest.mark.usefixtures("alone")
def test_an_operator_needs_a_weight():
    matrix = MatrixOperator(torch.diag(torch.tensor([2.0, 1.0])))
    with pytest.raises(ValueError, match="weight must be given with an operator"):
        DistributedOperator(matrix)
    with pytest.raises(ValueError, match="weight must be a finite number greater than 0, got 0"):
        DistributedOperator(matrix, 0)
    operator = DistributedOperator(matrix, 7)
    assert operator.loss is operator.gradient is operator.parameters is None
    assert curvature.sharpness(operator) == pytest.approx(2)
    with pytest.raises(ValueError, match="direction must be given for a DistributedOperator"):
        curvature.directional_sharpness(operator)


def test_without_a_group_it_says_what_to_do():
    with pytest.raises(RuntimeError, match="call init_process_group first"):
        DistributedOperator(MatrixOperator(torch.eye(2)), 1)


@needs_gloo
def test_the_script_of_the_chapter_runs_under_torchrun(tmp_path):
    text = "\n".join(notebooks.markdown(ROOT / "chapters" / "large_models.ipynb"))
    script = re.search(r"```python\n(# sharpness_ddp\.py.*?)```", text, re.DOTALL)[1]
    (tmp_path / "sharpness_ddp.py").write_text(script)
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*run, "sharpness_ddp.py"],
        cwd=tmp_path, env=dict(os.environ, OMP_NUM_THREADS="1"),
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    torch.manual_seed(0)
    data = torch.randn(100, 8), torch.randint(3, (100,))
    whole = EmpiricalRisk(models.mlp([8, 16, 3], seed=0), "cross_entropy", data)
    # Both to a residual of 1e-4, printed to four digits.
    said = re.search(r"sharpness over 2 processes: (\d+\.\d{4})", done.stdout)[1]
    expected = curvature.sharpness(whole)
    assert abs(float(said) - expected) <= 2e-4 * expected + 5e-5
