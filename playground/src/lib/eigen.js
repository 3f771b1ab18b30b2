/** Leading eigenpairs of a symmetric operator that changes a little from call to call. */
import { normal } from "./random.js";

/**
 * All eigenpairs of a small symmetric matrix by Jacobi's rotations, the largest eigenvalue first.
 *
 * @param {Float64Array} matrix n times n; only its symmetric part counts
 * @param {number} n
 * @returns {{values: Float64Array, vectors: Float64Array}} eigenvectors in the rows
 */
export function symmetricEigen(matrix, n) {
  const a = new Float64Array(n * n);
  const v = new Float64Array(n * n);
  let total = 0;
  for (let i = 0; i < n; i++) {
    v[i * n + i] = 1;
    for (let j = 0; j < n; j++) {
      a[i * n + j] = (matrix[i * n + j] + matrix[j * n + i]) / 2;
      total += a[i * n + j] ** 2;
    }
  }
  // Convergence is quadratic; in float64 some ten sweeps suffice for any matrix.
  for (let sweep = 0; sweep < 40; sweep++) {
    let off = 0;
    for (let i = 0; i < n; i++) for (let j = i + 1; j < n; j++) off += a[i * n + j] ** 2;
    // Off-diagonal entries of norm e move eigenvalues by at most e: below the rounding of |A|.
    if (Math.sqrt(2 * off) <= 2 ** -53 * Math.sqrt(total)) break;
    for (let p = 0; p < n; p++) for (let q = p + 1; q < n; q++) rotate(a, v, n, p, q);
  }
  const order = Array.from({ length: n }, (_, i) => i).sort((i, j) => a[j * n + j] - a[i * n + i]);
  const vectors = new Float64Array(n * n);
  order.forEach((from, to) => vectors.set(v.subarray(from * n, (from + 1) * n), to * n));
  return { values: Float64Array.from(order, (i) => a[i * n + i]), vectors };
}

/**
 * Annihilate entry (p, q) by a rotation, and turn rows p and q of v along.
 *
 * @param {Float64Array} a @param {Float64Array} v @param {number} n
 * @param {number} p @param {number} q
 */
function rotate(a, v, n, p, q) {
  const apq = a[p * n + q];
  if (apq === 0) return;
  const theta = (a[q * n + q] - a[p * n + p]) / (2 * apq);
  const t = (theta >= 0 ? 1 : -1) / (Math.abs(theta) + Math.hypot(theta, 1));
  const c = 1 / Math.hypot(t, 1);
  const s = t * c;
  for (let k = 0; k < n; k++) {
    const [x, y] = [a[k * n + p], a[k * n + q]];
    a[k * n + p] = c * x - s * y;
    a[k * n + q] = s * x + c * y;
  }
  for (let k = 0; k < n; k++) {
    const [x, y] = [a[p * n + k], a[q * n + k]];
    a[p * n + k] = c * x - s * y;
    a[q * n + k] = s * x + c * y;
    const [f, g] = [v[p * n + k], v[q * n + k]];
    v[p * n + k] = c * f - s * g;
    v[q * n + k] = s * f + c * g;
  }
  a[p * n + q] = a[q * n + p] = 0;
}

/** @param {Float64Array} x @param {Float64Array} y */
export function dot(x, y) {
  let sum = 0;
  for (let i = 0; i < x.length; i++) sum += x[i] * y[i];
  return sum;
}

/**
 * |cos| of the angle between two unit vectors: the same for v and -v.
 *
 * @param {Float64Array} u @param {Float64Array} v
 */
export function overlap(u, v) {
  return Math.min(1, Math.abs(dot(u, v)));
}

/**
 * The root mean square cosine of the principal angles between the spans of two orthonormal sets
 * of k vectors, sqrt(tr(P_U P_V) / k). It does not depend on the choice of vectors within either
 * span; for k = 1 it is the overlap.
 *
 * @param {Float64Array[]} U @param {Float64Array[]} V
 */
export function spanOverlap(U, V) {
  let sum = 0;
  for (const u of U) for (const v of V) sum += dot(u, v) ** 2;
  return Math.min(1, Math.sqrt(sum / U.length));
}

/**
 * Follows the k largest eigenvalues, and their eigenvectors, of an operator from call to call.
 *
 * Each call does Rayleigh-Ritz on the span of the vectors of the call before and of two guards:
 * the next Ritz vector, and its residual with some noise. So a direction that is orthogonal to all
 * the others, and becomes leading, is found too, after a few calls: the guards turn toward it as in
 * a power iteration. A call then adds the residuals of those of the k pairs that are not
 * converged, orthogonalized in full, until all are: ||H v - lambda v|| <= tolerance * |lambda_1|.
 * So each eigenvalue is at least that close to one of H, and closer where the gap to the others is
 * larger than the residual.
 */
export class LeadingPairs {
  /** @type {Float64Array[]} k unit vectors, orthogonal to each other */
  vectors = [];
  /** @type {Float64Array[]} the next Ritz vector, and its residual with some noise */
  #guards = [];
  #calls = 0;

