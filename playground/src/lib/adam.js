/**
 * Adam on L = (a b - y)^2 / 2, its second moment free or held while the loss is above its minimum
 * so far: what flatminima.training.ClippedAdam computes with the clips "none" and "episode", so long
 * after the first step that the corrections of its averages are one.
 */
import { kappa, minimumSharpness, residual } from "./scalar.js";

/**
 * Entry t of each array belongs to step t; entries after divergence are NaN.
 *
 * @typedef {object} AdamRun
 * @property {Float64Array} a
 * @property {Float64Array} b
 * @property {Float64Array} loss
 * @property {Float64Array} edge the preconditioned sharpness, as a part of its threshold
 * @property {Float64Array} size the root of the second moment, in the mean over a and b
 * @property {Float64Array} minimumSharpness of the minimum ahead in gradient flow
 * @property {number} last the last step that is finite
 * @property {boolean} diverged
 */

export const BETA1 = 0.9;
export const EPSILON = 1e-8;

/** eta times the preconditioned sharpness at the edge of stability, (2 + 2 beta) / (1 - beta) (Q3). */
export const EDGE = (2 + 2 * BETA1) / (1 - BETA1);

/**
 * The largest eigenvalue of P^(-1/2) H P^(-1/2), for P diagonal.
 *
 * @param {number} a @param {number} b @param {number} y @param {[number, number]} scale of P
 */
export function preconditionedSharpness(a, b, y, [p, q]) {
  const mixed = (2 * a * b - y) ** 2 / (p * q);
  const [one, two] = [(b * b) / p, (a * a) / q];
  return (one + two + Math.sqrt((one - two) ** 2 + 4 * mixed)) / 2;
}

/**
 * @param {object} options
 * @param {[number, number]} options.start
 * @param {number} options.y
 * @param {number} options.eta
 * @param {number} options.beta2
 * @param {number} options.scale the root of the second moment at the start, for both parameters
 * @param {number} options.steps
 * @param {boolean} options.held whether the second moment waits while the loss is above its minimum
 * @returns {AdamRun}
 */
export function adam({ start, y, eta, beta2, scale, steps, held }) {
  const make = () => new Float64Array(steps + 1).fill(NaN);
  /** @type {AdamRun} */
  const run = {
    a: make(),
    b: make(),
    loss: make(),
    edge: make(),
    size: make(),
    minimumSharpness: make(),
    last: steps,
    diverged: false,
  };
  let [a, b] = start;
  /** Averages of the gradient and of its square. */
  let [m, n] = [0, 0];
  let [v, w] = [scale * scale, scale * scale];
  let least = Infinity;
  for (let t = 0; t <= steps; t++) {
    const r = residual(a, b, y);
    const loss = (r * r) / 2;
    if (!Number.isFinite(loss)) {
      run.last = t - 1;
      run.diverged = true;
      break;
    }
    const [p, q] = [Math.sqrt(v) + EPSILON, Math.sqrt(w) + EPSILON];
    run.a[t] = a;
    run.b[t] = b;
    run.loss[t] = loss;
    run.edge[t] = (preconditionedSharpness(a, b, y, [p, q]) * eta) / EDGE;
    run.size[t] = (p + q) / 2;
    run.minimumSharpness[t] = minimumSharpness(kappa(a, b), y);
    const waits = held && loss > least;
    least = Math.min(least, loss);
    const [g, h] = [r * b, r * a];
    m = BETA1 * m + (1 - BETA1) * g;
    n = BETA1 * n + (1 - BETA1) * h;
    if (!waits) {
      v = beta2 * v + (1 - beta2) * g * g;
      w = beta2 * w + (1 - beta2) * h * h;
    }
    a -= (eta * m) / (Math.sqrt(v) + EPSILON);
    b -= (eta * n) / (Math.sqrt(w) + EPSILON);
  }
  return run;
}
