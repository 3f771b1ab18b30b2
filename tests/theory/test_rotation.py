"""rotation: angles of lines and subspaces, the rotation field, and Statements G1 to G3."""

import numpy as np
import pytest
import sympy as sp
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.linalg import subspace_angles
from tensor_losses import Quartic, eigenpairs, random_network, random_quartic

from flatminima.theory import rotation

EPS = np.finfo(float).eps
seeds = st.integers(0, 2**32 - 1)
signs = st.sampled_from([1.0, -1.0])


def orthogonal(generator, n):
    return np.linalg.qr(generator.normal(size=(n, n)))[0]


# --- angle and overlap ------------------------------------------------------------------------


@given(seed=seeds, n=st.integers(2, 8), exponent=st.floats(-150, 0.19), s=signs, r=signs)
def test_angle_is_accurate_and_free_of_sign_and_length(seed, n, exponent, s, r):
    # cos and sin of the planted angle along two axes: exact to rounding, tiny angles included.
    generator = np.random.default_rng(seed)
    planted = min(10.0**exponent, np.pi / 2)
    i, j = generator.permutation(n)[:2]
    u, v = np.zeros(n), np.zeros(n)
    u[i], v[i], v[j] = 1.0, np.cos(planted), np.sin(planted)
    lengths = 10.0 ** generator.uniform(-100, 100, 2)
    found = rotation.angle(s * lengths[0] * u, r * lengths[1] * v)
    assert abs(found - planted) <= 20 * EPS * planted
    assert found == rotation.angle(v * lengths[1], u * lengths[0])
    assert abs(rotation.overlap(s * u, r * v) - np.cos(planted)) <= 10 * EPS


@given(seed=seeds, n=st.integers(2, 8), size=st.floats(1e-12, 1e-3))
def test_angle_of_a_small_turn_in_a_general_plane(seed, n, size):
    generator = np.random.default_rng(seed)
    q = orthogonal(generator, n)
    found = rotation.angle(q[0], q[0] * np.cos(size) + q[1] * np.sin(size))
    # The entries are rounded to EPS, and the angle moves by as much, not by its square root.
    assert abs(found - size) <= 20 * n * EPS


def test_angle_edge_cases_and_batches():
    e = np.eye(3)
    assert rotation.angle(e[0], e[1]) == np.pi / 2
    assert rotation.angle(e[0], -e[0]) == 0
    assert rotation.angle([5e-324, 0], [1e308, 0]) == 0
    assert rotation.angle(e[:, None], e[None]).shape == (3, 3)
    assert np.allclose(rotation.overlap(e[:, None], e[None]), np.eye(3), rtol=0, atol=EPS)
    assert rotation.angle([2.0], [-3.0]) == 0  # one dimension has one line only
    assert rotation.overlap(np.full(7, 0.1), np.full(7, 0.3)) <= 1


# --- subspaces --------------------------------------------------------------------------------


@given(seed=seeds, k=st.integers(1, 4), m=st.integers(1, 4), extra=st.integers(0, 3))
def test_principal_angles_equal_scipy_and_ignore_bases(seed, k, m, extra):
    generator = np.random.default_rng(seed)
    n = max(k, m) + extra
    U, V = generator.normal(size=(k, n)), generator.normal(size=(m, n))
    mix = generator.normal(size=(k, k))
    assume(max(np.linalg.cond(a) for a in (U, V, mix)) < 1e3)
    found = rotation.principal_angles(U, V)
    # A basis of condition 1e3 knows its span to 1e3 EPS; the mixture has at most 1e6.
    # SciPy may lose half of the digits of a tiny angle when k and m differ.
    assert np.allclose(found, np.sort(subspace_angles(U.T, V.T)), rtol=0, atol=10 * np.sqrt(EPS))
    assert np.all(found[: max(k + m - n, 0)] <= 1e5 * EPS)  # the subspaces intersect
    assert np.allclose(found, rotation.principal_angles(mix @ U, V), rtol=0, atol=1e8 * EPS)
    assert np.allclose(found, rotation.principal_angles(V, U), rtol=0, atol=1e5 * EPS)
    assert np.all(np.diff(found) >= -1e5 * EPS)
    projectors = [np.linalg.pinv(a) @ a for a in (U, V)]
    share = np.trace(projectors[0] @ projectors[1]) / min(k, m)
    overlaps = rotation.subspace_overlap(U, V)
    assert np.isclose(np.mean(overlaps**2), share, rtol=0, atol=1e5 * EPS)


