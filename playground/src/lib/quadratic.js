/**
 * Gradient methods on a quadratic loss, one coordinate along each eigenvector: what
 * flatminima.theory.quadratic computes for a diagonal Hessian. Names are those of the Python
 * library.
 */

/** @typedef {"gd" | "heavy_ball" | "nesterov" | "adam"} Method adam with its second moment frozen at one */

/** The loss, half the sum of lambda x^2. @param {number[]} lambdas @param {number[]} x */
export function loss(lambdas, x) {
  return lambdas.reduce((sum, lambda, k) => sum + x[k] * (lambda * x[k]), 0) / 2;
}

/**
 * The iterates of a method from rest, the start first.
 *
 * @param {Method} method
 * @param {number[]} lambdas the eigenvalues
 * @param {number[]} start the coordinates of the start along the eigenvectors
 * @param {number} eta the learning rate
 * @param {number} steps
 * @param {number} beta the momentum, for adam beta1; gd takes none
 * @returns {number[][]} the coordinates at each step
 */
export function iterate(method, lambdas, start, eta, steps, beta) {
  let x = [...start];
  let memory = x.map(() => 0);
  const path = [x];
  for (let t = 0; t < steps; t++) {
    const point = method === "nesterov" ? x.map((v, k) => v + beta * memory[k]) : x;
    const kept = method === "gd" ? 0 : beta;
    const share = method === "adam" ? 1 - beta : 1;
    memory = memory.map((m, k) => kept * m + share * (-eta * (lambdas[k] * point[k])));
    x = x.map((v, k) => v + memory[k]);
    path.push(x);
  }
  return path;
}

/**
 * Trace p and determinant q of the matrix that takes (x_t, x_{t-1}) one step further (Q3).
 *
 * @param {Method} method @param {number} lambda @param {number} eta @param {number} beta
 * @returns {[number, number]}
 */
export function companion(method, lambda, eta, beta) {
  const z = eta * lambda;
  if (method === "gd") return [1 - z, 0];
  if (method === "heavy_ball") return [1 + beta - z, beta];
  if (method === "adam") return [1 + beta - (1 - beta) * z, beta];
  return [(1 + beta) * (1 - z), beta * (1 - z)];
}

/**
 * The larger absolute value of the two roots of mu^2 - p mu + q: the factor per step in the end.
 *
 * @param {Method} method @param {number} lambda @param {number} eta @param {number} beta
 */
export function spectralRadius(method, lambda, eta, beta) {
  const [p, q] = companion(method, lambda, eta, beta);
  const inside = p * p - 4 * q;
  return inside < 0 ? Math.sqrt(q) : (Math.abs(p) + Math.sqrt(inside)) / 2;
}

/** Whether the two roots are a complex pair, so that iterates turn. @param {Method} method @param {number} lambda @param {number} eta @param {number} beta */
export function turns(method, lambda, eta, beta) {
  const [p, q] = companion(method, lambda, eta, beta);
  return p * p < 4 * q;
}

/**
 * The eigenvalue below which a method is stable (Q1, Q3).
 *
 * @param {Method} method @param {number} eta @param {number} beta
 */
export function stabilityThreshold(method, eta, beta) {
  const factor = {
    gd: 2,
    heavy_ball: 2 * (1 + beta),
    nesterov: (2 * (1 + beta)) / (1 + 2 * beta),
    adam: (2 * (1 + beta)) / (1 - beta),
  }[method];
  return factor / eta;
}

/**
 * The step 2 / (lambda_1 + lambda_n) of gradient descent, and its rate.
 *
 * @param {number[]} lambdas positive
 * @returns {[number, number]}
 */
export function bestLearningRate(lambdas) {
  const high = Math.max(...lambdas);
  const low = Math.min(...lambdas);
  return [2 / (high + low), (high - low) / (high + low)];
}
