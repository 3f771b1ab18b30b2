/**
 * A tanh network for regression with exact derivatives: loss, gradient by backpropagation, and
 * Hessian-vector products by the R-operator (Pearlmutter 1994), which differentiates both passes
 * of backpropagation along a direction. No differences are taken anywhere.
 *
 * Parameters lie in one Float64Array, layer by layer, the weights (outputs x inputs, row by row)
 * before the biases: the order of PyTorch's parameters().
 */
import { normal } from "./random.js";

export class TanhNetwork {
  /**
   * Loss 1/(2 m) sum_i (f(x_i) - y_i)^2 on m examples.
   *
   * @param {number[]} widths of all layers, from the inputs to the single output
   * @param {ArrayLike<number>} inputs example by example, m times widths[0] numbers
   * @param {ArrayLike<number>} targets m numbers
   */
  constructor(widths, inputs, targets) {
    if (
      widths.length < 2 ||
      widths.some((w) => !Number.isInteger(w) || w < 1) ||
      widths[widths.length - 1] !== 1
    ) {
      throw new RangeError(`widths must be integers >= 1 that end in 1, got ${widths}`);
    }
    const m = targets.length;
    if (m < 1 || inputs.length !== m * widths[0]) {
      throw new RangeError(
        `inputs must hold widths[0] numbers for each of m >= 1 targets, ` +
          `got ${inputs.length} and ${m}`,
      );
    }
    this.widths = [...widths];
    this.examples = m;
    this.layers = widths.length - 1;
    /** Where each layer's weights begin in the parameters; its biases follow them. */
    this.offsets = [0];
    for (let l = 0; l < this.layers; l++) {
      this.offsets.push(this.offsets[l] + (widths[l] + 1) * widths[l + 1]);
    }
    this.size = this.offsets[this.layers];
    this.targets = Float64Array.from(targets);
    const of = (/** @type {number} */ l) => new Float64Array(m * widths[l]);
    // Entry l belongs to the output of layer l, entry 0 to the inputs.
    this.activations = widths.map((_, l) => of(l));
    this.activations[0].set(inputs);
    /** dL/da before the slope of tanh, and dL/dz after it. */
    this.errors = widths.map((_, l) => of(l));
    this.deltas = widths.map((_, l) => of(l));
    this.rActivations = widths.map((_, l) => of(l));
    this.rDeltas = widths.map((_, l) => of(l));
    this.theta = new Float64Array(this.size);
  }

  /**
   * Independent normal weights and biases with standard deviation scale / sqrt(inputs of the layer).
   *
   * @param {number} seed @param {number} scale
   */
  initial(seed, scale) {
    const theta = normal(this.size, seed);
    for (let l = 0; l < this.layers; l++) {
      const deviation = scale / Math.sqrt(this.widths[l]);
      for (let i = this.offsets[l]; i < this.offsets[l + 1]; i++) theta[i] *= deviation;
    }
    return theta;
  }

  /**
   * Forward pass at theta.
   *
   * @param {Float64Array} theta
   * @returns {number} the loss
   */
  loss(theta) {
    this.theta.set(theta);
    for (let l = 0; l < this.layers; l++) {
      affine(this.#shape(l), this.theta, this.activations[l], this.activations[l + 1]);
      if (l < this.layers - 1) {
        const a = this.activations[l + 1];
        for (let i = 0; i < a.length; i++) a[i] = Math.tanh(a[i]);
      }
    }
    const f = this.activations[this.layers];
    let sum = 0;
    for (let i = 0; i < f.length; i++) sum += (f[i] - this.targets[i]) ** 2;
    return sum / (2 * this.examples);
  }

  /** @param {number} l @returns {Shape} of layer l */
  #shape(l) {
    return {
      offset: this.offsets[l],
      inputs: this.widths[l],
      outputs: this.widths[l + 1],
      examples: this.examples,
    };
  }

  /** The outputs at the last theta, one for each example. */
  outputs() {
    return this.activations[this.layers];
  }