@given(seed=seeds, small=st.floats(1e-14, 1e-2), gap=st.floats(1e-14, 1e-2))
def test_principal_angles_keep_tiny_and_nearly_right_angles(seed, small, gap):
    q = orthogonal(np.random.default_rng(seed), 6)
    planted = np.array([small, 0.7, np.pi / 2 - gap])
    V = np.cos(planted)[:, None] * q[:3] + np.sin(planted)[:, None] * q[3:]
    found = rotation.principal_angles(q[:3], V)
    # All angles are known to the rounding of the entries, whatever their size.
    assert np.allclose(found, planted, rtol=0, atol=60 * EPS)


@given(seed=seeds, n=st.integers(1, 6))
def test_one_vector_each_gives_the_angle(seed, n):
    u, v = np.random.default_rng(seed).normal(size=(2, n))
    assert np.allclose(
        rotation.principal_angles(u[None], v[None]), rotation.angle(u, v), rtol=0, atol=20 * n * EPS
    )
    assert np.allclose(
        rotation.subspace_overlap(u[None], v[None]),
        rotation.overlap(u, v),
        rtol=0,
        atol=20 * n * EPS,
    )


def test_subspaces_come_in_batches():
    U = np.random.default_rng(0).normal(size=(5, 2, 4))
    V = np.random.default_rng(1).normal(size=(3, 4))
    batch = rotation.principal_angles(U, V)
    assert batch.shape == (5, 2)
    for single, row in zip(U, batch, strict=True):
        assert np.allclose(rotation.principal_angles(single, V), row, rtol=0, atol=100 * EPS)


# --- align ------------------------------------------------------------------------------------


@given(seed=seeds, k=st.integers(1, 5))
def test_align_undoes_random_signs(seed, k):
    generator = np.random.default_rng(seed)
    V = orthogonal(generator, 5)[:k]
    flipped = V * generator.choice([-1.0, 1.0], size=(k, 1))
    assert np.array_equal(rotation.align(flipped, V), V)
    aligned = rotation.align(generator.normal(size=(3, k, 5)), V)
    assert np.all(np.sum(aligned * V, axis=-1) >= 0)


def test_align_keeps_what_is_orthogonal_and_does_not_touch_its_input():
    V, reference = np.eye(2), np.eye(2)[::-1].copy()
    assert np.array_equal(rotation.align(V, reference), V)
    V = -np.eye(2)
    rotation.align(V, np.eye(2))
    assert np.array_equal(V, -np.eye(2))


# --- G1: the gradient of the sharpness --------------------------------------------------------


def five_point(f, h):
    """The derivative at 0 of f; errs by h^4 f^(5) / 30 and by rounding over h."""
    return (f(-2 * h) - 8 * f(-h) + 8 * f(h) - f(2 * h)) / (12 * h)


@settings(max_examples=60, deadline=None)
@given(seed=seeds, n=st.integers(1, 6), smooth=st.booleans())
def test_G1_gradient_of_the_sharpness_and_turn_of_v1(seed, n, smooth):
    generator = np.random.default_rng(seed)
    if smooth:
        loss, theta = random_network(generator)
    else:
        loss, theta = random_quartic(generator, n), np.zeros(n)
    _, hessian, third = loss.derivatives(theta, 3)
    values, vectors = eigenpairs(hessian)
    v = vectors[0]
    gap = values[0] - values[1] if len(values) > 1 else 1.0
    assume(gap > 0.3)
    u = generator.normal(size=len(theta))
    u /= np.linalg.norm(u)

    def leading(x):
        values, vectors = eigenpairs(loss.derivatives(theta + x * u, 2)[1])
        return np.append(values[0], rotation.align(vectors[0], v))

    # H is a polynomial of degree two with entries of order one (or a network's, as smooth) and a
    # gap > 0.3: its eigenpairs vary on a scale of at least 0.3 / 10, so that their fifth
    # derivatives are of the order of (10 / 0.3)^5 = 4e7, ten times of which is allowed for.
    h = 2e-4
    difference = five_point(leading, h)
    tolerance = 4e7 * h**4 / 30 + 1e3 * EPS / h
    assert abs(difference[0] - third @ v @ v @ u) < tolerance * 10
    turn = sum(
        (third @ v @ w @ u) / (values[0] - value) * w
        for value, w in zip(values[1:], vectors[1:], strict=True)
    )
    assert np.abs(difference[1:] - turn).max() < tolerance * 10


