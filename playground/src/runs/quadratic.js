/** A run on the quadratic, and what is known about it. */
import * as quadratic from "../lib/quadratic.js";

/** @type {quadratic.Method[]} */
const METHODS = ["gd", "heavy_ball", "nesterov"];

/** Run a method from what the controls say. @param {Record<string, number>} given */
export function compute(given) {
  const { eta, beta, lambda, ratio, x, y, steps } = given;
  const method = METHODS[given.method];
  /** @type {[number, number]} */
  const lambdas = [lambda, ratio * lambda];
  const path = quadratic.iterate(method, lambdas, [x, y], eta, steps, beta);
  const radius = (/** @type {number} */ value) =>
    quadratic.spectralRadius(method, value, eta, beta);
  return {
    key: JSON.stringify(given),
    method,
    eta,
    beta,
    lambdas,
    path,
    losses: path.map((point) => quadratic.loss(lambdas, point)),
    times: path.map((_, t) => t),
    radii: /** @type {[number, number]} */ ([radius(lambdas[0]), radius(lambdas[1])]),
    // The threshold in the eigenvalue is a constant over eta.
    edge: (quadratic.stabilityThreshold(method, eta, beta) * eta) / lambda,
  };
}
