/**
 * Gradient flow and central flow of the scalar network of depth two, L = (a b - y)^2 / 2: what
 * flatminima.theory.central_flow computes there, where one eigenvalue alone can be at the edge.
 */
import { eigenvalues, kappa, minimumSharpness, residual, sharpness } from "./scalar.js";

/** How far below 2 / eta, relative to it, the sharpness counts as one that may get there. */
const NEAR = 0.05;

/**
 * A flow: entry i of each array belongs to the time i eta / substeps.
 *
 * @typedef {object} Flow
 * @property {Float64Array} a
 * @property {Float64Array} b
 * @property {Float64Array} sharpness the largest eigenvalue of the Hessian
 * @property {Float64Array} variance X, the mean square of the oscillation
 */

/**
 * The gradient of the loss. @param {number} a @param {number} b @param {number} y
 * @returns {[number, number]}
 */
export function gradient(a, b, y) {
  const r = residual(a, b, y);
  return [r * b, r * a];
}

/**
 * The gradient of the largest eigenvalue, (a^2 + b^2 + w) / 2 with w^2 = kappa^2 + 4 (2 a b - y)^2.
 * NaN where the eigenvalue is repeated.
 *
 * @param {number} a @param {number} b @param {number} y
 * @returns {[number, number]}
 */
export function sharpnessGradient(a, b, y) {
  const k = kappa(a, b);
  const mixed = 2 * a * b - y;
  const w = Math.hypot(k, 2 * mixed);
  return [a + (4 * b * mixed - a * k) / w, b + (4 * a * mixed + b * k) / w];
}

/**
 * X >= 0, with which the sharpness is at most 2 / eta after a time, by the closed form for one
 * eigenvalue: the largest of 0 and -A / B, where the sharpness changes at the rate -(A + B X) and
 * may rise by what it is short of (F2).
 *
 * @param {number} a @param {number} b @param {number} y @param {number} eta
 * @param {number} time
 */
export function variance(a, b, y, eta, time) {
  const level = sharpness(a, b, y);
  if (!(level > (1 - NEAR) * (2 / eta))) return 0;
  const [u, v] = gradient(a, b, y);
  const [p, q] = sharpnessGradient(a, b, y);
  return Math.max(0, -(u * p + v * q + (2 / eta - level) / time) / ((p * p + q * q) / 2));
}

/**
 * Follow a flow over the time of so many steps of gradient descent, by Euler steps.
 *
 * @param {object} options
 * @param {[number, number]} options.start
 * @param {number} options.y the target
 * @param {number} options.eta the learning rate
 * @param {number} options.steps
 * @param {number} options.substeps Euler steps to a step of gradient descent. Stiff is what goes at
 *     the rate of the sharpness: more than half of eta times it are needed to be stable, some times
 *     that to be smooth
 * @param {boolean} [options.oscillating] whether X is that of the central flow; else it is zero,
 *     which gives the gradient flow
 * @returns {Flow}
 */
export function centralFlow({ start, y, eta, steps, substeps, oscillating = true }) {
  const make = () => new Float64Array(steps * substeps + 1);
  const flow = { a: make(), b: make(), sharpness: make(), variance: make() };
  const time = eta / substeps;
  let [a, b] = start;
  for (let i = 0; i < flow.a.length; i++) {
    const X = oscillating ? variance(a, b, y, eta, time) : 0;
    flow.a[i] = a;
    flow.b[i] = b;
    flow.sharpness[i] = sharpness(a, b, y);
    flow.variance[i] = X;
    const [u, v] = gradient(a, b, y);
    // Away from the edge the gradient of the sharpness is not asked for: it may be undefined.
    const [p, q] = X > 0 ? sharpnessGradient(a, b, y) : [0, 0];
    a -= time * (u + (X / 2) * p);
    b -= time * (v + (X / 2) * q);
  }
  return flow;
}

/** c of the reflection law, 2 (1 - eta^2 y^2) at the minimum of sharpness 2 / eta (D8). @param {number} y @param {number} eta */
export function reflectionConstant(y, eta) {
  return 2 * (1 - (eta * y) ** 2);
}

/**
 * How far below 2 / eta gradient descent ends by the reflection law, to first order, if the minimum
 * ahead of its start is sharper: h = sqrt(excess^2 + c r^2) (D8). NaN where there is no such minimum, or no excess.
 *
 * @param {number} a @param {number} b @param {number} y @param {number} eta
 */
export function reflectionRadius(a, b, y, eta) {
  const excess = minimumSharpness(kappa(a, b), y) - 2 / eta;
  const c = reflectionConstant(y, eta);
  return excess > 0 && c > 0 ? Math.sqrt(excess ** 2 + c * residual(a, b, y) ** 2) : NaN;
}

/**
 * The b > 0 at which the sharpness is `level`, for given a: det(H - level) = 0 is quadratic in b.
 * NaN where there is none, or where it is the smaller eigenvalue that has this value.
 *
 * @param {number} a @param {number} y @param {number} level
 */
export function edge(a, y, level) {
  const square = 3 * a * a + level;
  const rest = level * level - level * a * a - y * y;
  const b = (2 * a * y + Math.sqrt(4 * a * a * y * y + square * rest)) / square;
  return b > 0 && eigenvalues(a, b, y)[1] <= level * (1 - 1e-9) ? b : NaN;
}