def test_G1_symbolically_on_two_parameters():
    # H = [[2 + c x + d y, e x + f y], [., h x + k y]]: any two-parameter Hessian to first order.
    x, y, c, d, e, f, h, k = sp.symbols("x y c d e f h k")
    matrix = sp.Matrix([[2 + c * x + d * y, e * x + f * y], [e * x + f * y, h * x + k * y]])
    half = (matrix[0, 0] - matrix[1, 1]) / 2
    sharpness = (matrix[0, 0] + matrix[1, 1]) / 2 + sp.sqrt(half**2 + matrix[0, 1] ** 2)
    at = {x: 0, y: 0}
    assert sp.simplify(sp.diff(sharpness, x).subs(at) - c) == 0  # T[v1, v1, e_x] with v1 = e_1
    assert sp.simplify(sp.diff(sharpness, y).subs(at) - d) == 0


def test_G1_fails_where_the_leading_eigenvalue_is_repeated():
    # H(x, y) = [[x, y], [y, -x]] has sharpness |(x, y)|: a cone, with no gradient at its tip.
    def sharpness(x, y):
        return np.linalg.eigvalsh([[x, y], [y, -x]])[-1]

    assert sharpness(1e-3, 0) - sharpness(0, 0) == pytest.approx(1e-3)
    assert sharpness(-1e-3, 0) - sharpness(0, 0) == pytest.approx(1e-3)


# --- G2: first-order polarity -----------------------------------------------------------------


def field(loss, theta):
    _, hessian, third = loss.derivatives(theta, 3)
    values, vectors = eigenpairs(hessian)
    gradient = third @ vectors[0] @ vectors[0]
    return values, vectors, gradient, rotation.rotation_field(values, vectors, gradient)


@settings(max_examples=60, deadline=None)
@given(seed=seeds, n=st.integers(2, 6), smooth=st.booleans())
def test_G2_displacement_turns_v1_by_x_rho(seed, n, smooth):
    generator = np.random.default_rng(seed)
    if smooth:
        loss, theta = random_network(generator)
    else:
        loss, theta = random_quartic(generator, n), np.zeros(n)
    values, vectors, _, rho = field(loss, theta)
    assume(values[0] - values[1] > 0.3)
    v = vectors[0]

    def turned(x):
        return rotation.align(eigenpairs(loss.derivatives(theta + x * v, 2)[1])[1][0], v)

    h = 2e-4  # truncation and rounding as in G1
    tolerance = 10 * (4e7 * h**4 / 30 + 1e3 * EPS / h)
    assert np.abs(five_point(turned, h) - rho).max() < tolerance
    # The remainder is of second order: bounded by |v''| / 2 x^2, with |v''| below (10 / 0.3)^2.
    for x in (1e-3, -1e-3):
        assert np.abs(turned(x) - v - x * rho).max() < (10 / 0.3) ** 2 * x**2
    # Opposite displacements turn v_1 in opposite senses; the angle between them is 2 x |rho|.
    x = 1e-5
    apart = rotation.angle(turned(x), turned(-x))
    assert abs(apart - 2 * x * np.linalg.norm(rho)) < (10 / 0.3) ** 2 * x**2 + 20 * EPS / 0.3


@given(seed=seeds, n=st.integers(1, 8))
def test_G2_rho_is_uphill_orthogonal_and_free_of_signs(seed, n):
    generator = np.random.default_rng(seed)
    values, vectors, gradient, rho = field(random_quartic(generator, n), np.zeros(n))
    across = gradient - (gradient @ vectors[0]) * vectors[0]
    scale = np.linalg.norm(gradient) * (1 + np.linalg.norm(rho)) + 1
    assert abs(rho @ vectors[0]) < 100 * n * EPS * scale
    bound = across @ across / (values[0] - values[-1]) if n > 1 else 0.0
    assert rho @ gradient >= bound - 100 * n * EPS * scale
    flips = generator.choice([-1.0, 1.0], size=(n, 1))
    again = rotation.rotation_field(values, flips * vectors, gradient)
    assert np.allclose(again, rho, rtol=0, atol=100 * n * EPS * scale)


