/**
 * The end of gradient descent on L = (a b - y)^2 / 2 for many starts: in residual and imbalance,
 * which close at depth two (D5).
 */
import { minimumSharpness } from "./scalar.js";

/** What counts as at rest: eta |r| at a minimum that is stable, or so little that r has vanished. */
const SETTLED = 1e-9;

/**
 * The sharpness of the minimum in which a run ends; Infinity if it diverges, NaN if it has not
 * settled after so many steps.
 *
 * @param {number} r the residual of the start
 * @param {number} k its imbalance
 * @param {number} y @param {number} eta @param {number} steps
 */
export function finalSharpness(r, k, y, eta, steps) {
  for (let t = 0; t < steps; t++) {
    const scaled = eta * r;
    // Next to a stable minimum what is left of the budget flattens by less than a rounding.
    if (Math.abs(scaled) < SETTLED && eta * minimumSharpness(k, y) < 2) return minimumSharpness(k, y);
    const s = Math.sqrt(k * k + 4 * (r + y) ** 2);
    r *= 1 - eta * s + eta * scaled * (r + y);
    k *= 1 - scaled * scaled;
    // Far out it never comes back.
    if (!(Math.abs(r) < 1e12)) return Infinity;
  }
  return NaN;
}

/**
 * finalSharpness over a grid, row by row, for starts next to a minimum of given sharpness.
 *
 * @param {object} options
 * @param {ArrayLike<number>} options.rates
 * @param {ArrayLike<number>} options.sharpness of the minimum ahead of the start, at least 2 |y|
 * @param {number} options.y
 * @param {number} options.r the residual of the start
 * @param {number} options.steps
 */
export function phaseDiagram({ rates, sharpness, y, r, steps }) {
  const ends = new Float64Array(rates.length * sharpness.length);
  for (let i = 0; i < sharpness.length; i++) {
    const k = Math.sqrt((sharpness[i] - 2 * y) * (sharpness[i] + 2 * y));
    for (let j = 0; j < rates.length; j++) {
      ends[i * rates.length + j] = finalSharpness(r, k, y, rates[j], steps);
    }
  }
  return ends;
}
