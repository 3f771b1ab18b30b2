/**
 * Gradient descent on a loss of one variable, x' = x - eta L'(x): what flatminima.theory.maps
 * computes. Names are those of the Python library.
 */

/** An orbit whose |x| exceeds this has diverged. */
export const ESCAPE = 1e6;

/**
 * A loss of one variable: its derivative of order 0, 1 or 2.
 *
 * @typedef {(x: number, order?: number) => number} Loss
 */

/**
 * The loss sum_k c_k x^k.
 *
 * @param {number[]} coefficients c_0, c_1, ...
 * @returns {Loss}
 */
export function polynomial(coefficients) {
  /** @param {number[]} c */
  const differentiate = (c) => c.slice(1).map((v, k) => v * (k + 1));
  const first = differentiate(coefficients);
  const orders = [coefficients, first, differentiate(first)];
  return (x, order = 0) => {
    const c = orders[order];
    let value = c[c.length - 1];
    for (let k = c.length - 2; k >= 0; k--) value = c[k] + value * x;
    return value;
  };
}

/**
 * curvature x^2 / 2 + skew x^3 / 6 + c x^4 / 4 (Q5).
 *
 * @param {number} curvature @param {number} c @param {number} skew
 */
export function quartic(curvature, c, skew = 0) {
  return polynomial([0, 0, curvature / 2, skew / 6, c / 4]);
}

/** sqrt(1 + x^2) - 1, whose curvature is highest at the minimum. @type {Loss} */
export function wide(x, order = 0) {
  const root = Math.sqrt(1 + x * x);
  if (order === 0) return (x * x) / (1 + root);
  return order === 1 ? x / root : 1 / (root * root * root);
}

/**
 * One step of gradient descent; NaN once out.
 *
 * @param {Loss} loss @param {number} x @param {number} eta
 */
export function step(loss, x, eta) {
  const next = x - eta * loss(x, 1);
  return Math.abs(next) <= ESCAPE ? next : NaN;
}

/**
 * The last iterates of an orbit, the end included.
 *
 * @param {Loss} loss @param {number} start @param {number} eta @param {number} steps
 * @param {number} [keep] how many
 */
export function orbit(loss, start, eta, steps, keep = steps + 1) {
  const kept = new Float64Array(keep);
  const first = steps + 1 - keep;
  let x = start;
  for (let t = 0; t <= steps; t++) {
    if (t >= first) kept[t - first] = x;
    x = step(loss, x, eta);
  }
  return kept;
}

/**
 * The derivative of the k-fold map along a cycle of k points.
 *
 * @param {Loss} loss @param {ArrayLike<number>} cycle @param {number} eta
 */
export function multiplier(loss, cycle, eta) {
  return Array.from(cycle).reduce((product, x) => product * (1 - eta * loss(x, 2)), 1);
}

/**
 * x > 0 of the cycle {x, -x} on curvature x^2 / 2 + c x^4 / 4, NaN where there is none (Q5).
 *
 * @param {number} curvature @param {number} c not 0 @param {number} eta
 */
export function periodTwoOrbit(curvature, c, eta) {
  const square = (2 - eta * curvature) / (eta * c);
  return square > 0 ? Math.sqrt(square) : NaN;
}

/**
 * The smallest k with x_{t+k} = x_t up to a tolerance; 0 if there is none up to `longest`.
 *
 * @param {ArrayLike<number>} x at least 2 * longest iterates
 * @param {number} longest @param {number} tolerance
 */
export function cycleLength(x, longest = 32, tolerance = 1e-6) {
  for (let k = 1; k <= longest; k++) {
    let same = true;
    for (let t = 0; same && t + k < x.length; t++) same = Math.abs(x[t + k] - x[t]) <= tolerance;
    if (same) return k;
  }
  return 0;
}