def test_G2_rho_vanishes_exactly_if_the_gradient_is_along_v1():
    generator = np.random.default_rng(0)
    q = orthogonal(generator, 4)
    values = np.array([3.0, 1.0, 1.0, -2.0])  # repeated lower eigenvalues are allowed
    assert np.abs(rotation.rotation_field(values, q, 5 * q[0])).max() < 20 * EPS
    tilted = rotation.rotation_field(values, q, 5 * q[0] + 1e-3 * q[3])
    assert np.allclose(tilted, 1e-3 / 5 * q[3], rtol=0, atol=20 * EPS)


def test_G2_sharpness_along_v1_does_not_see_rho():
    """To first order lambda_1 changes by x T[v1, v1, v1]; the rotation costs nothing."""
    loss = random_quartic(np.random.default_rng(4), 4)
    _, vectors, gradient, _ = field(loss, np.zeros(4))

    def sharpness(x):
        return np.linalg.eigvalsh(loss.derivatives(x * vectors[0], 2)[1])[-1]

    h = 2e-4
    assert abs(five_point(sharpness, h) - gradient @ vectors[0]) < 1e-7


# --- the rotation field as code ---------------------------------------------------------------


@given(seed=seeds, n=st.integers(2, 9), k=st.integers(1, 9))
def test_truncated_rotation_field_treats_the_rest_as_flat(seed, n, k):
    generator = np.random.default_rng(seed)
    k = min(k, n)
    q = orthogonal(generator, n)
    values = np.sort(generator.uniform(0.2, 1.5, n))[::-1]
    values[0] = 2.0
    gradient = generator.normal(size=n)
    found = rotation.rotation_field(values[:k], q[:k], gradient)
    flat = np.where(np.arange(n) < k, values, 0.0)
    expected = sum(q[i] * (q[i] @ gradient) / (2 - flat[i]) for i in range(1, n))
    assert np.allclose(found, expected, rtol=0, atol=100 * n * EPS)
    # The documented error of a direction left out: its rate is off by the factor 1 - lambda / 2.
    exact = rotation.rotation_field(values, q, gradient)
    ratio = (q @ found)[k:] / (q @ exact)[k:]
    assert np.allclose(ratio, (1 - values / 2)[k:], rtol=1e-6, atol=0)


@settings(max_examples=30, deadline=None)
@given(seed=seeds)
def test_truncated_field_against_differences_on_a_loss_with_a_flat_bulk(seed):
    # All but two eigenvalues are zero, so the truncated field is exact.
    generator = np.random.default_rng(seed)
    loss = random_quartic(generator, 5)
    values, vectors = eigenpairs(loss.tensors[1])
    values = np.array([2.0, 0.9, 0.0, 0.0, 0.0])
    loss.tensors[1] = (vectors.T * values) @ vectors
    v = vectors[0]
    gradient = loss.tensors[2] @ v @ v
    rho = rotation.rotation_field(values[:2], vectors[:2], gradient)

    def turned(x):
        return rotation.align(eigenpairs(loss.derivatives(x * v, 2)[1])[1][0], v)

    h = 2e-4
    assert np.abs(five_point(turned, h) - rho).max() < 10 * (4e7 * h**4 / 30 + 1e3 * EPS / h)


def test_rotation_field_in_batches_and_in_one_dimension():
    generator = np.random.default_rng(0)
    vectors = np.stack([orthogonal(generator, 3) for _ in range(4)])
    values = np.array([3.0, 1.0, 0.5])
    gradients = generator.normal(size=(4, 3))
    batch = rotation.rotation_field(np.tile(values, (4, 1)), vectors, gradients)
    for row, v, g in zip(batch, vectors, gradients, strict=True):
        assert np.allclose(row, rotation.rotation_field(values, v, g), rtol=0, atol=100 * EPS)
    assert rotation.rotation_field([1.0], [[1.0]], [2.0]).tolist() == [0.0]


