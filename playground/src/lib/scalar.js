/**
 * The scalar network of depth two, L = (a b - y)^2 / 2: what flatminima.theory.scalar_network
 * computes, one point or one run at a time. Names are those of the Python library.
 */

/**
 * A run of gradient descent: entry t of each array belongs to step t; entries after divergence
 * are NaN.
 *
 * @typedef {object} Run
 * @property {Float64Array} a
 * @property {Float64Array} b
 * @property {Float64Array} residual r = a b - y
 * @property {Float64Array} kappa the imbalance b^2 - a^2
 * @property {Float64Array} sharpness the largest eigenvalue of the Hessian
 * @property {Float64Array} angle of v_1, in radians, in (-pi/2, pi/2]
 * @property {Float64Array} minimumSharpness of the minimum ahead, sqrt(kappa^2 + 4 y^2)
 * @property {number} last the last step at which the run was finite
 * @property {boolean} diverged
 */

/** @param {number} a @param {number} b @param {number} y */
export function residual(a, b, y) {
  return a * b - y;
}

/** The imbalance b^2 - a^2. @param {number} a @param {number} b */
export function kappa(a, b) {
  return (b - a) * (b + a);
}

/**
 * Both eigenvalues of the Hessian, the larger first (D3).
 *
 * @param {number} a @param {number} b @param {number} y
 * @returns {[number, number]}
 */
export function eigenvalues(a, b, y) {
  const output = a * b;
  const r = output - y;
  const largest = (a * a + b * b + Math.hypot(kappa(a, b), 2 * (output + r))) / 2;
  // det H = -r (2 f + r), and with it no difference of nearly equal numbers.
  return [largest, largest === 0 ? 0 : (-r * (2 * output + r)) / largest];
}

/** The largest eigenvalue of the Hessian. @param {number} a @param {number} b @param {number} y */
export function sharpness(a, b, y) {
  return eigenvalues(a, b, y)[0];
}

/**
 * The angle of v_1 to the first axis, in (-pi/2, pi/2], as a function of residual and imbalance:
 * tan 2 phi = 2 (y + 2 r) / kappa (D3). NaN where the eigenvalue is repeated.
 *
 * @param {number} r @param {number} k @param {number} y
 */
export function angleAt(r, k, y) {
  const mixed = y + 2 * r;
  return k === 0 && mixed === 0 ? NaN : Math.atan2(2 * mixed, k) / 2;
}

/** The angle of v_1 at a point. @param {number} a @param {number} b @param {number} y */
export function angle(a, b, y) {
  const output = a * b;
  const mixed = output + (output - y);
  const k = kappa(a, b);
  return k === 0 && mixed === 0 ? NaN : Math.atan2(2 * mixed, k) / 2;
}

/**
 * The point (a, b) with b > 0 of given residual and imbalance; with -(a, b) it is the only one.
 *
 * @param {number} r @param {number} k @param {number} y
 * @returns {[number, number]}
 */
export function at(r, k, y) {
  const output = y + r;
  const larger = Math.sqrt((Math.hypot(k, 2 * output) + Math.abs(k)) / 2);
  const smaller = larger > 0 ? output / larger : 0;
  if (k >= 0) return [smaller, larger];
  return [output < 0 ? -larger : larger, Math.abs(smaller)];
}

/** Sharpness of the minimum ahead, sqrt(kappa^2 + 4 y^2) (D4). @param {number} k @param {number} y */
export function minimumSharpness(k, y) {
  return Math.hypot(k, 2 * y);
}

/**
 * One step of gradient descent, with label noise xi on the residual.
 *
 * @param {number} a @param {number} b @param {number} y @param {number} eta @param {number} xi
 * @returns {[number, number]}
 */
export function step(a, b, y, eta, xi = 0) {
  const scaled = eta * (a * b - y + xi);
  return [a - scaled * b, b - scaled * a];
}

/**
 * 4 - eta (a^2 + b^2) + eta^2 y r. For eta |y| < 2 a run without noise stays bounded where it is
 * positive, and diverges where it is negative, unless it lands on a minimum exactly.
 *
 * @param {number} a @param {number} b @param {number} y @param {number} eta
 */
export function escapeMargin(a, b, y, eta) {
  return 4 - eta * (a * a + b * b) + eta * eta * y * residual(a, b, y);
}

/**
 * Run gradient descent.
 *
 * @param {object} options
 * @param {[number, number]} options.start
 * @param {number} options.y the target
 * @param {number} options.eta the learning rate
 * @param {number} options.steps
 * @param {ArrayLike<number>} [options.noise] xi_t, the noise on the residual in step t
 * @returns {Run}
 */
export function descend({ start, y, eta, steps, noise }) {
  const make = () => new Float64Array(steps + 1).fill(NaN);
  /** @type {Run} */
  const run = {
    a: make(),
    b: make(),
    residual: make(),
    kappa: make(),
    sharpness: make(),
    angle: make(),
    minimumSharpness: make(),
    last: steps,
    diverged: false,
  };
  let [a, b] = start;
  for (let t = 0; t <= steps; t++) {
    const r = residual(a, b, y);
    // As in Python: a run has diverged once parameters or loss are no finite numbers.
    if (!(Number.isFinite(a) && Number.isFinite(b) && Number.isFinite(r * r))) {
      run.diverged = true;
      run.last = t - 1;
      break;
    }
    run.a[t] = a;
    run.b[t] = b;
    run.residual[t] = r;
    run.kappa[t] = kappa(a, b);
    run.sharpness[t] = sharpness(a, b, y);
    run.angle[t] = angle(a, b, y);
    run.minimumSharpness[t] = minimumSharpness(run.kappa[t], y);
    [a, b] = step(a, b, y, eta, noise ? noise[t] : 0);
  }
  return run;
}

/**
 * What became of a run.
 *
 * @typedef {"diverged" | "settled" | "period two" | "moving" | "noisy"} Outcome
 */

/**
 * @param {Run} run
 * @param {number} eta
 * @param {boolean} noisy whether there was label noise
 * @returns {Outcome}
 */
export function outcome(run, eta, noisy) {
  if (run.diverged) return "diverged";
  if (noisy) return "noisy";
  const r = run.residual;
  const t = run.last;
  // Residuals count in units of 1 / eta, as they do in every bound of the book.
  if (eta * Math.max(Math.abs(r[t]), Math.abs(r[t - 1] ?? r[t])) < 1e-4) return "settled";
  if (t >= 4) {
    const back = Math.max(Math.abs(r[t] - r[t - 2]), Math.abs(r[t - 1] - r[t - 3]));
    if (eta * back < 1e-6 && eta * Math.abs(r[t] - r[t - 1]) > 1e-3) return "period two";
  }
  return "moving";
}