  /**
   * Loss and gradient at theta. After a call without `chosen`, {@link product} belongs to theta.
   *
   * @param {Float64Array} theta @param {Float64Array} gradient is overwritten
   * @param {number[]} [chosen] examples of a minibatch, over which the gradient is the mean
   * @returns {number} the loss on all examples
   */
  gradient(theta, gradient, chosen) {
    const loss = this.loss(theta);
    const { layers, activations, errors, deltas } = this;
    gradient.fill(0);
    const f = activations[layers];
    const error = deltas[layers].fill(0);
    const count = chosen?.length ?? this.examples;
    for (let i = 0; i < count; i++) {
      const example = chosen?.[i] ?? i;
      error[example] = (f[example] - this.targets[example]) / count;
    }
    for (let l = layers - 1; l >= 0; l--) {
      outer(this.#shape(l), gradient, deltas[l + 1], activations[l]);
      if (l === 0) break;
      errors[l].fill(0);
      backward(this.#shape(l), this.theta, deltas[l + 1], errors[l]);
      const a = activations[l];
      for (let i = 0; i < a.length; i++) deltas[l][i] = errors[l][i] * (1 - a[i] * a[i]);
    }
    return loss;
  }

  /**
   * The product of the Hessian with a vector, at the theta of the last {@link gradient}.
   *
   * @param {Float64Array} v @param {Float64Array} result is overwritten
   */
  product(v, result) {
    const { layers, activations, errors, deltas, rActivations, rDeltas, theta } = this;
    // Forward: the derivative of every activation along v. The inputs do not depend on theta.
    for (let l = 0; l < layers; l++) {
      affine(this.#shape(l), v, activations[l], rActivations[l + 1]);
      if (l > 0) linear(this.#shape(l), theta, rActivations[l], rActivations[l + 1]);
      if (l < layers - 1) {
        const a = activations[l + 1];
        const r = rActivations[l + 1];
        for (let i = 0; i < a.length; i++) r[i] *= 1 - a[i] * a[i];
      }
    }
    // Backward: that of every error, by the product rule.
    result.fill(0);
    for (let i = 0; i < this.examples; i++) {
      rDeltas[layers][i] = rActivations[layers][i] / this.examples;
    }
    for (let l = layers - 1; l >= 0; l--) {
      outer(this.#shape(l), result, rDeltas[l + 1], activations[l]);
      if (l === 0) break;
      weights(this.#shape(l), result, deltas[l + 1], rActivations[l]);
      const r = rDeltas[l];
      r.fill(0);
      backward(this.#shape(l), v, deltas[l + 1], r);
      backward(this.#shape(l), theta, rDeltas[l + 1], r);
      const a = activations[l];
      const e = errors[l];
      const ra = rActivations[l];
      for (let i = 0; i < a.length; i++) {
        r[i] = r[i] * (1 - a[i] * a[i]) - 2 * e[i] * a[i] * ra[i];
      }
    }
  }
}

/**
 * A layer: where its weights W begin, their shape, and the number of examples.
 *
 * @typedef {{offset: number, inputs: number, outputs: number, examples: number}} Shape
 */

/**
 * out = W x + b for every example.
 *
 * @param {Shape} layer @param {Float64Array} theta @param {Float64Array} x @param {Float64Array} out
 */
function affine(layer, theta, x, out) {
  const { offset, inputs, outputs, examples } = layer;
  const biases = offset + inputs * outputs;
  for (let i = 0; i < examples; i++) {
    for (let j = 0; j < outputs; j++) out[i * outputs + j] = theta[biases + j];
  }
  linear(layer, theta, x, out);
}

/**
 * out += W x for every example.
 *
 * @param {Shape} layer @param {Float64Array} theta @param {Float64Array} x @param {Float64Array} out
 */
function linear({ offset, inputs, outputs, examples }, theta, x, out) {
  for (let i = 0; i < examples; i++) {
    const row = i * inputs;
    for (let j = 0; j < outputs; j++) {
      const w = offset + j * inputs;
      let sum = 0;
      for (let k = 0; k < inputs; k++) sum += theta[w + k] * x[row + k];
      out[i * outputs + j] += sum;
    }
  }
}

/**
 * out += W^T delta for every example.
 *
 * @param {Shape} layer @param {Float64Array} theta
 * @param {Float64Array} delta @param {Float64Array} out
 */
function backward({ offset, inputs, outputs, examples }, theta, delta, out) {
  for (let i = 0; i < examples; i++) {
    const row = i * inputs;
    for (let j = 0; j < outputs; j++) {
      const d = delta[i * outputs + j];
      const w = offset + j * inputs;
      for (let k = 0; k < inputs; k++) out[row + k] += theta[w + k] * d;
    }
  }
}

/**
 * Add the sum over the examples of delta x^T to the place of W.
 *
 * @param {Shape} layer @param {Float64Array} result
 * @param {Float64Array} delta @param {Float64Array} x
 */
function weights({ offset, inputs, outputs, examples }, result, delta, x) {
  for (let i = 0; i < examples; i++) {
    const row = i * inputs;
    for (let j = 0; j < outputs; j++) {
      const d = delta[i * outputs + j];
      const w = offset + j * inputs;
      for (let k = 0; k < inputs; k++) result[w + k] += d * x[row + k];
    }
  }
}

/**
 * The same, and the sum of delta to the place of the biases.
 *
 * @param {Shape} layer @param {Float64Array} result
 * @param {Float64Array} delta @param {Float64Array} x
 */
function outer(layer, result, delta, x) {
  weights(layer, result, delta, x);
  const biases = layer.offset + layer.inputs * layer.outputs;
  for (let i = 0; i < layer.examples; i++) {
    for (let j = 0; j < layer.outputs; j++) result[biases + j] += delta[i * layer.outputs + j];
  }
}