@given(seed=seeds, n=st.integers(2, 60), single=st.booleans())
@settings(deadline=None)
def test_numerically_repeated_leading_eigenvalue_is_refused(seed, n, single):
    generator = np.random.default_rng(seed)
    q = orthogonal(generator, n)
    values = np.append(generator.uniform(-1, 0.5, n - 2), [1.0, 1.0])
    matrix = (q * values) @ q.T
    matrix = matrix.astype(np.float32) if single else matrix
    found, vectors = eigenpairs((matrix + matrix.T) / 2)
    with pytest.raises(ValueError, match="simple"):
        rotation.rotation_field(found, vectors, np.ones(n))
    # A gap a thousand times the square root of n roundings is resolved.
    values[-1] += 1e3 * np.sqrt(n) * (np.finfo(np.float32).eps if single else EPS)
    rotation.rotation_field(np.sort(values)[::-1], q.T[::-1], np.ones(n))


def test_a_float32_network_of_a_million_parameters_is_not_refused():
    # Ten eigenpairs of a large problem: a gap of one percent is no rounding.
    n = 1_000_000
    vectors = np.eye(2, n, dtype=np.float32)
    rho = rotation.rotation_field(np.array([1.0, 0.99], np.float32), vectors, np.ones(n))
    assert rho[1] == pytest.approx(100, rel=1e-4)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: rotation.angle([0.0, 0.0], [1.0, 0.0]), "zero"),
        (lambda: rotation.angle([1.0, np.nan], [1.0, 0.0]), "finite"),
        (lambda: rotation.angle([1.0, 0.0], [1.0, 0.0, 0.0]), "same dimension"),
        (lambda: rotation.angle(1.0, 1.0), "last axis"),
        (lambda: rotation.overlap("north", [1.0]), "numbers"),
        (lambda: rotation.principal_angles([[1.0, 0.0], [2.0, 0.0]], np.eye(2)), "independent"),
        (lambda: rotation.principal_angles(np.ones((3, 2)), np.eye(2)), "n >= k"),
        (lambda: rotation.principal_angles([1.0, 0.0], np.eye(2)), "shape"),
        (lambda: rotation.subspace_overlap(np.eye(2), np.eye(3)), "same dimension"),
        (lambda: rotation.align(1.0, [1.0]), "last axis"),
        (lambda: rotation.align(1.0, 1.0), "last axis"),
        (lambda: rotation.align([1.0, 2.0], [1.0]), "same dimension"),
        (lambda: rotation.rotation_field([1.0, 1.0], np.eye(2), [1.0, 0.0]), "simple"),
        (lambda: rotation.rotation_field([-1.0], [[1.0, 0.0]], [1.0, 0.0]), "simple"),
        (lambda: rotation.rotation_field([1.0, 2.0], np.eye(2), [1.0, 0.0]), "descending"),
        (lambda: rotation.rotation_field([2.0, 1.0], np.ones((2, 2)), [1.0, 0.0]), "orthonormal"),
        (lambda: rotation.rotation_field([2.0], np.eye(2), [1.0, 0.0]), "shape"),
        (lambda: rotation.rotation_field([2.0, 1.0], np.eye(2), [1.0]), "same dimension"),
        (lambda: rotation.rotation_field([], np.eye(2), [1.0]), "needed"),
        (lambda: rotation.rotation_field([2.0, np.inf], np.eye(2), [1.0, 0.0]), "finite"),
    ],
)
def test_bad_input_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


# --- G3: two odd things make an even drift ----------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(seed=seeds, n=st.integers(1, 6))
def test_G3_gradient_tilts_by_half_the_rotation(seed, n):
    generator = np.random.default_rng(seed)
    loss = random_quartic(generator, n, stationary=True)
    values, vectors, sharpness_gradient, rho = field(loss, np.zeros(n))
    v = vectors[0]
    size = sum(np.abs(t).sum() for t in loss.tensors)
    for x in (1e-4, -1e-4):
        g = loss.derivatives(x * v, 1)[0]
        # The remainder is the quartic term, at most |Q| x^3 / 6 in each component.
        assert abs(g @ v - values[0] * x) <= size * x**2
        across = vectors[1:] @ g
        predicted = x / 2 * (1 - values[1:] / values[0]) * (vectors[1:] @ rho) * values[0] * x
        assert np.all(np.abs(across - predicted) <= size * abs(x) ** 3)
    even = (loss.derivatives(1e-2 * v, 1)[0] + loss.derivatives(-1e-2 * v, 1)[0]) / 2
    # For a polynomial of degree four the even part of the gradient is exactly quadratic.
    assert np.abs(even - 1e-4 / 2 * sharpness_gradient).max() <= 20 * EPS * size


