/**
 * Networks of two weights and one example at x = 1, near their curve of minima: what
 * flatminima.theory.manifold computes for layered_network((1, 1, 1), [[1.0]], ...) (M1, M2).
 */

/** @typedef {[number, number]} Pair the weights, first layer first */
/** @typedef {"linear" | "tanh"} Name */

/**
 * The output, its first derivatives, and its second ones f_aa and f_ab; f_bb is 0.
 *
 * @param {Name} name @param {Pair} point
 */
export function output(name, [a, b]) {
  if (name === "linear") return { f: a * b, fa: b, fb: a, faa: 0, fab: 1 };
  const t = Math.tanh(a);
  const rise = 1 - t * t;
  return { f: b * t, fa: b * rise, fb: t, faa: -2 * b * t * rise, fab: rise };
}

/** The weight of the second layer with which the output has a value. @param {Name} name @param {number} a @param {number} f */
export function second(name, a, f) {
  return f / (name === "linear" ? a : Math.tanh(a));
}

/** @param {Name} name @param {Pair} point @param {number} y @returns {Pair} */
export function gradient(name, point, y) {
  const { f, fa, fb } = output(name, point);
  return [(f - y) * fa, (f - y) * fb];
}

/**
 * The minimum that Gauss-Newton steps lead to; undefined where they do not settle.
 *
 * @param {Name} name @param {Pair} point @param {number} y @returns {Pair | undefined}
 */
export function minimumNear(name, [a, b], y) {
  for (let i = 0; i < 50; i++) {
    const { f, fa, fb } = output(name, [a, b]);
    const weight = (f - y) / (fa * fa + fb * fb);
    const [da, db] = [weight * fa, weight * fb];
    [a, b] = [a - da, b - db];
    if (!(Number.isFinite(a) && Number.isFinite(b))) return undefined;
    const size = Math.max(Math.abs(da), Math.abs(db));
    if (size <= 1e-9 * (1 + Math.max(Math.abs(a), Math.abs(b)))) return [a, b];
  }
  return undefined;
}

/** Sharpness and leading eigenvector at a point. @param {Name} name @param {Pair} point @param {number} y */
export function leading(name, point, y) {
  const { f, fa, fb, faa, fab } = output(name, point);
  const r = f - y;
  const [p, q, s] = [fa * fa + r * faa, fa * fb + r * fab, fb * fb];
  const turn = Math.atan2(2 * q, p - s) / 2;
  return {
    sharpness: (p + s + Math.hypot(p - s, 2 * q)) / 2,
    vector: /** @type {Pair} */ ([Math.cos(turn), Math.sin(turn)]),
  };
}

/**
 * At a minimum: its sharpness, v_1, the direction along the minima, and the slope of the sharpness
 * along it, T[v_1, v_1, e].
 *
 * @param {Name} name @param {Pair} minimum
 */
export function frame(name, minimum) {
  const { fa, fb, faa, fab } = output(name, minimum);
  const size = Math.hypot(fa, fb);
  const [va, vb] = [fa / size, fb / size];
  const slope = 2 * size * (va * (faa * -vb + fab * va) + vb * fab * -vb);
  return {
    sharpness: size * size,
    vector: /** @type {Pair} */ ([va, vb]),
    tangent: /** @type {Pair} */ ([-vb, va]),
    slope,
  };
}

/**
 * Where a run ends by M1: 2/eta - sqrt(excess^2 + beta x^2 / 2), all of it at the minimum ahead.
 *
 * @param {Name} name @param {Pair} start @param {number} y @param {number} eta
 */
export function reflectedEnd(name, start, y, eta) {
  const minimum = minimumNear(name, start, y);
  if (!minimum) return NaN;
  const { sharpness, vector, slope } = frame(name, minimum);
  const x = vector[0] * (start[0] - minimum[0]) + vector[1] * (start[1] - minimum[1]);
  return 2 / eta - Math.hypot(sharpness - 2 / eta, (slope * x) / Math.SQRT2);
}

/**
 * Gradient descent, with the minimum ahead of each point, its sharpness, and the angle by which v_1
 * leans toward the flat direction there. A run ends before it has no minimum ahead.
 *
 * @param {Name} name @param {Pair} start @param {number} y @param {number} eta @param {number} steps
 */
export function descend(name, start, y, eta, steps) {
  /** @type {{a: number[], b: number[], ahead: Pair[], sharpness: number[], turn: number[]}} */
  const run = { a: [], b: [], ahead: [], sharpness: [], turn: [] };
  let point = start;
  for (let t = 0; t <= steps; t++) {
    const minimum = minimumNear(name, point, y);
    // So far out that the minimum found is another one.
    if (!minimum || Math.hypot(...point) > 10) break;
    const { sharpness, tangent } = frame(name, minimum);
    const { vector } = leading(name, point, y);
    run.a.push(point[0]);
    run.b.push(point[1]);
    run.ahead.push(minimum);
    run.sharpness.push(sharpness);
    const lean = Math.abs(tangent[0] * vector[0] + tangent[1] * vector[1]);
    run.turn.push(Math.asin(Math.min(1, lean)));
    const [ga, gb] = gradient(name, point, y);
    point = [point[0] - eta * ga, point[1] - eta * gb];
  }
  return { ...run, last: run.a.length - 1, escaped: run.a.length <= steps };
}

/** Before each step, the sum of the squares so far and what the logarithm of the sharpness has lost. @param {{turn: number[], sharpness: number[]}} run */
export function account({ turn, sharpness }) {
  let sum = 0;
  const spent = turn.map((angle) => (sum += angle * angle) - angle * angle);
  return { spent, lost: sharpness.map((level) => Math.log(sharpness[0] / level)) };
}
