/**
 * A loss of two parameters to third order, L = (lambda_1 x^2 + lambda_2 y^2 + c x^2 y) / 2: at the
 * origin it has these eigenvalues, and the sharpness the slope c along y. What G2 and G3 say is
 * compared with the library's derivatives of eigenvectors and with eigenvalues by NumPy.
 */

/** @typedef {[number, number]} Pair */

/**
 * @typedef {object} Loss
 * @property {number} first lambda_1
 * @property {number} second lambda_2, below lambda_1
 * @property {number} slope c, of the sharpness
 */

/** @param {Loss} loss @param {Pair} point @returns {number} */
export function value({ first, second, slope }, [x, y]) {
  return (first * x * x + second * y * y + slope * x * x * y) / 2;
}

/** @param {Loss} loss @param {Pair} point @returns {Pair} */
export function gradient({ first, second, slope }, [x, y]) {
  return [first * x + slope * x * y, second * y + (slope * x * x) / 2];
}

/** The angle of v_1 to the axis of x, in (-pi/2, pi/2] (D3 and G2). @param {Loss} loss @param {Pair} point */
export function angle({ first, second, slope }, [x, y]) {
  return Math.atan2(2 * slope * x, first + slope * y - second) / 2;
}

/** The largest eigenvalue of the Hessian. @param {Loss} loss @param {Pair} point */
export function sharpness({ first, second, slope }, [x, y]) {
  const top = first + slope * y;
  return (top + second + Math.hypot(top - second, 2 * slope * x)) / 2;
}

/** How far the gradient points away from the axis of x, at a point of that axis (G3). @param {Loss} loss @param {number} x */
export function tilt(loss, x) {
  const [along, across] = gradient(loss, [x, 0]);
  return Math.atan(across / along);
}

/** The rate at which v_1 turns along x at the origin (G2). @param {Loss} loss */
export function turning({ first, second, slope }) {
  return slope / (first - second);
}

/** What two steps of learning rate eta add to y from (x, 0), to second order in x (G3). @param {Loss} loss @param {number} x @param {number} eta */
export function twoSteps({ first, second, slope }, x, eta) {
  const m = eta * first - 1;
  return ((-eta * x * x) / 2) * (1 + m * m - eta * second) * slope;
}

/**
 * Gradient descent; a run that leaves the finite numbers ends before.
 *
 * @param {Loss} loss @param {Pair} start @param {number} eta @param {number} steps
 */
export function descend(loss, start, eta, steps) {
  const [xs, ys] = [[start[0]], [start[1]]];
  for (let t = 0; t < steps; t++) {
    const [gx, gy] = gradient(loss, [xs[t], ys[t]]);
    const next = [xs[t] - eta * gx, ys[t] - eta * gy];
    // Beyond this nothing comes back.
    if (!next.every((v) => Math.abs(v) < 1e6)) break;
    xs.push(next[0]);
    ys.push(next[1]);
  }
  return { xs, ys, last: xs.length - 1, escaped: xs.length <= steps };
}