@settings(max_examples=60, deadline=None)
@given(seed=seeds, n=st.integers(1, 6), product=st.floats(2.0, 2.2), sign=signs)
def test_G3_two_steps_drift_to_lower_sharpness(seed, n, product, sign):
    generator = np.random.default_rng(seed)
    loss = random_quartic(generator, n, stationary=True)
    _, vectors, gradient, _ = field(loss, np.zeros(n))
    v, eta, m = vectors[0], product / 2.0, product - 1
    across = gradient - (gradient @ v) * v
    hessian = loss.tensors[1]
    predicted = -eta / 2 * ((1 + m**2) * across - eta * hessian @ across)
    assert predicted @ gradient <= 100 * EPS * (gradient @ gradient)
    errors = []
    for x in (sign * 2e-4, sign * 1e-4):
        start = x * v
        one = start - eta * loss.derivatives(start, 1)[0]
        two = one - eta * loss.derivatives(one, 1)[0]
        moved = two - start
        errors.append(np.abs(moved - (moved @ v) * v - x**2 * predicted).max())
    size = sum(np.abs(t).sum() for t in loss.tensors)
    # The remainder is of third order; its constant collects at most four tensors.
    assert all(e <= 10 * (1 + size) ** 4 * x**3 for e, x in zip(errors, (2e-4, 1e-4), strict=True))
    if errors[1] > 1e-13:  # above rounding
        assert errors[0] / errors[1] > 5  # 8 for a third-order remainder, 4 for a second


def test_G3_sharpness_falls_over_two_steps_at_the_threshold():
    """lambda_1 falls by eta x^2 sum_k (1 - lambda_k / lambda_1) (v_k . grad lambda_1)^2."""
    for seed in range(20):
        loss = random_quartic(np.random.default_rng(seed), 4, stationary=True)
        values, vectors, gradient, _ = field(loss, np.zeros(4))
        c = vectors[1:] @ gradient
        predicted = -np.sum((1 - values[1:] / values[0]) * c**2)  # eta = 1, as lambda_1 = 2
        ratios = []
        for x in (2e-3, 1e-3, -1e-3):
            start = x * vectors[0]
            one = start - loss.derivatives(start, 1)[0]
            two = one - loss.derivatives(one, 1)[0]
            fall = [np.linalg.eigvalsh(loss.derivatives(p, 2)[1])[-1] for p in (two, start)]
            ratios.append((fall[0] - fall[1]) / x**2)
        # First-order convergence in x: Richardson's estimate of the limit errs at second order.
        limit = 2 * ratios[1] - ratios[0]
        spread = abs(ratios[1] - ratios[0])
        assert abs(limit - predicted) < 0.2 * spread + 1e-3 * abs(predicted)
        assert ratios[1] < 0
        assert ratios[2] < 0
        # Both phases drift alike: their mean is within second order of the prediction.
        assert abs((ratios[1] + ratios[2]) / 2 - predicted) < 0.2 * spread + 1e-3 * abs(predicted)


def test_G3_needs_the_threshold():
    """Below it, with a second eigenvalue near lambda_1, the two-step drift may go uphill."""
    third = np.zeros((2, 2, 2))
    third[0, 0, 1] = third[0, 1, 0] = third[1, 0, 0] = 1.0  # grad lambda_1 = e_2
    loss = Quartic(np.zeros(2), np.diag([2.0, 1.9]), third, np.zeros((2,) * 4))
    for eta, uphill in ((0.75, True), (1.0, False)):
        theta = start = np.array([1e-3, 0.0])
        for _ in range(2):
            theta = theta - eta * loss.derivatives(theta, 1)[0]
        assert (theta[1] - start[1] > 0) == uphill
