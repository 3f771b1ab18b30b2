/**
 * An oscillation that comes late: the sharpness rises through 2/eta at a steady rate, and gradient
 * descent, the central flow and the gradient flow take it from there. Gradient descent is the coupled
 * dynamics of coupled.js; the two flows of the same model can be written down.
 */

/** The excess that the gradient flow has at step t. @param {number} excess at step 0 @param {number} eta @param {number} alpha @param {number} t */
export function gradientFlow(excess, eta, alpha, t) {
  return excess + eta * alpha * t;
}

/** The same of the central flow: it stays at the edge. @param {number} excess below 0 @param {number} eta @param {number} alpha @param {number} t */
export function centralFlow(excess, eta, alpha, t) {
  return Math.min(0, gradientFlow(excess, eta, alpha, t));
}

/** The size of the oscillation in the central flow at the edge, the root of its variance. @param {number} alpha @param {number} beta */
export function heldSize(alpha, beta) {
  return Math.sqrt((2 * alpha) / beta);
}

/**
 * |x_t| as long as it does not act back: |x_0| times the product of |eta lambda_1 - 1| along the
 * gradient flow.
 *
 * @param {object} options
 * @param {number} options.x @param {number} options.excess
 * @param {number} options.eta @param {number} options.alpha @param {number} options.steps
 */
export function growth({ x, excess, eta, alpha, steps }) {
  const sizes = [Math.abs(x)];
  for (let t = 0; t < steps; t++) {
    sizes.push(sizes[t] * Math.abs(1 + eta * gradientFlow(excess, eta, alpha, t)));
  }
  return sizes;
}

/** The first step at which a size has reached a level from below; -1 if it does not. @param {ArrayLike<number>} sizes @param {number} level @param {number} after no earlier than this step */
export function arrival(sizes, level, after) {
  for (let t = Math.max(0, Math.ceil(after)); t < sizes.length; t++) if (sizes[t] >= level) return t;
  return -1;
}
