/** The instability budget and the reflection law, as in theory.instability and theory.label_noise. */

/**
 * Sharpness after an instability that began at sharpness `before`: 4 / eta - before (D8). With the
 * target of a network of depth two, eta |target| < 1, to second order in the excess.
 *
 * @param {number} before @param {number} eta @param {number} [target]
 */
export function reflectedSharpness(before, eta, target) {
  if (target === undefined) return 4 / eta - before;
  const square = (eta * target) ** 2;
  if (square >= 1) return NaN;
  const second = (((4 / 3) * (1 - 4 * square)) / (1 - square)) * ((eta * before) / 2 - 1) ** 2;
  return 4 / eta - before - (2 / eta) * second;
}

/**
 * The budget spent before each step: entry t is the sum of eta^2 r_u^2 over u < t (D7).
 *
 * @param {ArrayLike<number>} residuals r_t, or r_t + xi_t with label noise
 * @param {number} eta
 */
export function instabilityBudget(residuals, eta) {
  const budget = new Float64Array(residuals.length);
  for (let t = 1; t < budget.length; t++) {
    budget[t] = budget[t - 1] + (eta * residuals[t - 1]) ** 2;
  }
  return budget;
}

/**
 * log |kappa_t / kappa_0| before each step: the sum of log |1 - eta^2 r_u^2| over u < t (D7).
 *
 * @param {ArrayLike<number>} residuals r_t, or r_t + xi_t with label noise
 * @param {number} eta
 */
export function logImbalanceFactor(residuals, eta) {
  const sums = new Float64Array(residuals.length);
  for (let t = 1; t < sums.length; t++) {
    sums[t] = sums[t - 1] + Math.log(Math.abs(1 - (eta * residuals[t - 1]) ** 2));
  }
  return sums;
}

/**
 * The three shares of the budget with label noise before each step: sums of eta^2 times r^2, xi^2
 * and 2 r xi (D10).
 *
 * @param {ArrayLike<number>} residuals @param {ArrayLike<number>} noise @param {number} eta
 */
export function splitFlattening(residuals, noise, eta) {
  const make = () => new Float64Array(residuals.length);
  const shares = { residual: make(), noise: make(), cross: make() };
  for (let t = 1; t < residuals.length; t++) {
    const r = residuals[t - 1];
    const xi = noise[t - 1];
    shares.residual[t] = shares.residual[t - 1] + eta * eta * r * r;
    shares.noise[t] = shares.noise[t - 1] + eta * eta * xi * xi;
    shares.cross[t] = shares.cross[t - 1] + 2 * eta * eta * r * xi;
  }
  return shares;
}
