/**
 * The coupled dynamics of an instability, of the displacement x along v_1 and the excess of the
 * sharpness over 2 / eta: what flatminima.theory.instability.coupled_dynamics computes (G4).
 */

/**
 * Entry t of each array belongs to step t; entries after divergence are NaN.
 *
 * @typedef {object} Coupled
 * @property {Float64Array} x
 * @property {Float64Array} excess
 * @property {number} last the last step that is finite
 * @property {boolean} diverged
 */

/**
 * x' = -(1 + eta e) x - eta q x^3 / 6, e' = e + eta (alpha - beta x^2 / 2).
 *
 * @param {object} options
 * @param {number} options.x
 * @param {number} options.excess e
 * @param {number} options.eta
 * @param {number} options.alpha the rate of progressive sharpening
 * @param {number} options.beta the strength of the restoring drift
 * @param {number} options.q the fourth derivative along v_1
 * @param {number} options.steps
 * @returns {Coupled}
 */
export function coupledDynamics({ x, excess, eta, alpha, beta, q, steps }) {
  const make = () => new Float64Array(steps + 1).fill(NaN);
  /** @type {Coupled} */
  const run = { x: make(), excess: make(), last: steps, diverged: false };
  for (let t = 0; t <= steps; t++) {
    if (!(Number.isFinite(x) && Number.isFinite(excess))) {
      run.last = t - 1;
      run.diverged = true;
      break;
    }
    run.x[t] = x;
    run.excess[t] = excess;
    const next = -(1 + eta * excess) * x - (eta * q * x * x * x) / 6;
    excess += eta * (alpha - (beta * x * x) / 2);
    x = next;
  }
  return run;
}

/**
 * E - 2 alpha ln|x| with E = excess^2 + beta x^2 / 2, which the flow of q = 0 keeps (G4).
 *
 * @param {number} x @param {number} excess @param {number} alpha @param {number} beta
 */
export function conserved(x, excess, alpha, beta) {
  const energy = excess * excess + (beta * x * x) / 2;
  return alpha === 0 ? energy : energy - 2 * alpha * Math.log(Math.abs(x));
}

/**
 * The excess >= 0 at which that has a value, for given x; NaN where there is none.
 *
 * @param {number} x @param {number} value @param {number} alpha @param {number} beta
 */
export function levelCurve(x, value, alpha, beta) {
  return Math.sqrt(value - conserved(x, 0, alpha, beta));
}
