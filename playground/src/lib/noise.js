/**
 * Runs of the network of two weights with noise on its label, and how fast it flattens: what
 * flatminima.theory.label_noise computes (D10 and its rate).
 */
import * as instability from "./instability.js";
import { normal } from "./random.js";
import * as scalar from "./scalar.js";

/**
 * The mean fall of log |kappa| a step, to leading order; NaN from 2/eta on.
 *
 * @param {number} sharpness of the minimum @param {number} sigma @param {number} eta
 */
export function flatteningRate(sharpness, sigma, eta) {
  const z = eta * sharpness;
  return z < 2 ? ((eta * sigma) ** 2 * 2) / (2 - z) : NaN;
}

/**
 * The imbalance by that rate, step by step, the sharpness following it. It is taken as a
 * differential equation, in quarters of a step by the midpoint rule.
 *
 * @param {object} options
 * @param {number} options.kappa at the start
 * @param {number} options.y @param {number} options.sigma @param {number} options.eta
 * @param {number} options.steps
 */
export function rateEquation({ kappa, y, sigma, eta, steps }) {
  const parts = 4;
  const fall = (/** @type {number} */ log) =>
    flatteningRate(scalar.minimumSharpness(Math.exp(log), y), sigma, eta);
  const path = [kappa];
  let log = Math.log(kappa);
  for (let t = 0; t < steps; t++) {
    for (let i = 0; i < parts; i++) log -= fall(log - fall(log) / (2 * parts)) / parts;
    path.push(Math.exp(log));
  }
  return path;
}

/**
 * Runs that differ in their noise alone, from one start, and what residual and noise have spent of
 * the budget on average.
 *
 * @param {object} options
 * @param {[number, number]} options.start
 * @param {number} options.y @param {number} options.sigma @param {number} options.eta
 * @param {number} options.steps @param {number} options.copies
 */
export function ensemble({ start, y, sigma, eta, steps, copies }) {
  const runs = Array.from({ length: copies }, (_, i) => {
    const noise = draws(steps, i + 1).map((z) => sigma * z);
    const run = follow(start, y, eta, noise);
    return { ...run, shares: instability.splitFlattening(run.residual, noise, eta) };
  });
  const whole = runs.filter((run) => !run.diverged);
  const mean = (/** @type {Float64Array[]} */ columns) =>
    Float64Array.from({ length: steps + 1 }, (_, t) =>
      columns.reduce((sum, column) => sum + column[t] / columns.length, columns.length ? 0 : NaN),
    );
  return {
    runs,
    diverged: copies - whole.length,
    kappa: mean(whole.map((run) => run.kappa.map(Math.abs))),
    residual: mean(whole.map(({ shares }) => shares.residual)),
    noise: mean(whole.map(({ shares }) => shares.noise)),
    cross: mean(whole.map(({ shares }) => shares.cross)),
  };
}

/** @type {Map<string, Float64Array>} the numbers depend on no control */
const drawn = new Map();

/** Standard normal numbers, kept. @param {number} count @param {number} seed */
function draws(count, seed) {
  const key = `${count} ${seed}`;
  const found = drawn.get(key) ?? normal(count, seed);
  drawn.set(key, found);
  return found;
}

/**
 * The weights, residuals and imbalances of a run; NaN after it diverged.
 *
 * @param {[number, number]} start @param {number} y @param {number} eta
 * @param {Float64Array} noise on the residual of each step
 */
function follow([a, b], y, eta, noise) {
  const make = () => new Float64Array(noise.length + 1).fill(NaN);
  const run = { a: make(), b: make(), residual: make(), kappa: make(), diverged: false };
  for (let t = 0; t <= noise.length; t++) {
    const r = scalar.residual(a, b, y);
    if (!Number.isFinite(r * r)) {
      run.diverged = true;
      break;
    }
    [run.a[t], run.b[t], run.residual[t], run.kappa[t]] = [a, b, r, scalar.kappa(a, b)];
    [a, b] = scalar.step(a, b, y, eta, noise[t] ?? 0);
  }
  return run;
}
