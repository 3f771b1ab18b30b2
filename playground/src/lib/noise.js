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
    const noise = normal(steps, i + 1).map((z) => sigma * z);
    const run = scalar.descend({ start, y, eta, steps, noise });
    return { run, noise, shares: instability.splitFlattening(run.residual, noise, eta) };
  });
  const whole = runs.filter(({ run }) => !run.diverged);
  const mean = (/** @type {(one: typeof runs[0]) => Float64Array} */ of) =>
    Float64Array.from({ length: steps + 1 }, (_, t) =>
      whole.length ? whole.reduce((sum, one) => sum + of(one)[t], 0) / whole.length : NaN,
    );
  return {
    runs: runs.map(({ run }) => run),
    diverged: copies - whole.length,
    kappa: mean(({ run }) => run.kappa.map(Math.abs)),
    residual: mean(({ shares }) => shares.residual),
    noise: mean(({ shares }) => shares.noise),
    cross: mean(({ shares }) => shares.cross),
  };
}
