/** A training run of the small network, measured at every step: what the worker does. */
import { LeadingPairs, overlap, spanOverlap } from "./eigen.js";
import { EpisodeFinder } from "./episodes.js";
import { TanhNetwork } from "./mlp.js";
import { uniform } from "./random.js";

export const EXAMPLES = 32;

/** The networks to choose from: widths of all layers. The last is a linear model, as a control. */
export const NETWORKS = [
  [1, 16, 1],
  [1, 16, 16, 1],
  [1, 24, 24, 1],
  [1, 12, 12, 12, 1],
  [1, 1],
];

/** The functions to learn on [-1, 1]. */
export const TASKS = [
  { name: "one wave", f: (/** @type {number} */ x) => Math.sin(Math.PI * x) },
  { name: "a bump", f: (/** @type {number} */ x) => 1 / (1 + 25 * x * x) },
  {
    name: "Chebyshev polynomial T₅",
    f: (/** @type {number} */ x) => x * (5 + x * x * (16 * x * x - 20)),
  },
];

export const BATCHES = [EXAMPLES, 16, 8, 4];
export const LAGS = [1, 2, 10, 50];
export const EIGENVALUES = 3;
/** The relative residual at which an eigenpair counts as found. */
export const TOLERANCE = 1e-5;
/** A loss that says that the run has diverged: the targets are at most 1 in size. */
export const DIVERGED = 1e9;

/** What is recorded of each step, in this order. */
export const COLUMNS = /** @type {const} */ ([
  "loss",
  "lambda1",
  "lambda2",
  "lambda3",
  "eta",
  "lagOverlap",
  "startOverlap",
  "spanOverlap",
  "products",
  "residual",
]);

/**
 * @typedef {object} Settings
 * @property {number[]} widths of all layers
 * @property {(x: number) => number} task
 * @property {number} seed of the initial weights, and of the minibatches
 * @property {number} scale of the initial weights
 */

/** Evenly spaced inputs on [-1, 1]. @param {number} count */
export function grid(count) {
  return Float64Array.from({ length: count }, (_, i) => -1 + (2 * i) / (count - 1));
}

export class TrainingRun {
  step = 0;
  diverged = false;
  /** The examples of the last minibatch. @type {number[]} */
  drawn = [];
  #random;
  /** @type {number[]} */
  #order = [];
  /** @type {Float64Array[][]} the leading eigenvectors of the last steps, the latest last */
  #past = [];

  /** @param {Settings} settings */
  constructor({ widths, task, seed, scale }) {
    const inputs = grid(EXAMPLES);
    this.network = new TanhNetwork(widths, inputs, inputs.map(task));
    this.theta = this.network.initial(seed, scale);
    this.gradient = new Float64Array(this.network.size);
    this.pairs = new LeadingPairs(this.network.size, EIGENVALUES, { tolerance: TOLERANCE });
    /** @type {EpisodeFinder<Float64Array>} */
    this.finder = new EpisodeFinder();
    this.#random = uniform(seed + 0x5eed);
  }

  /**
   * Measure at the present parameters: once for each step, in order.
   *
   * @param {number} eta @param {number} lag compare with the eigenvectors so many steps ago
   * @returns {number[]} as in COLUMNS; overlaps with a past that does not exist are NaN
   */
  measure(eta, lag) {
    const loss = this.network.gradient(this.theta, this.gradient);
    if (!(loss < DIVERGED)) {
      this.diverged = true;
      return [loss, NaN, NaN, NaN, eta, NaN, NaN, NaN, 0, NaN];
    }
    const { values, products, residual } = this.pairs.update((v, result) =>
      this.network.product(v, result),
    );
    const vectors = this.pairs.vectors;
    this.#past.push(vectors);
    if (this.#past.length > Math.max(...LAGS) + 1) this.#past.shift();
    this.finder.push(loss, values[0], 2 / eta, vectors[0]);
    const before = this.#past[this.#past.length - 1 - lag];
    const start = this.finder.remembered;
    return [
      loss,
      values[0],
      values[1],
      values[2] ?? NaN,
      eta,
      before ? overlap(before[0], vectors[0]) : NaN,
      start ? overlap(start, vectors[0]) : NaN,
      before ? spanOverlap(before, vectors) : NaN,
      products,
      residual,
    ];
  }

  /**
   * Take a step of gradient descent from the point that was measured last.
   *
   * @param {number} eta @param {number} batch how many examples; all of them: the full gradient
   */
  descend(eta, batch) {
    const { theta, gradient } = this;
    if (batch < EXAMPLES) {
      this.drawn = this.#draw(batch);
      this.network.gradient(theta, gradient, this.drawn);
    }
    for (let i = 0; i < theta.length; i++) theta[i] -= eta * gradient[i];
    this.step += 1;
  }

  /** The next examples of an order that is shuffled anew for each epoch. @param {number} count */
  #draw(count) {
    if (this.#order.length < count) {
      this.#order = Array.from({ length: EXAMPLES }, (_, i) => i);
      for (let i = EXAMPLES - 1; i > 0; i--) {
        const j = Math.floor(this.#random() * (i + 1));
        [this.#order[i], this.#order[j]] = [this.#order[j], this.#order[i]];
      }
    }
    return this.#order.splice(0, count);
  }
}
