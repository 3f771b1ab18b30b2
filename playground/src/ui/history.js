/** What a run has recorded so far, and how to draw it without a point for every step. */

export class History {
  length = 0;
  /** @type {Record<string, Float64Array>} */
  #columns = {};

  /** @param {readonly string[]} names */
  constructor(names) {
    this.names = names;
    for (const name of names) this.#columns[name] = new Float64Array(1024);
  }

  /** Append rows, laid out one after the other. @param {Float64Array} rows */
  append(rows) {
    const width = this.names.length;
    const count = rows.length / width;
    while (this.length + count > this.#columns[this.names[0]].length) {
      for (const name of this.names) {
        const longer = new Float64Array(2 * this.#columns[name].length);
        longer.set(this.#columns[name]);
        this.#columns[name] = longer;
      }
    }
    this.names.forEach((name, j) => {
      const column = this.#columns[name];
      for (let i = 0; i < count; i++) column[this.length + i] = rows[i * width + j];
    });
    this.length += count;
  }

  /** All values of a column. @param {string} name */
  column(name) {
    return this.#columns[name].subarray(0, this.length);
  }

  /** The latest value. @param {string} name */
  last(name) {
    return this.#columns[name][this.length - 1];
  }
}

/**
 * Points of a line through (i, values[i]) for i from first to last: all of them, or, where there
 * are many to a column of pixels, the least and the largest of each column, in their order.
 *
 * @param {ArrayLike<number>} values @param {number} first @param {number} last
 * @param {number} columns
 * @returns {{xs: number[], ys: number[]}}
 */
export function thinned(values, first, last, columns) {
  /** @type {number[]} */
  const xs = [];
  /** @type {number[]} */
  const ys = [];
  const put = (/** @type {number} */ i) => {
    xs.push(i);
    ys.push(values[i]);
  };
  const per = (last - first + 1) / columns;
  if (per <= 3) {
    for (let i = first; i <= last; i++) put(i);
    return { xs, ys };
  }
  // Columns have fixed edges, so that points do not flicker while the line grows.
  const width = Math.ceil(per);
  for (let left = first - (first % width); left <= last; left += width) {
    let low = -1;
    let high = -1;
    for (let i = Math.max(left, first); i <= Math.min(left + width - 1, last); i++) {
      if (Number.isNaN(values[i])) continue;
      if (low < 0 || values[i] < values[low]) low = i;
      if (high < 0 || values[i] > values[high]) high = i;
    }
    if (low < 0) put(Math.max(left, first));
    else if (low === high) put(low);
    else {
      put(Math.min(low, high));
      put(Math.max(low, high));
    }
  }
  return { xs, ys };
}

/**
 * The least of 1, 1.5, 2, 3, 5, 7 times a power of ten that is not below a value.
 *
 * @param {number} value > 0
 */
export function ceiling(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * ([1, 1.5, 2, 3, 5, 7].find((c) => c * power >= value * (1 - 1e-12)) ?? 10);
}
