/** A run of the scalar network of depth two, and what is known about it. */
import * as instability from "../lib/instability.js";
import { normal } from "../lib/random.js";
import * as scalar from "../lib/scalar.js";

/** Run gradient descent from what the controls say, and work out what is to be shown. @param {Record<string, number>} given */
export function compute(given) {
  const { eta, y, r } = given;
  const floor = 2 * Math.abs(y);
  const start = Math.max(given.s, floor);
  const k = Math.sqrt((start - floor) * (start + floor));
  const noise = normal(given.steps, given.seed).map((z) => z * given.noise);
  const point = scalar.at(r, k, y);
  return follow({ key: JSON.stringify(given), point, r, k, start, y, eta, steps: given.steps, noise });
}

/** The same from a point of the plane. @param {[number, number]} point @param {number} y @param {number} eta @param {number} steps */
export function from(point, y, eta, steps) {
  const [r, k] = [scalar.residual(...point, y), scalar.kappa(...point)];
  const start = scalar.minimumSharpness(k, y);
  const noise = new Float64Array(steps);
  return follow({ key: JSON.stringify([point, y, eta]), point, r, k, start, y, eta, steps, noise });
}

/**
 * @param {object} options
 * @param {string} options.key
 * @param {[number, number]} options.point
 * @param {number} options.r its residual
 * @param {number} options.k its imbalance
 * @param {number} options.start sharpness of the minimum ahead of it
 * @param {number} options.y
 * @param {number} options.eta
 * @param {number} options.steps
 * @param {Float64Array} options.noise on the residual in each step
 */
function follow({ key, point, r, k, start, y, eta, steps, noise }) {
  const noisy = noise.some((xi) => xi !== 0);
  const run = scalar.descend({ start: point, y, eta, steps, noise });
  // What a step feels; the last point takes none.
  const felt = run.residual.map((value, t) => value + (noise[t] ?? 0));
  return {
    key,
    eta,
    y,
    r,
    k,
    start,
    floor: 2 * Math.abs(y),
    run,
    noisy,
    outcome: scalar.outcome(run, eta, noisy),
    spent: instability.instabilityBudget(felt, eta),
    flattened: instability.logImbalanceFactor(felt, eta).map((value) => 0 - value),
    shares: instability.splitFlattening(run.residual, noise, eta),
    times: Float64Array.from(run.residual.keys()),
    predicted: eta * start > 2 ? instability.reflectedSharpness(start, eta) : NaN,
    refined: eta * start > 2 ? instability.reflectedSharpness(start, eta, y) : NaN,
    margin: scalar.escapeMargin(...point, y, eta),
  };
}
