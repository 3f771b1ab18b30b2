/** An orbit of one variable, and what is known about it. */
import * as maps from "../lib/maps.js";

/** Steps after which an orbit shows where it lives in the long run. */
const SETTLE = 4000;
const LONGEST = 32;

/**
 * The losses to choose from: how they are made from the skew, the amplitude of the symmetric cycle
 * where it is known, the part of the line and the learning rates to show.
 *
 * @type {{
 *   name: string,
 *   make: (skew: number) => maps.Loss,
 *   cycle: (eta: number) => number,
 *   reach: number,
 *   rates: [number, number],
 * }[]}
 */
export const LOSSES = [
  {
    name: "x²/2 + s x³/6 − x⁴/4",
    make: (skew) => maps.quartic(1, -1, skew),
    cycle: (eta) => maps.periodTwoOrbit(1, -1, eta),
    reach: 1.15,
    rates: [1.5, 4],
  },
  {
    name: "x²/2 + s x³/6 + x⁴/4",
    make: (skew) => maps.quartic(1, 1, skew),
    cycle: (eta) => maps.periodTwoOrbit(1, 1, eta),
    reach: 1.15,
    rates: [1, 3],
  },
  {
    name: "√(1 + x²) − 1",
    make: () => maps.wide,
    cycle: (eta) => (eta > 2 ? Math.sqrt((eta * eta) / 4 - 1) : NaN),
    reach: 2.2,
    rates: [1.5, 4],
  },
];

/** An orbit from what the controls say, and where it lives in the long run. @param {Record<string, number>} given */
export function compute(given) {
  const { eta, skew, x: start, steps } = given;
  const { make, cycle, reach, rates } = LOSSES[given.loss];
  const loss = make(skew);
  const x = maps.orbit(loss, start, eta, steps);
  const lost = x.findIndex(Number.isNaN);
  // A chosen orbit, not the diagram's, as several attractors may coexist.
  const late = maps.orbit(loss, start, eta, SETTLE + 4 * LONGEST - 1, 4 * LONGEST);
  const diverged = Number.isNaN(late[late.length - 1]);
  const period = diverged ? 0 : maps.cycleLength(late, LONGEST);
  const flat = given.loss === 2 || skew === 0;
  return {
    key: JSON.stringify(given),
    shape: `${given.loss} ${skew}`,
    loss,
    eta,
    // With a skew there is no symmetric cycle.
    cycle: flat ? cycle : () => NaN,
    reach,
    rates,
    x,
    times: Array.from(x.keys()),
    last: lost < 0 ? steps : lost - 1,
    settled: diverged ? [] : Array.from(late),
    period,
    multiplier: period > 0 ? maps.multiplier(loss, late.subarray(0, period), eta) : NaN,
  };
}
