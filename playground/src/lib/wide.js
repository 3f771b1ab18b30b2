/**
 * A linear network of any width with one input and one output, f = <u, v>: what
 * flatminima.theory.matrix_network.MatrixNetwork computes for it (M5).
 */
import { normal } from "./random.js";
import * as scalar from "./scalar.js";

const norm = (/** @type {ArrayLike<number>} */ v) => Math.hypot(...Array.from(v));

/**
 * Random weights with the residual and the imbalance of a network of two weights.
 *
 * @param {[number, number]} twin its weights @param {number} width @param {number} seed
 */
export function startLike([a, b], width, seed) {
  const draws = normal(2 * width, seed);
  const [e, g] = [draws.subarray(0, width), draws.subarray(width)];
  const [total, gap] = [(a + b) / norm(e), (b - a) / norm(g)];
  return {
    u: Float64Array.from(e, (value, j) => (total * value - gap * g[j]) / 2),
    v: Float64Array.from(e, (value, j) => (total * value + gap * g[j]) / 2),
  };
}

/** The sum of |eigenvalues| of v v^T - u u^T. @param {Float64Array} u @param {Float64Array} v */
export function imbalanceSize(u, v) {
  return norm(u.map((value, j) => value + v[j])) * norm(u.map((value, j) => v[j] - value));
}

/** The largest eigenvalue of the Hessian (M5). @param {number} r the residual @param {number} size of the imbalance @param {number} y */
export function sharpness(r, size, y) {
  return (Math.hypot(size, 2 * (y + r)) + Math.hypot(size, 2 * (y + 2 * r))) / 2;
}

/**
 * Gradient descent on (<u, v> - y)^2 / 2; a run that leaves the finite numbers ends before.
 *
 * @param {object} options
 * @param {Float64Array} options.u @param {Float64Array} options.v
 * @param {number} options.y @param {number} options.eta @param {number} options.steps
 */
export function descend({ u, v, y, eta, steps }) {
  /** @type {{u: Float64Array[], v: Float64Array[], residual: number[], imbalance: number[], sharpness: number[], ahead: number[]}} */
  const run = { u: [], v: [], residual: [], imbalance: [], sharpness: [], ahead: [] };
  for (let t = 0; t <= steps; t++) {
    const r = u.reduce((sum, value, j) => sum + value * v[j], 0) - y;
    if (!Number.isFinite(r * r)) break;
    const size = imbalanceSize(u, v);
    run.u.push(u);
    run.v.push(v);
    run.residual.push(r);
    run.imbalance.push(size);
    run.sharpness.push(sharpness(r, size, y));
    run.ahead.push(scalar.minimumSharpness(size, y));
    [u, v] = [u.map((value, j) => value - eta * r * v[j]), v.map((value, j) => value - eta * r * u[j])];
  }
  return { ...run, last: run.u.length - 1, diverged: run.u.length <= steps };
}
