/** Random numbers that a seed determines, so that a shared address shows the same run. */

/**
 * Uniform numbers in [0, 1): the generator mulberry32.
 *
 * @param {number} seed an integer
 */
export function uniform(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/**
 * Standard normal numbers, by the method of Box and Muller.
 *
 * @param {number} count @param {number} seed an integer
 */
export function normal(count, seed) {
  const next = uniform(seed);
  const values = new Float64Array(count);
  for (let i = 0; i < count; i += 2) {
    // 1 - u lies in (0, 1], where the logarithm is finite.
    const radius = Math.sqrt(-2 * Math.log(1 - next()));
    const turn = 2 * Math.PI * next();
    values[i] = radius * Math.cos(turn);
    if (i + 1 < count) values[i + 1] = radius * Math.sin(turn);
  }
  return values;
}
