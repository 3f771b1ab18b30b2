/**
 * Gradient descent on L = (a b - y)^2 / 2 split into a center and an oscillation around it, whose
 * parts can be changed: what flatminima.training.interventions.CenteredDescent computes, for two
 * parameters with exact eigenvectors.
 */
import { eigenvalues, kappa, residual } from "./scalar.js";

/** @typedef {[number, number]} Vector */
/** @typedef {{value: number, vector: Vector}} Pair an eigenvalue of the Hessian, and its vector */

/**
 * What is changed: factors of the even part of the gradient across V and within it, and whether the
 * parameters oscillate themselves.
 *
 * @typedef {{across: number, within: number, oscillates: boolean}} Parts
 */

/** The arms of the chapter, as in study.experiments.interventions. @type {Record<string, Parts>} */
export const ARMS = {
  control: { across: 1, within: 1, oscillates: true },
  none: { across: 0, within: 0, oscillates: true },
  within: { across: 0, within: 1, oscillates: true },
  across: { across: 1, within: 0, oscillates: true },
  drift: { across: 1, within: 1, oscillates: false },
  reversed: { across: -1, within: 1, oscillates: false },
};
/** Those whose displacement is at most as long as the control's. */
const CAPPED = ["none", "within"];

/**
 * The eigenpairs of the Hessian, the larger first.
 *
 * @param {Vector} point @param {number} y
 * @returns {[Pair, Pair]}
 */
export function eigenpairs([a, b], y) {
  const [large, small] = eigenvalues(a, b, y);
  const half = Math.atan2(2 * (a * b + residual(a, b, y)), kappa(a, b)) / 2;
  const [c, s] = [Math.cos(half), Math.sin(half)];
  return [
    { value: large, vector: [c, s] },
    { value: small, vector: [-s, c] },
  ];
}

const add = (/** @type {Vector} */ u, /** @type {Vector} */ v, /** @type {number} */ factor) =>
  /** @type {Vector} */ ([u[0] + factor * v[0], u[1] + factor * v[1]]);
const dot = (/** @type {Vector} */ u, /** @type {Vector} */ v) => u[0] * v[0] + u[1] * v[1];

export class CenteredDescent {
  /**
   * @param {object} options
   * @param {Vector} options.start
   * @param {number} options.y
   * @param {number} options.eta
   * @param {Parts} options.parts
   * @param {number} options.offset length of the displacement at the start, along v_1
   */
  constructor({ start, y, eta, parts, offset }) {
    this.y = y;
    this.eta = eta;
    this.parts = parts;
    this.center = start;
    /** @type {Pair[]} those in V */
    this.inside = [];
    /** @type {Pair} of the largest eigenvalue */
    this.leading = this.#renew(start);
    this.displacement = add([0, 0], this.leading.vector, offset);
    if (parts.oscillates) this.center = add(start, this.displacement, -1);
  }

  /** The parameters: center and displacement, or the center if they do not oscillate. */
  get theta() {
    return this.parts.oscillates ? add(this.center, this.displacement, 1) : this.center;
  }

  /** @param {Vector} point @returns {Vector} */
  #gradient([a, b]) {
    const r = residual(a, b, this.y);
    return [r * b, r * a];
  }

  /** V at a point: the eigenvectors along which a step changes the sign. @param {Vector} point */
  #renew(point) {
    const pairs = eigenpairs(point, this.y);
    this.inside = pairs.filter(({ value }) => value > 1 / this.eta);
    this.leading = pairs[0];
    return pairs[0];
  }

  /** The part of a vector within V. @param {Vector} u */
  #within(u) {
    return this.inside.reduce(
      (sum, { vector }) => add(sum, vector, dot(vector, u)),
      /** @type {Vector} */ ([0, 0]),
    );
  }

  /** Give it the displacement of another run, as far as V has as many vectors. @param {number[]} amplitudes */
  replay(amplitudes) {
    const zero = /** @type {Vector} */ ([0, 0]);
    this.displacement = this.inside
      .slice(0, amplitudes.length)
      .reduce((sum, { vector }, i) => add(sum, vector, amplitudes[i]), zero);
  }

  /** One step. @param {number} limit length to which the displacement is shortened if it is longer */
  step(limit = Infinity) {
    const { eta, parts, center: c, displacement: d } = this;
    const here = this.#gradient(c);
    const ahead = this.#gradient(add(c, d, 1));
    const behind = this.#gradient(add(c, d, -1));
    const half = (/** @type {number} */ sign) =>
      /** @type {Vector} */ ([(ahead[0] + sign * behind[0]) / 2, (ahead[1] + sign * behind[1]) / 2]);
    const even = add(half(1), here, -1);
    const odd = half(-1);
    const inside = this.#within(even);
    const center = add(add(c, here, -eta), add(even, inside, -1), -eta * parts.across);
    const moved = parts.oscillates
      ? add(add(d, odd, -eta), inside, -eta * parts.within)
      : add(add([0, 0], odd, eta), d, -1);
    this.#renew(center);
    const slope = this.#gradient(center);
    const newton = this.inside.reduce(
      (sum, { value, vector }) => add(sum, vector, dot(vector, slope) / value),
      /** @type {Vector} */ ([0, 0]),
    );
    const kept = this.#within(moved);
    this.center = add(center, newton, -1);
    if (parts.oscillates) this.center = add(this.center, add(moved, kept, -1), 1);
    this.displacement = parts.oscillates ? add(kept, newton, 1) : kept;
    const size = Math.hypot(...this.displacement);
    if (size > limit) this.displacement = add([0, 0], this.displacement, limit / size);
  }
}

/**
 * What an arm did: entry t of each array is before step t.
 *
 * @typedef {object} Arm
 * @property {Float64Array} a of the center
 * @property {Float64Array} b
 * @property {Float64Array} seenA of the parameters themselves
 * @property {Float64Array} seenB
 * @property {Float64Array} size of the displacement
 * @property {Float64Array} sharpness at the center
 * @property {number[][]} amplitudes the displacement along each vector in V
 */

/**
 * Run the arms from one start. Without their force "none" and "within" oscillate at most as far as
 * the control at the same step, and "reversed" is given the displacements of the drift.
 *
 * @param {object} options
 * @param {Vector} options.start
 * @param {number} options.y @param {number} options.eta @param {number} options.steps
 * @param {number} options.offset
 * @returns {Record<string, Arm>}
 */
export function runArms({ start, y, eta, steps, offset }) {
  /** @type {Record<string, Arm>} */
  const found = {};
  for (const [name, parts] of Object.entries(ARMS)) {
    const descent = new CenteredDescent({ start, y, eta, parts, offset });
    const make = () => new Float64Array(steps + 1);
    /** @type {Arm} */
    const arm = {
      a: make(),
      b: make(),
      seenA: make(),
      seenB: make(),
      size: make(),
      sharpness: make(),
      amplitudes: [],
    };
    for (let t = 0; t <= steps; t++) {
      if (name === "reversed") descent.replay(found.drift.amplitudes[t]);
      [arm.a[t], arm.b[t]] = descent.center;
      [arm.seenA[t], arm.seenB[t]] = descent.theta;
      arm.size[t] = Math.hypot(...descent.displacement);
      arm.sharpness[t] = descent.leading.value;
      arm.amplitudes.push(descent.inside.map(({ vector }) => dot(vector, descent.displacement)));
      if (t < steps) descent.step(CAPPED.includes(name) ? found.control.size[t + 1] : Infinity);
    }
    found[name] = arm;
  }
  return found;
}
