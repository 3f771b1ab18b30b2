/** Runs that a reader keeps, to be drawn behind others and saved with them. */
import { button } from "./controls.js";
import { format, h } from "./dom.js";
import { thinned } from "./history.js";

/** @typedef {import("./plot.js").Painter} Painter */
/** @typedef {import("./plot.js").Entry} Entry */

/** Colors that nothing else has, in turn. There are at most so many runs: the next takes the oldest's. */
const COLORS = /** @type {const} */ (["violet", "olive", "magenta", "brown"]);

/**
 * @typedef {object} Kept
 * @property {number} number from 1, in the order of keeping
 * @property {string} name which begins with the number
 * @property {typeof COLORS[number]} color
 */

/**
 * Two buttons, to keep the present run and to forget all that were kept.
 *
 * @template {{name: string}} Run
 * @param {object} options
 * @param {() => Run | undefined} options.take the present run as it is now, if it has begun
 * @param {() => void} options.changed called when there is another run to be drawn, or none
 */
export function keeper({ take, changed }) {
  /** @type {(Run & Kept)[]} */
  const runs = [];
  let count = 0;
  const said = h("span", { class: "pg-said", role: "status" });
  const keep = button("Keep this run", () => {
    const run = take();
    if (!run) {
      if (runs.length === 0) said.textContent = "Nothing is kept yet: press Play or Step first.";
      return;
    }
    count += 1;
    if (runs.length === COLORS.length) runs.shift();
    const name = `${count}: ${run.name}`;
    runs.push({ ...run, number: count, name, color: COLORS[(count - 1) % COLORS.length] });
    said.textContent = `Run ${count} stays, dashed. Now change something.`;
    show();
  });
  const forget = button(
    "Forget the kept",
    () => {
      runs.length = count = 0;
      said.textContent = "";
      // It is about to disappear with the focus on it.
      keep.focus();
      show();
    },
    { hidden: true },
  );

  function show() {
    forget.hidden = runs.length === 0;
    changed();
  }

  return {
    element: h("div", { class: "pg-actions pg-keeping" }, keep, forget, said),
    runs: () => runs,
  };
}

/** @param {Kept[]} runs @param {string} [what] is drawn of them, where this is not plain @returns {Entry[]} */
export function keptEntries(runs, what) {
  return [
    .../** @type {Entry[]} */ (
      what && runs.length ? [{ text: `${what} of kept runs:`, color: "text", shape: "words" }] : []
    ),
    ...runs.map(({ name, color }) => ({ text: name, color, shape: /** @type {const} */ ("dashed") })),
  ];
}

/** What is said of kept runs after what a plot says. @param {Kept[]} runs @param {string} [what] */
export function keptWords(runs, what = "") {
  const names = runs.map(({ name }) => name).join("; ");
  return names && ` Behind it, dashed, ${what}${what && " of "}kept runs: ${names}.`;
}

/**
 * Kept runs along points of the plot, dashed, each with its number where it ends or leaves.
 *
 * @template {Kept} Run
 * @param {Painter} p @param {Run[]} runs
 * @param {(run: Run) => [ArrayLike<number>, ArrayLike<number>]} points
 */
export function traceKept(p, runs, points) {
  /** @type {number[][]} */
  const taken = [];
  for (const run of runs) {
    const [xs, ys] = points(run);
    p.line(xs, ys, { color: run.color, width: 1.6, dash: [5, 3] });
    const last = lastInside(p, xs, ys);
    if (last < 0) continue;
    const right = p.x.range()[1] - p.x(xs[last]) < 14;
    const high = p.y(ys[last]) - p.y.range()[1] < 18;
    const place = [p.x(xs[last]), p.y(ys[last])];
    // Runs that end in one place have their numbers side by side.
    const before = taken.filter(([x, y]) => Math.hypot(x - place[0], y - place[1]) < 12).length;
    taken.push(place);
    p.text(String(run.number), xs[last], ys[last], {
      align: right ? "right" : "left",
      dx: right ? -4 - 10 * before : 4 + 10 * before,
      dy: high ? 9 : -9,
    });
  }
}

/** The last point within the axes, -1 for none. @param {Painter} p @param {ArrayLike<number>} xs @param {ArrayLike<number>} ys */
function lastInside(p, xs, ys) {
  const [left, right] = p.x.domain();
  const [bottom, top] = p.y.domain();
  for (let i = ys.length - 1; i >= 0; i--) {
    if (xs[i] >= left && xs[i] <= right && ys[i] >= bottom && ys[i] <= top) return i;
  }
  return -1;
}

/**
 * Points of a curve over steps, no more of them than the plot can show.
 *
 * @param {Painter} p @param {ArrayLike<number>} values by step
 * @param {(step: number) => number} at where a step stands on the axis
 * @returns {[number[], number[]]}
 */
export function curvePoints(p, values, at) {
  const [left, right] = p.x.range();
  const { xs, ys } = thinned(values, 0, values.length - 1, Math.floor(right - left));
  return [xs.map(at), ys];
}

/**
 * The values in which a run differs from a base, each after its symbol.
 *
 * @param {Record<string, number>} values @param {Record<string, number>} base
 * @param {Record<string, string>} symbols by key
 */
export function differences(values, base, symbols) {
  return Object.entries(symbols)
    .filter(([key]) => values[key] !== base[key])
    .map(([key, symbol]) => `${symbol} = ${format(values[key])}`);
}