  /**
   * @param {number} size of the vectors
   * @param {number} k
   * @param {{tolerance?: number, largest?: number, limit?: number}} [options] largest: vectors in
   *     the basis before it is restarted; limit: products in a call before it gives up
   */
  constructor(size, k, { tolerance = 1e-6, largest = 24, limit = 400 } = {}) {
    this.size = size;
    this.k = Math.min(k, size);
    this.tolerance = tolerance;
    this.largest = Math.max(largest, 4 * this.k);
    this.limit = limit;
  }

  /**
   * @param {(v: Float64Array, result: Float64Array) => void} product
   * @returns {{values: Float64Array, residual: number, products: number, converged: boolean}}
   *     k eigenvalues, the largest residual relative to |lambda_1|, and the products it took
   */
  update(product) {
    const { size, k } = this;
    /** @type {Float64Array[]} */
    let basis = [];
    /** @type {Float64Array[]} */
    let images = [];
    let products = 0;
    const add = (/** @type {Float64Array} */ vector) => {
      if (basis.length === size || !orthonormalize(vector, basis)) return;
      const image = new Float64Array(size);
      product(vector, image);
      products += 1;
      basis.push(vector);
      images.push(image);
    };
    this.#calls += 1;
    for (const vector of [...this.vectors, ...this.#guards]) add(vector.slice());
    for (let i = 0; i < (this.#calls > 1 ? 0 : k + 2); i++) add(normal(size, i));
    for (;;) {
      const n = basis.length;
      const projected = new Float64Array(n * n);
      for (let i = 0; i < n; i++) {
        for (let j = 0; j <= i; j++) {
          projected[i * n + j] = projected[j * n + i] = dot(basis[i], images[j]);
        }
      }
      if (!projected.every(Number.isFinite)) {
        return { values: new Float64Array(k).fill(NaN), residual: NaN, products, converged: false };
      }
      const { values, vectors } = symmetricEigen(projected, n);
      const pairs = Math.min(n, 2 * k);
      const combine = (/** @type {Float64Array[]} */ of) =>
        Array.from({ length: pairs }, (_, i) =>
          combination(of, vectors.subarray(i * n, (i + 1) * n), size),
        );
      const ritz = combine(basis);
      const ritzImages = combine(images);
      const scale = Math.abs(values[0]);
      /** @type {Float64Array[]} */
      const open = [];
      let worst = 0;
      for (let i = 0; i < k; i++) {
        const residual = difference(ritzImages[i], values[i], ritz[i]);
        const norm = Math.sqrt(dot(residual, residual));
        worst = Math.max(worst, norm);
        if (norm > this.tolerance * scale) open.push(residual);
      }
      if (open.length === 0 || products >= this.limit || n === size) {
        this.vectors = ritz.slice(0, k);
        this.#guards = ritz.slice(k, k + 1);
        if (this.#guards.length > 0) {
          this.#guards.push(this.#next(ritz[k], ritzImages[k], values[k]));
        }
        return {
          values: values.slice(0, k),
          residual: scale > 0 ? worst / scale : 0,
          products,
          converged: open.length === 0,
        };
      }
      if (n + open.length > this.largest) {
        basis = ritz;
        images = ritzImages;
      }
      const before = basis.length;
      for (const residual of open) add(residual);
      // Only rounding is left of the residuals: there is nothing to be gained from them.
      if (basis.length === before) add(normal(size, this.#calls + products));
    }
  }

  /**
   * The residual of the guard, of length one, and noise of a tenth of that.
   *
   * @param {Float64Array} vector @param {Float64Array} image @param {number} value
   */
  #next(vector, image, value) {
    const residual = difference(image, value, vector);
    const length = Math.sqrt(dot(residual, residual)) || 1;
    const deviation = 0.1 / Math.sqrt(this.size);
    return normal(this.size, this.#calls).map((z, i) => residual[i] / length + deviation * z);
  }
}

/** x - factor * y. @param {Float64Array} x @param {number} factor @param {Float64Array} y */
function difference(x, factor, y) {
  return x.map((value, i) => value - factor * y[i]);
}

/**
 * Make a vector orthogonal to orthonormal ones, twice, so that rounding is left out as well, and
 * scale it to length one. False if nothing is left of it.
 *
 * @param {Float64Array} vector @param {Float64Array[]} basis
 */
function orthonormalize(vector, basis) {
  for (let pass = 0; pass < 2; pass++) {
    const before = Math.sqrt(dot(vector, vector));
    if (!(before > 0)) return false;
    for (let i = 0; i < vector.length; i++) vector[i] /= before;
    for (const b of basis) {
      const c = dot(b, vector);
      for (let i = 0; i < vector.length; i++) vector[i] -= c * b[i];
    }
    if (!(dot(vector, vector) > 1e-24)) return false;
  }
  const norm = Math.sqrt(dot(vector, vector));
  for (let i = 0; i < vector.length; i++) vector[i] /= norm;
  return true;
}

/**
 * @param {Float64Array[]} vectors @param {Float64Array} weights @param {number} size
 */
function combination(vectors, weights, size) {
  const sum = new Float64Array(size);
  vectors.forEach((vector, j) => {
    const w = weights[j];
    for (let i = 0; i < size; i++) sum[i] += w * vector[i];
  });
  return sum;
}
