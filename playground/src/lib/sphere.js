/**
 * Two directions at the edge at once, and two positions along the minima: what
 * flatminima.theory.averaged.sphere_dynamics computes (M3).
 */

/** @typedef {[number, number]} Pair */
/** @typedef {[number, number, number]} Symmetric a matrix by its entries 11, 12 and 22 */

/** @param {Symmetric} matrix @param {Pair} x @param {Pair} z */
const form = ([p, q, s], [x0, x1], [z0, z1]) => x0 * (p * z0 + q * z1) + x1 * (q * z0 + s * z1);

/** The excess A(G) at a position. @param {[Symmetric, Symmetric]} couplings @param {Pair} position @returns {Symmetric} */
export function excess([one, other], [g0, g1]) {
  const [p, q, s] = one.map((entry, i) => g0 * entry + g1 * other[i]);
  return [p, q, s];
}

/** The eigenvalues of a matrix, the larger one first. @param {Symmetric} matrix @returns {Pair} */
export function eigenvalues([p, q, s]) {
  const half = Math.hypot(p - s, 2 * q) / 2;
  return [(p + s) / 2 + half, (p + s) / 2 - half];
}

/** How many of the two excesses are above zero, in so many directions around the center. @param {[Symmetric, Symmetric]} couplings @param {number} count */
export function signs(couplings, count) {
  return Array.from({ length: count }, (_, i) => {
    const w = ((i + 0.5) * 2 * Math.PI) / count;
    return eigenvalues(excess(couplings, [Math.cos(w), Math.sin(w)])).filter((v) => v > 0).length;
  });
}

/** sqrt(|G|^2 + |X|^2 / 2), which the averaged flow keeps. @param {Pair} position @param {Pair} displacement */
export function radius(position, displacement) {
  return Math.hypot(...position, displacement[0] / Math.SQRT2, displacement[1] / Math.SQRT2);
}

/**
 * Gradient descent on <X, (2/eta + A(G)) X> / 2.
 *
 * @param {object} options
 * @param {[Symmetric, Symmetric]} options.couplings
 * @param {Pair} options.position @param {Pair} options.displacement
 * @param {number} options.eta @param {number} options.steps
 */
export function sphereDynamics({ couplings, position, displacement, eta, steps }) {
  const [positions, displacements] = [[position], [displacement]];
  for (let t = 0; t < steps; t++) {
    const [G, X] = [positions[t], displacements[t]];
    const [p, q, s] = excess(couplings, G);
    const x0 = -(X[0] + eta * (p * X[0] + q * X[1]));
    const x1 = -(X[1] + eta * (q * X[0] + s * X[1]));
    const g = [0, 1].map((k) => G[k] - (eta / 2) * form(couplings[k], X, X));
    if (![x0, x1, ...g].every((v) => Math.abs(v) < 1e6)) break;
    positions.push([g[0], g[1]]);
    displacements.push([x0, x1]);
  }
  return { positions, displacements, last: positions.length - 1 };
}
